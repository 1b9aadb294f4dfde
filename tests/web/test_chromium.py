"""The status page in a real browser: nothing overflows, errs, leaks or runs that should not; keys are enough."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest

from checkpointd.postgres.store import Store
from checkpointd.web import server as web
from support import hostile
from support.browser import CHROMIUM, Tab, chromium
from support.harness import sync
from support.provider import JOB, Provider, checkpoint, page
from support.stored import fill
from support.verbs import environment, running, until_ok

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]

WINDOWS = {"phone": (360, 740), "desktop": (1280, 900)}
LEAST_CONTRAST = 4.5  # WCAG 2 AA, for text of any size

FAINT = """
(() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const parts = (colour) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const of = walker.currentNode.parentElement, style = getComputedStyle(of);
    if (!walker.currentNode.data.trim() || style.visibility === "hidden" || !of.getClientRects().length) continue;
    let behind = of;
    while (behind && parts(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const colours = [of instanceof SVGElement ? style.fill : style.color, getComputedStyle(behind).backgroundColor];
    const [low, high] = colours.map((c) => light(parts(c))).sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < LEAST) found.push([walker.currentNode.data.trim().slice(0, 40), ...colours]);
  }
  return found;
})()""".replace("LEAST", str(LEAST_CONTRAST))
"""Texts whose colour is too near that of what is behind them."""

CUT = """
[...document.querySelectorAll(".chart")].flatMap((figure) => {
  const room = figure.getBoundingClientRect();
  return [...figure.querySelectorAll("text, .says *")].map((text) => [text.textContent, text.getBoundingClientRect()])
    .filter(([, box]) => box.left < room.left - 0.5 || box.right > room.right + 0.5).map(([text]) => text);
})"""
"""Texts of charts, shown or not yet, that end beyond the room that a chart has."""

CROWDED = """
[...document.querySelectorAll(".plot")].flatMap((plot) => {
  const marks = [...plot.querySelectorAll(".grid text")].filter((text) => text.getAttribute("y") === "100%")
    .map((text) => [text.textContent, text.getBoundingClientRect()]).sort(([, a], [, b]) => a.left - b.left);
  return marks.filter(([, box], n) => n && box.left < marks[n - 1][1].right + 2).map(([text]) => text);
})"""
"""Marks of steps that stand upon the ones before."""

SIDEWAYS = """
[...document.querySelectorAll("main *")].filter((of) => getComputedStyle(of).overflowX === "auto")
  .filter((of) => of.scrollWidth > of.clientWidth).map((of) => of.className)"""
"""What must be scrolled sideways to be read."""


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    """Start a browser."""
    async with chromium() as opened:
        yield opened


@pytest.fixture
async def site(port: int, store: Store) -> AsyncIterator[str]:
    """Serve the status port over the test's database."""
    async with web.serve("127.0.0.1", port, list, store):
        yield f"http://127.0.0.1:{port}"


async def _look_everywhere(tab: Tab, site: str, paths: dict[str, str], folder: Path) -> None:
    """Look at pages on a phone and on a desk, by day and by night; each must be sound, and its picture is kept."""
    for name, path in paths.items():
        for window, size in WINDOWS.items():
            for theme in ("light", "dark"):
                await tab.look(*size, dark=theme == "dark")
                await tab.open(site + path)
                where = f"{name}-{window}-{theme}"
                await tab.screenshot(folder / f"{where}.png")
                assert size[0] >= await tab.ask("document.documentElement.scrollWidth"), where
                assert [] == await tab.ask(FAINT), where
                assert [] == await tab.ask(CUT), where
                assert [] == await tab.ask(CROWDED), where
                assert "phone" != window or [] == await tab.ask(SIDEWAYS), where
                assert 1 == await tab.ask("document.querySelectorAll('h1').length"), where
                assert (folder / f"{where}.png").stat().st_size > 5_000, where
    assert [] == tab.errors
    assert {site.removeprefix("http://")} == {url.split("/")[2] for url in tab.requests}


async def test_empty(tab: Tab, site: str, tmp_path: Path) -> None:
    """Without jobs the page is sound; so is the one that says that there is no such job."""
    await _look_everywhere(tab, site, {"empty": "/", "unfound": "/?q=nothing"}, tmp_path)
    await tab.open(f"{site}/jobs/a/b")
    assert "Not found" == await tab.ask("document.querySelector('h1').textContent")


