"""Pages that refresh themselves in a real browser: what changes, what stays, when it stops, and what it says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from aiohttp import web as web_server

from checkpointd.postgres.store import Store
from checkpointd.web import server as web
from support import history
from support.browser import CHROMIUM, Tab, chromium
from support.stored import fill

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]

PROGRESS = "document.querySelector('.summary').textContent.match(/step ([\\d,]+)/)[1]"


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    """Start a browser."""
    async with chromium() as opened:
        await opened.resize(1280, 700)
        yield opened


@pytest.fixture
async def job(sql: asyncpg.Connection) -> str:
    """Store a job with checkpoints and steps. Returns its id."""
    await fill(sql, jobs=1, checkpoints=3)
    stored: str = await sql.fetchval("select id from fine_tuning.jobs")
    await history.add_events(sql, [stored], 100)
    return stored


async def _add_step(sql: asyncpg.Connection) -> None:
    await sql.execute(
        """insert into checkpointd.steps (job, step_number, total_steps, train_loss, id)
        select job, max(step_number) + 1, 100 + max(step_number), 0.1, 'new' || max(step_number)
        from checkpointd.steps group by job"""
    )


@asynccontextmanager
async def answering(port: int, page: str) -> AsyncIterator[None]:
    """Answer every request at this port with a web page and status 200."""

    async def answer(_: web_server.BaseRequest) -> web_server.Response:
        return web_server.Response(text=page, content_type="text/html")

    runner = web_server.ServerRunner(web_server.Server(answer))
    await runner.setup()
    try:
        await web_server.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


async def test_what_a_refresh_keeps(tab: Tab, port: int, store: Store, sql: asyncpg.Connection, job: str) -> None:
    """New steps are drawn without a reload. Scroll position, focus, selection and the values under the mouse remain."""
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.open(f"http://127.0.0.1:{port}/jobs/large/{job}")
        x, y = await tab.evaluate("""(() => {
          scrollTo(0, 150);
          window.focused = document.querySelectorAll("#chart-2-plot .point")[10];
          focused.focus({preventScroll: true});
          const changing = document.querySelector(".facts time");
          getSelection().setBaseAndExtent(changing.firstChild, 0, changing.firstChild, 5);
          window.selected = getSelection().toString();
          const {x, y, width} = document.querySelectorAll("#chart-1-plot .point rect")[50].getBoundingClientRect();
          return [x + width / 2, y + 50];
        })()""")
        await tab.move_mouse(x, y)
        values = """[...document.querySelectorAll("#chart-1-plot .readout")]
          .filter((readout) => getComputedStyle(readout).visibility === "visible")
          .map((readout) => readout.textContent.trim().split(/\\s+/).join(" "))"""
        await tab.wait_for(True, f"{values}.length === 1 && /^step 51 train/.test({values}[0])")
        line = "document.querySelector('#chart-1-plot path').getAttribute('d')"
        before = await tab.evaluate(line)
        for step in ("101", "102"):
            await _add_step(sql)
            await tab.wait_for(step, PROGRESS)
        assert before != await tab.evaluate(line)
        assert ["step 51"] == [value[:7] for value in await tab.evaluate(values)]
        assert 150 == await tab.evaluate("scrollY")  # the text that says that old values are kept moves nothing
        assert await tab.evaluate("document.activeElement === focused && focused.isConnected")
        assert await tab.evaluate("selected.length === 5 && getSelection().toString() === selected")
        await tab.press("ArrowRight")
        await tab.wait_for(11, "[...document.querySelectorAll('#chart-2-plot .point')].indexOf(document.activeElement)")
        assert 1 == await tab.evaluate("document.querySelectorAll('#chart-2-plot .point[tabindex=\"0\"]').length")
    assert [] == [error for error in tab.errors if "ERR_" not in error]


async def test_position_in_a_chart(tab: Tab, port: int, store: Store, sql: asyncpg.Connection, job: str) -> None:
    """The Tab key returns to the point of a chart that had the focus last, also after a refresh."""
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.open(f"http://127.0.0.1:{port}/jobs/large/{job}")
        points = "[...document.querySelectorAll('#chart-1-plot .point')]"
        await tab.evaluate(f"{points}[10].focus()")
        await tab.press("ArrowRight")
        await tab.press("Tab")
        stops = f"{points}.flatMap((point, n) => point.getAttribute('tabindex') === '0' ? [n] : [])"
        for step in ("101", "102"):
            await _add_step(sql)
            await tab.wait_for(step, PROGRESS)
            assert [11] == await tab.evaluate(stops)
        assert not await tab.evaluate("document.activeElement.closest('#chart-1-plot')")
    assert [] == [error for error in tab.errors if "ERR_" not in error]


async def test_selected_jobs(tab: Tab, port: int, store: Store, sql: asyncpg.Connection, job: str) -> None:
    """New jobs are listed without a reload. Selected jobs remain, also those that are now on the next page.

    What was folded and is opened stays open.
    """
    await sql.execute(
        """insert into checkpointd.findings (source, job, kind, since, message)
        select source, key, kind, now(), kind from checkpointd.jobs,
          unnest(array['overfitting', 'diverging', 'stalled', 'failed']) as kind"""
    )
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.evaluate("document.querySelector('#q').focus()")
        await tab.press(*"abc")
        await tab.evaluate("document.querySelector('.jobs input').click()")
        await tab.evaluate("document.querySelector('summary').click()")
        await sql.execute(
            """with added as (
              insert into checkpointd.jobs (source, id, tracked_by, created_at)
              select source, 'ftjob-new-' || n, 'discovery', created_at + n
              from checkpointd.jobs cross join generate_series(1, 60) as n
              returning key, source)
            insert into checkpointd.polling (job, source, gap_s) select key, source, 60 from added"""
        )
        await tab.wait_for(51, "document.querySelectorAll('.jobs input').length")
        checked = "[...document.querySelectorAll('.jobs input:checked')].map((box) => box.value)"
        assert [f"large/{job}"] == await tab.evaluate(checked)
        assert await tab.evaluate("document.querySelector('details').open")
        assert ["abc", True] == await tab.evaluate("(q => [q.value, document.activeElement === q])(window.q)")
        await tab.evaluate("document.querySelectorAll('.jobs input')[1].click()")
        await tab.evaluate("document.querySelector('.compare button').click()")
        await tab.wait_for(
            ["ftjob-new-59", job],
            "[...document.querySelectorAll('.compared a:not(.remove)')].map((a) => a.textContent)",
        )
    assert [] == [error for error in tab.errors if "ERR_" not in error]


async def test_stale_and_hidden(tab: Tab, port: int, store: Store, sql: asyncpg.Connection, job: str) -> None:
    """A page that cannot be refreshed says so until it can. A hidden page sends no request until it is shown again."""
    said = "document.querySelector('#stale').textContent"
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.open(f"http://127.0.0.1:{port}/jobs/large/{job}")
    await tab.wait_for(True, f"/^Not up to date: the daemon does not answer. This page is of 20.* UTC./.test({said})")
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.wait_for("", said)
        async with sql.transaction():
            await sql.execute("lock table checkpointd.jobs in access exclusive mode")
            await tab.wait_for(True, f"/^Not up to date: The database cannot be read/.test({said})")
        await tab.wait_for("", said)
        hide = """Object.defineProperty(document, "hidden", {value: HIDDEN, configurable: true});
          document.dispatchEvent(new Event("visibilitychange"));"""
        await tab.evaluate(hide.replace("HIDDEN", "true"))
        sent = len(tab.requests)
        await _add_step(sql)
        await tab.evaluate("new Promise((done) => setTimeout(done, 4000))")  # longer than between two refreshes
        assert len(tab.requests) <= sent + 1
        assert "100" == await tab.evaluate(PROGRESS)
        await tab.evaluate(hide.replace("HIDDEN", "false"))
        await tab.wait_for("101", PROGRESS)


async def test_a_page_of_something_else(tab: Tab, port: int, store: Store, job: str) -> None:
    """A page of something else, such as a login page of a proxy with status 200, is told, and does not end the refresh.

    It may have a part `main`, too.
    """
    said = "document.querySelector('#stale').textContent"
    page = f"http://127.0.0.1:{port}/jobs/large/{job}"
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.open(page)
    for login in ("<h1>Log in</h1>", "<main><h1>Log in</h1></main>"):
        async with answering(port, login):
            await tab.wait_for(True, f"/^Not up to date: not the daemon answers, but something else/.test({said})")
        async with web.serve("127.0.0.1", port, list, store, ["large"]):
            await tab.wait_for("", said)


async def test_selected_text(tab: Tab, port: int, store: Store, sql: asyncpg.Connection, job: str) -> None:
    """While selected text keeps old values on the page, it says so, and its time is that of the old values."""
    said, time = "document.querySelector('#stale').textContent", "document.querySelector('footer time').textContent"
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.open(f"http://127.0.0.1:{port}/jobs/large/{job}")
        before = await tab.evaluate(time)
        await tab.evaluate("getSelection().selectAllChildren(document.querySelector('main'))")
        await _add_step(sql)
        await tab.wait_for(f"Paused while text is selected: some values are of {before}.", said)
        assert [before, "100"] == await tab.evaluate(f"[{time}, {PROGRESS}]")
        await tab.evaluate("getSelection().removeAllRanges()")
        await tab.wait_for(["", "101"], f"[{said}, {PROGRESS}]")
        assert before != await tab.evaluate(time)


async def test_without_scripts(tab: Tab, port: int, store: Store, sql: asyncpg.Connection, job: str) -> None:
    """Without scripts a link refreshes the page."""
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    async with web.serve("127.0.0.1", port, list, store, ["large"]):
        await tab.open(f"http://127.0.0.1:{port}/jobs/large/{job}?scale=log")
        await _add_step(sql)
        (x, y) = await tab.evaluate("""(() => {
          const link = [...document.querySelectorAll("footer a")].find((link) => link.textContent === "Refresh");
          link.scrollIntoView();
          const {x, y, width, height} = link.getBoundingClientRect();
          return [x + width / 2, y + height / 2];
        })()""")
        await tab.click(x, y)
        await tab.loaded()
        assert ["?scale=log", "101"] == await tab.evaluate(f"[location.search, {PROGRESS}]")
