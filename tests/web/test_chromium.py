"""The status page in a real browser: layout, contrast, scripts, requests, keyboard and mouse."""

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
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]

WINDOWS = {"phone": (360, 740), "desktop": (1280, 900)}
MIN_CONTRAST = 4.5
"""The minimum of WCAG 2 AA for text of any size."""

LOW_CONTRAST = """
(() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const parts = (colour) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || style.visibility === "hidden") continue;
    if (!element.getClientRects().length) continue;
    let behind = element;
    while (behind && parts(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const text = element instanceof SVGElement ? style.fill : style.color;
    const colours = [text, getComputedStyle(behind).backgroundColor];
    const [low, high] = colours.map((c) => luminance(parts(c))).sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < MIN_CONTRAST) found.push([walker.currentNode.data.trim().slice(0, 40), ...colours]);
  }
  return found;
})()""".replace("MIN_CONTRAST", str(MIN_CONTRAST))
"""The texts whose contrast to their background is below the minimum, with both colours."""

OUTSIDE_CHARTS = """
[...document.querySelectorAll(".chart")].flatMap((figure) => {
  const chart = figure.getBoundingClientRect();
  return [...figure.querySelectorAll("text, .readout *")]
    .map((text) => [text.textContent, text.getBoundingClientRect()])
    .filter(([, box]) => box.left < chart.left - 0.5 || box.right > chart.right + 0.5).map(([text]) => text);
})"""
"""The texts of charts, visible or not, that extend beyond the left or right edge of the chart."""

OVERLAPPING_TICKS = """
[...document.querySelectorAll(".plot")].flatMap((plot) => {
  const ticks = [...plot.querySelectorAll(".grid text")].filter((text) => text.getAttribute("y") === "100%")
    .map((text) => [text.textContent, text.getBoundingClientRect()]).sort(([, a], [, b]) => a.left - b.left);
  return ticks.filter(([, box], n) => n && box.left < ticks[n - 1][1].right + 2).map(([text]) => text);
})"""
"""The labels of steps that overlap the label before them."""

SCROLLED_SIDEWAYS = """
[...document.querySelectorAll("main *")].filter((element) => getComputedStyle(element).overflowX === "auto")
  .filter((element) => element.scrollWidth > element.clientWidth).map((element) => element.className)"""
"""The elements that must be scrolled sideways to be read."""


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    """Start a browser."""
    async with chromium() as opened:
        yield opened


@pytest.fixture
async def site(port: int, store: Store) -> AsyncIterator[str]:
    """Serve the status port over the test's database."""
    async with web.serve("127.0.0.1", port, list, store, ["test"]):
        yield f"http://127.0.0.1:{port}"


async def _check_layout(tab: Tab, site: str, paths: dict[str, str], folder: Path) -> None:
    """Check the layout of pages on a phone and on a desktop, in the light and the dark theme, and save a picture."""
    for name, path in paths.items():
        for window, size in WINDOWS.items():
            for theme in ("light", "dark"):
                await tab.resize(*size, dark=theme == "dark")
                await tab.open(site + path)
                where = f"{name}-{window}-{theme}"
                await tab.screenshot(folder / f"{where}.png")
                assert size[0] >= await tab.evaluate("document.documentElement.scrollWidth"), where
                assert [] == await tab.evaluate(LOW_CONTRAST), where
                assert [] == await tab.evaluate(OUTSIDE_CHARTS), where
                assert [] == await tab.evaluate(OVERLAPPING_TICKS), where
                assert "phone" != window or [] == await tab.evaluate(SCROLLED_SIDEWAYS), where
                assert 1 == await tab.evaluate("document.querySelectorAll('h1').length"), where
                assert (folder / f"{where}.png").stat().st_size > 5_000, where
    assert [] == tab.errors
    assert {site.removeprefix("http://")} == {url.split("/")[2] for url in tab.requests}


async def test_empty(tab: Tab, site: str, tmp_path: Path) -> None:
    """The layout is correct without jobs, and a job that does not exist has a page that reports it."""
    await _check_layout(tab, site, {"empty": "/", "no-match": "/?q=nothing", "none": "/compare"}, tmp_path)
    await tab.open(f"{site}/jobs/a/b")
    assert "Not found" == await tab.evaluate("document.querySelector('h1').textContent")