async def test_large(tab: Tab, site: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """With ten thousand jobs the pages are sound, and each is there in less than a fifth of a second."""
    await fill(sql, jobs=10_000, checkpoints=10)
    job = await sql.fetchval("select id from fine_tuning.jobs where status = 'running' limit 1")
    paths = {"jobs": "/", "last": "/?page=200", "found": "/?q=running+gpt-4.1", "job": f"/jobs/large/{job}"}
    await _look_everywhere(tab, site, paths, tmp_path)
    await tab.look(*WINDOWS["phone"], dark=False)
    await tab.open(site)
    legend = await tab.ask("""(() => {
      const {left, top, width, height} = document.querySelector(".jobs .legend").getBoundingClientRect();
      return document.elementFromPoint(left + width / 2, top + height / 2).closest(".legend")?.textContent;
    })()""")
    assert "train valid" == legend
    async with aiohttp.ClientSession() as http:
        for path in paths.values():
            assert 0.2 > await _quickest(http, site + path), path


async def test_large_numbers(tab: Tab, site: str, store: Store, provider: Provider, tmp_path: Path) -> None:
    """Steps and losses of a hundred thousand and more, and changes of metrics with long names, can be read."""
    for late in ({}, {"full_valid_mean_token_accuracy": 0.87654321}):
        listed = [
            checkpoint(n, train_loss=2e10 / n, valid_loss=-3.5e10 / n, full_valid_loss=-3.6e10 / n, **late)
            for n in range(100_000, 700_001, 25_000)
        ]
        provider.checkpoints[JOB] = page(listed)
        await sync(store, provider)
    await _look_everywhere(tab, site, {"job": f"/jobs/test/{JOB}"}, tmp_path)


async def _quickest(http: aiohttp.ClientSession, url: str) -> float:
    """Return the seconds of the quickest answer of some: what the page itself takes, whatever else the machine does."""
    times: list[float] = []
    until = perf_counter() + 60
    while not times or (min(times) >= 0.2 and perf_counter() < until):
        started = perf_counter()
        async with http.get(url) as answer:
            await answer.read()
        times.append(perf_counter() - started)
    return min(times)


async def test_hostile(tab: Tab, site: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Names that try to script the page, to leave it or to burst it do nothing of that."""
    await hostile.store_hostile(sql)
    jobs = [row["id"] for row in await sql.fetch("select id from fine_tuning.jobs order by created_at desc")]
    paths = {f"job-{n}": f"/jobs/hostile/{quote(job, safe='')}" for n, job in enumerate(jobs)}
    await _look_everywhere(tab, site, {"jobs": "/", "search": f"/?q={quote(hostile.EVERYTHING)}", **paths}, tmp_path)
    for path in ("/", *paths.values()):
        await tab.open(site + path)
        assert (await tab.ask("document.title")).endswith(" · checkpointd")
        links = await tab.ask("[...document.links].map((link) => link.host)")
        assert {site.removeprefix("http://")} == set(links)
    # The way that a person takes: by the links, which must lead to the job that they name.
    await tab.open(site)
    for n, job in enumerate(jobs):
        await tab.open(await tab.ask(f"document.querySelectorAll('.jobs a')[{n}].href"))
        assert job == await tab.ask("document.querySelector('h1').textContent")
        await tab.open(site)


async def test_values_by_mouse_and_by_key(tab: Tab, site: str, store: Store, provider: Provider) -> None:
    """A point tells its values when it is pointed at and when it has the focus; a chart is one stop of the tab key."""
    losses = {10: 2.0, 20: 1.5, 30: 1.75}
    provider.checkpoints[JOB] = page([checkpoint(n, full_valid_loss=loss) for n, loss in losses.items()])
    await sync(store, provider)
    await tab.look(1280, 900, dark=False)
    await tab.open(f"{site}/jobs/test/{JOB}")
    shown = """[...document.querySelectorAll("#chart-1-plot .says")]
      .filter((says) => getComputedStyle(says).visibility === "visible")
      .map((says) => says.textContent.trim().split(/\\s+/).join(" "))"""
    await tab.shows(["step 30 · latest train 0.0333 full valid 1.7500"], shown)
    x, y = await tab.ask("""(() => {
      const at = document.querySelector("#chart-1-plot .at rect").getBoundingClientRect();
      return [at.x + at.width / 2, at.y + at.height / 2];
    })()""")
    await tab.point(x, y)
    await tab.shows(["step 10 train 0.1000 full valid 2.0000"], shown)
    await tab.point(1, 1)
    await tab.ask("document.querySelector('.deploy button').focus()")
    await tab.press("Tab")
    await tab.shows(["step 20 · best train 0.0500 full valid 1.5000"], shown)
    for key, step in (
        ("ArrowRight", 30),
        ("ArrowRight", 30),
        ("ArrowLeft", 20),
        ("Home", 10),
        ("ArrowLeft", 10),
        ("End", 30),
    ):
        await tab.press(key)
        await tab.shows([str(step)], f"{shown}.map((text) => text.match(/^step (\\d+)/)[1])")
    await tab.press("Tab")
    await tab.shows(True, "!document.activeElement.closest('#chart-1-plot')")
    assert [] == tab.errors


async def test_keys_are_enough(tab: Tab, site: str, sql: asyncpg.Connection) -> None:
    """Search, paging, the way past the header and to a job need no mouse, and the focus is always seen."""
    await fill(sql, jobs=120, checkpoints=2)
    await tab.look(1280, 900, dark=False)
    await tab.open(site)
    focus = "document.activeElement.textContent.trim() || document.activeElement.id"
    await tab.press("Tab")
    await tab.shows("Skip to the content", focus)
    assert 0 <= await tab.ask("document.activeElement.getBoundingClientRect().top")
    await tab.press("Enter")
    await tab.shows("main", "document.activeElement.id")
    await tab.open(site)
    await tab.press("Tab", "Tab", "Tab")
    await tab.shows("q", focus)
    await tab.press(*"gpt-4.1", "Enter")
    await tab.loaded()
    assert "?q=gpt-4.1" == await tab.ask("location.search")
    assert "80 jobs" in await tab.ask("document.querySelector('.summary').textContent")
    for _ in range(100):
        await tab.press("Tab")
        assert "none" != await tab.ask("getComputedStyle(document.activeElement).outlineStyle")
        if "next" in await tab.ask(focus):
            break
    await tab.press("Enter")
    await tab.loaded()
    assert "?q=gpt-4.1&page=2" == await tab.ask("location.search")
    assert 30 == await tab.ask("document.querySelectorAll('.jobs tbody tr').length")


async def test_copy(tab: Tab, site: str, store: Store, provider: Provider) -> None:
    """A model's name is copied by its button; without scripts one click selects it."""
    provider.checkpoints[JOB] = page([checkpoint(20, valid_loss=1)])
    await sync(store, provider)
    await tab.look(1280, 900, dark=False)
    await tab.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    await tab.open(f"{site}/jobs/test/{JOB}")
    await tab.ask("document.querySelector('.deploy button').focus()")
    await tab.press("Enter")
    model = checkpoint(20)["fine_tuned_model_checkpoint"]
    await tab.shows("copied", "document.querySelector('.deploy button').textContent")
    assert model == await tab.ask("navigator.clipboard.readText()")
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    await tab.open(f"{site}/jobs/test/{JOB}")
    assert "none" == await tab.ask("getComputedStyle(document.querySelector('.deploy button')).display")
    assert "all" == await tab.ask("getComputedStyle(document.querySelector('.deploy code')).userSelect")


async def test_the_demo(tab: Tab, tmp_path: Path) -> None:
    """Who starts the demo sees curves in the browser within a minute, at the address that it prints."""
    started = perf_counter()
    async with running("demo", env=environment(tmp_path, TMPDIR=str(tmp_path))) as demo:
        assert demo.stdout is not None
        line = ""
        while not line.startswith("See the curves: "):
            line = (await demo.stdout.readline()).decode()
        site = line.split()[-1].rstrip("/")
        await until_ok(int(site.rpartition(":")[2]), "/readyz")
        row = "[...document.querySelectorAll('.jobs tr')].find((row) => /epoch [3-9]/.test(row.textContent))"
        await _wait_for(tab, site, f"document.querySelectorAll('.spark').length > 5 && Boolean({row})")
        job = await tab.ask(f"{row}.querySelector('a').pathname")
        await _wait_for(tab, site + job, "document.querySelectorAll('.plot path').length > 1")
        assert perf_counter() - started < 60
        await _look_everywhere(tab, site, {"jobs": "/", "job": job}, tmp_path)
        demo.terminate()
        assert 0 == await asyncio.wait_for(demo.wait(), 60)


async def _wait_for(tab: Tab, url: str, condition: str) -> None:
    """Load a page now and then, as a person does: a browser that does nothing else takes a small machine for itself."""
    await tab.open(url)
    while not await tab.ask(condition):
        await asyncio.sleep(0.5)
        await tab.open(url)