async def test_large(tab: Tab, site: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """With ten thousand jobs the layout is correct, and each page is served in less than 0.2 s."""
    await fill(sql, jobs=10_000, checkpoints=10)
    job = await sql.fetchval("select id from fine_tuning.jobs where status = 'running' limit 1")
    paths = {"jobs": "/", "last": "/?page=200", "found": "/?q=running+gpt-4.1", "job": f"/jobs/large/{job}"}
    paths["compare"] = "/compare?" + "&".join(
        f"job=large/{row['id']}" for row in await sql.fetch("select id from fine_tuning.jobs limit 8")
    )
    await _check_layout(tab, site, paths, tmp_path)
    await tab.resize(*WINDOWS["phone"])
    await tab.open(site)
    legend = await tab.evaluate("""(() => {
      const {left, top, width, height} = document.querySelector(".jobs .legend").getBoundingClientRect();
      return document.elementFromPoint(left + width / 2, top + height / 2).closest(".legend")?.textContent;
    })()""")
    assert "train valid" == legend
    async with aiohttp.ClientSession() as http:
        for path in paths.values():
            assert 0.2 > await _fastest(http, site + path), path


async def test_large_numbers(tab: Tab, site: str, store: Store, provider: Provider, tmp_path: Path) -> None:
    """The layout is correct for steps and losses above 100,000, and for changes of metrics with long names."""
    for late in ({}, {"full_valid_mean_token_accuracy": 0.87654321}):
        listed = [
            checkpoint(n, train_loss=2e10 / n, valid_loss=-3.5e10 / n, full_valid_loss=-3.6e10 / n, **late)
            for n in range(100_000, 700_001, 25_000)
        ]
        provider.checkpoints[JOB] = page(listed)
        await sync(store, provider)
    await _check_layout(tab, site, {"job": f"/jobs/test/{JOB}"}, tmp_path)


async def _fastest(http: aiohttp.ClientSession, url: str) -> float:
    """Return the seconds of the fastest of several requests: other programs on this machine delay some of them."""
    times: list[float] = []
    until = perf_counter() + 60
    while not times or (min(times) >= 0.2 and perf_counter() < until):
        started = perf_counter()
        async with http.get(url) as response:
            await response.read()
        times.append(perf_counter() - started)
    return min(times)


async def test_hostile(tab: Tab, site: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Names that contain scripts, links or very long words run no script, load nothing, and keep the layout correct."""
    await hostile.store_hostile(sql)
    jobs = [row["id"] for row in await sql.fetch("select id from fine_tuning.jobs order by created_at desc")]
    paths = {f"job-{n}": f"/jobs/hostile/{quote(job, safe='')}" for n, job in enumerate(jobs)}
    compare = "/compare?" + "&".join(f"job={quote(f'hostile/{quote(job, safe=str())}', safe='')}" for job in jobs)
    others = {"jobs": "/", "search": f"/?q={quote(hostile.EVERYTHING)}", "compare": compare}
    await _check_layout(tab, site, {**others, **paths}, tmp_path)
    for path in ("/", *paths.values()):
        await tab.open(site + path)
        assert (await tab.evaluate("document.title")).endswith(" · checkpointd")
        links = await tab.evaluate("[...document.links].map((link) => link.host)")
        assert {site.removeprefix("http://")} == set(links)
    # The link of each job leads to the page of this job.
    await tab.open(site)
    for n, job in enumerate(jobs):
        await tab.open(await tab.evaluate(f"document.querySelectorAll('.jobs a')[{n}].href"))
        assert job == await tab.evaluate("document.querySelector('h1').textContent")
        await tab.open(site)


async def test_values_by_mouse_and_by_key(tab: Tab, site: str, store: Store, provider: Provider) -> None:
    """A point shows its values under the mouse and with the focus. The tab key stops once at a chart."""
    losses = {10: 2.0, 20: 1.5, 30: 1.75}
    provider.checkpoints[JOB] = page([checkpoint(n, full_valid_loss=loss) for n, loss in losses.items()])
    await sync(store, provider)
    await tab.resize(1280, 900)
    await tab.open(f"{site}/jobs/test/{JOB}")
    shown = """[...document.querySelectorAll("#chart-1-plot .readout")]
      .filter((readout) => getComputedStyle(readout).visibility === "visible")
      .map((readout) => readout.textContent.trim().split(/\\s+/).join(" "))"""
    await tab.wait_for(["step 30 · latest train 0.0333 full valid 1.7500"], shown)
    x, y = await tab.evaluate("""(() => {
      const first = document.querySelector("#chart-1-plot .point rect").getBoundingClientRect();
      return [first.x + first.width / 2, first.y + first.height / 2];
    })()""")
    await tab.move_mouse(x, y)
    await tab.wait_for(["step 10 train 0.1000 full valid 2.0000"], shown)
    await tab.move_mouse(1, 1)
    await tab.evaluate("document.querySelector('.options > :last-child a:last-child').focus()")
    await tab.press("Tab")
    await tab.wait_for(["step 20 · best train 0.0500 full valid 1.5000"], shown)
    for key, step in (
        ("ArrowRight", 30),
        ("ArrowRight", 30),
        ("ArrowLeft", 20),
        ("Home", 10),
        ("ArrowLeft", 10),
        ("End", 30),
    ):
        await tab.press(key)
        await tab.wait_for([str(step)], f"{shown}.map((text) => text.match(/^step (\\d+)/)[1])")
    await tab.press("Tab")
    await tab.wait_for(True, "!document.activeElement.closest('#chart-1-plot')")
    assert [] == tab.errors


async def test_keyboard_navigation(tab: Tab, site: str, sql: asyncpg.Connection) -> None:
    """Search, paging and the link to the content work without a mouse, and the focused element has an outline."""
    await fill(sql, jobs=120, checkpoints=2)
    await tab.resize(1280, 900)
    await tab.open(site)
    focus = "document.activeElement.textContent.trim() || document.activeElement.id"
    await tab.press("Tab")
    await tab.wait_for("Skip to content", focus)
    assert 0 <= await tab.evaluate("document.activeElement.getBoundingClientRect().top")
    await tab.press("Enter")
    await tab.wait_for("main", "document.activeElement.id")
    await tab.open(site)
    await tab.press("Tab", "Tab", "Tab")
    await tab.wait_for("q", focus)
    await tab.press(*"gpt-4.1", "Enter")
    await tab.loaded()
    assert "?q=gpt-4.1" == await tab.evaluate("location.search")
    assert "80 jobs" in await tab.evaluate("document.querySelector('.summary').textContent")
    for _ in range(200):
        await tab.press("Tab")
        assert "none" != await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        if "next" in await tab.evaluate(focus):
            break
    await tab.press("Enter")
    await tab.loaded()
    assert "?q=gpt-4.1&page=2" == await tab.evaluate("location.search")
    assert 30 == await tab.evaluate("document.querySelectorAll('.jobs tbody tr').length")


async def test_copy(tab: Tab, site: str, store: Store, provider: Provider) -> None:
    """The copy button copies the name of a model. Without scripts it is hidden, and one click selects the name."""
    provider.checkpoints[JOB] = page([checkpoint(20, valid_loss=1)])
    await sync(store, provider)
    await tab.resize(1280, 900)
    await tab.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    await tab.open(f"{site}/jobs/test/{JOB}")
    await tab.evaluate("document.querySelector('.deploy button').focus()")
    await tab.press("Enter")
    model = checkpoint(20)["fine_tuned_model_checkpoint"]
    await tab.wait_for("copied", "document.querySelector('.deploy button').textContent")
    assert model == await tab.evaluate("navigator.clipboard.readText()")
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    await tab.open(f"{site}/jobs/test/{JOB}")
    assert "none" == await tab.evaluate("getComputedStyle(document.querySelector('.deploy button')).display")
    assert "all" == await tab.evaluate("getComputedStyle(document.querySelector('.deploy code')).userSelect")


async def test_the_demo(tab: Tab, tmp_path: Path) -> None:
    """The demo shows curves in the browser within a minute, at the address that it prints. They move by themselves."""
    started = perf_counter()
    async with running("demo", env=environment(tmp_path, TMPDIR=str(tmp_path))) as demo:
        assert demo.stdout is not None
        line = ""
        while not line.startswith("See the curves: "):
            line = (await demo.stdout.readline()).decode()
        site = line.split()[-1].rstrip("/")
        await until_ok(int(site.rpartition(":")[2]), "/readyz")
        await tab.open(site)
        row = "[...document.querySelectorAll('.jobs tr')].find((row) => /epoch [3-9]/.test(row.textContent))"
        await tab.wait_for(True, f"document.querySelectorAll('.sparkline').length > 5 && Boolean({row})")
        job = await tab.evaluate(f"{row}.querySelector('a').pathname")
        curves = "[...document.querySelectorAll('.sparkline path')].map((path) => path.getAttribute('d')).join()"
        await tab.evaluate(f"window.drawn = {curves}")
        await tab.wait_for(True, f"window.drawn !== undefined && drawn !== {curves}")
        await tab.open(site + job)
        said = "document.querySelector('.charts > p').textContent.trim()"
        await tab.wait_for(True, f"/^Lines: the [\\d,]+ steps/.test({said})")
        assert perf_counter() - started < 60
        await _check_layout(tab, site, {"jobs": "/", "job": job}, tmp_path)
        demo.terminate()
        assert 0 == await asyncio.wait_for(demo.wait(), 60)
