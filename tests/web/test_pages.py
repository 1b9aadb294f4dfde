"""The status page over HTTP: what it shows, what it refuses, and that no name can script it."""

import asyncio
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest

from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store, open_store
from checkpointd.web import server as web
from support import hostile
from support.harness import read_job_list, sync, track
from support.provider import JOB, Provider, checkpoint, job, page
from support.stored import fill


class Answer(NamedTuple):
    """What a request was answered."""

    status: int
    text: str
    headers: dict[str, str]


class Site:
    """The status port of a test, and who asks it."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.url, self._http = f"http://127.0.0.1:{port}", http

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a page."""
        url = aiohttp.client.URL(self.url + path, encoded=True)
        async with self._http.request(method, url, headers=headers) as response:
            return Answer(response.status, await response.text(), dict(response.headers))

    async def shown(self, path: str) -> "Shown":
        """Ask for a page that is there."""
        answer = await self.get(path)
        assert 200 == answer.status
        return Shown(answer.text)


class Shown(HTMLParser):
    """A page as a browser takes it: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.html = html
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Take text."""
        self.words.append(data)

    def all(self, tag: str, attribute: str) -> list[str]:
        """Return the values of an attribute of all elements of a kind."""
        return [
            attributes[attribute] or "" for name, attributes in self.elements if name == tag and attribute in attributes
        ]


@pytest.fixture
async def site(port: int, store: Store) -> AsyncIterator[Site]:
    """Serve the status port over the test's database."""
    async with web.serve("127.0.0.1", port, list, store), aiohttp.ClientSession() as http:
        yield Site(port, http)


async def test_nothing_tracked(site: Site) -> None:
    """Without jobs the page says how to have some."""
    shown = await site.shown("/")
    assert "No job is tracked yet" in shown.text
    assert "checkpointd track ftjob-…" in shown.text


async def test_jobs(site: Site, store: Store, provider: Provider) -> None:
    """The page of jobs shows status, progress, losses, freshness and the source of each."""
    provider.checkpoints[JOB] = page([checkpoint(n, valid_loss=1.5 / n) for n in (20, 40)])
    provider.checkpoints["ftjob-2"] = page([])
    provider.jobs = page([job(hyperparameters={"n_epochs": 5}), job("ftjob-2", "queued")])
    await sync(store, provider, JOB, "ftjob-2")
    await read_job_list(store, provider)
    shown = await site.shown("/")
    assert "2 jobs 1 queued 1 running" in shown.text
    assert re.search(rf"{JOB} gpt-4o-mini-2024-07-18 running epoch 2 of 5 step 40 · 2 checkpoints", shown.text)
    assert re.search(r"train loss 0.0250 validation loss 0.0375 read \d+ s ago", shown.text)
    assert "no checkpoint yet" in shown.text
    assert re.search(r"test ok 2 jobs tracked whole job list read \d+ s ago", shown.text)
    assert f"/jobs/test/{JOB}" in shown.all("a", "href")
    assert ["en"] == shown.all("html", "lang")


async def test_trouble(site: Site, store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """What is stale, failing, paused, unreadable or likely to have a gap is said, the first two found by that word."""
    provider.checkpoints[JOB] = page([checkpoint(n) for n in (1, 2, 4)])
    await sync(store, provider)
    await sql.execute(
        """update checkpointd.polling set last_complete_at = now() - interval '3 hours', last_success_at = null,
          failures = 2, last_error = 'HTTP 500';
        update checkpointd.sources set state = 'paused', resume_at = now() + interval '110 s',
          last_error = 'HTTP 429'"""
    )
    for path in ("/", "/?q=stale", "/?q=failing"):
        shown = await site.shown(path)
        assert "stale, read 3 h ago 2 failed polls: HTTP 500; unreadable items in the last complete" in shown.text
        assert "checkpoints may be missing" in shown.text
        assert "test paused 1 job tracked goes on in 1 min" in shown.text
        assert "HTTP 429" in shown.text
    shown = await site.shown(f"/jobs/test/{JOB}")
    assert "2 failed polls: HTTP 500" in shown.text


async def test_problems_are_on_the_page(port: int, store: Store) -> None:
    """What keeps the daemon from its work stands on the page of jobs."""
    async with (
        web.serve("127.0.0.1", port, lambda: ["database: save: OSError"], store),
        aiohttp.ClientSession() as http,
    ):
        shown = await Site(port, http).shown("/")
    assert "The daemon cannot work: what is shown may be old. database: save: OSError" in shown.text


async def test_search_and_pages(site: Site, sql: asyncpg.Connection) -> None:
    """Every word must be in a job's id, source, status, phase or models; long lists come in pages, each job on one."""
    await fill(sql, jobs=120, checkpoints=2)
    seen: list[str] = []
    for number in (1, 2, 3):
        shown = await site.shown(f"/?page={number}")
        assert f"page {number} of 3" in shown.text
        seen += [link for link in shown.all("a", "href") if link.startswith("/jobs/")]
    assert (120, 120) == (len(seen), len(set(seen)))
    assert "page 3 of 3" in (await site.shown("/?page=99")).text
    assert "page 3 of 3" in (await site.shown(f"/?page={'9' * 19}")).text
    assert "page 1 of 3" in (await site.shown("/?page=-1")).text
    assert "page 1 of 3" in (await site.shown("/?page=x")).text
    shown = await site.shown("/?q=RUNNING+gpt-4.1")
    assert "2 jobs with RUNNING gpt-4.1 show all 2 running" in shown.text
    assert 2 == len([link for link in shown.all("a", "href") if link.startswith("/jobs/")])
    assert ["RUNNING gpt-4.1"] == shown.all("input", "value")
    shown = await site.shown("/?q=gpt&page=2")
    assert "/?q=gpt&page=3" in shown.all("a", "href")
    assert "No job has all of these words" in (await site.shown("/?q=gpt+nonsense")).text
    assert "No job has all of these words" in (await site.shown("/?q=%00%ff%27%25_")).text


async def test_job(site: Site, store: Store, provider: Provider) -> None:
    """A job's page shows its curves with every value, its best and its withdrawn checkpoints, models and changes."""
    first = [checkpoint(n, full_valid_loss=loss, train_mean_token_accuracy=0.5) for n, loss in ((10, 2.0), (20, 1.25))]
    provider.checkpoints[JOB] = page(first)
    provider.jobs = page([job(hyperparameters={"n_epochs": 4, "batch_size": 8})])
    await sync(store, provider)
    provider.checkpoints[JOB] = page(
        [first[1], checkpoint(30, full_valid_loss=1.75), {**checkpoint(40), "step_number": "x"}]
    )
    for _ in range(2):
        await store.resync(await store.find_jobs([JOB]))
        await sync(store, provider)
    await read_job_list(store, provider)
    shown = await site.shown(f"/jobs/test/{JOB}")
    said = shown.all("g", "aria-label")
    assert [
        "step 10, epoch 1, withdrawn: train 0.1000, full valid 2.0000",
        "step 20, epoch 2, best: train 0.0500, full valid 1.2500",
        "step 30, epoch 3, latest: train 0.0333, full valid 1.7500",
        "step 10, epoch 1, withdrawn: train 0.5000",
        "step 20, epoch 2, best, latest: train 0.5000",
    ] == said
    best = first[1]["fine_tuned_model_checkpoint"]
    assert f"Checkpoint to deploy so far copy {best} Step 20: the smallest full_valid_loss , 1.2500" in shown.text
    assert [best, best] == [name for name in shown.all("button", "data-copy") if name == best]
    assert "Epoch 3 of 4" in shown.text
    assert "batch size 8" in shown.text
    assert "1 item could not be read" in shown.text
    assert re.search(r"\d s ago missing step 10 .*\d s ago new step 20", shown.text)
    assert re.search(r"\d s ago status the job running", shown.text)


async def test_next_poll(site: Site, store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The next poll lies ahead, or is due now: it is never said to have been."""
    provider.checkpoints[JOB] = page([])
    await sync(store, provider)
    for due, said in (("90 s", "in 1 min"), ("-1 h", "due now")):
        await sql.execute("update checkpointd.polling set next_poll_at = now() + $1::text::interval", due)
        shown = await site.shown(f"/jobs/test/{JOB}")
        assert f"Next poll {said}" in shown.text


async def test_older_changes(site: Site, sql: asyncpg.Connection) -> None:
    """All of a job's changes can be reached from its page, the newest first, each once."""
    await fill(sql, jobs=2, checkpoints=70)
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    path, seen = f"/jobs/large/{job_id}", []
    shown = await site.shown(path)
    while older := [link for link in shown.all("a", "href") if "?before=" in link]:
        seen += re.findall(r"new step ([\d,]+)", shown.text)
        shown = await site.shown(older[0].removesuffix("#changes"))
        assert f"{path}#changes" in shown.all("a", "href")
    seen += re.findall(r"new step ([\d,]+)", shown.text)
    assert [f"{40 * n:,}" for n in range(70, 0, -1)] == seen
    assert "No change is older" in (await site.shown(f"{path}?before=1")).text
    for nonsense in ("-1", "x", "9" * 19, "9" * 5000):
        assert "new step 2,800" in (await site.shown(f"{path}?before={nonsense}")).text


async def test_job_without_checkpoints(site: Site, store: Store) -> None:
    """A job that was just tracked has a page, which says what to expect."""
    await track(store, JOB)
    shown = await site.shown(f"/jobs/test/{JOB}")
    assert "not read yet" in shown.text
    assert "No checkpoint is known yet." in shown.text
    assert "Nothing has changed since it was tracked." in shown.text


async def test_epoch(site: Site, store: Store, provider: Provider) -> None:
    """A job's page says its epoch only where it is known: 0 before the first checkpoint, none where one tells none."""
    provider.jobs = page([job(hyperparameters={"n_epochs": 100})])
    for listed, said in (
        ([], "Epoch 0 of 100"),
        ([checkpoint(30)], "n epochs 100"),
        ([checkpoint(30), checkpoint(60)], "Epoch 2 of 100"),
    ):
        provider.checkpoints[JOB] = page(listed)
        await sync(store, provider)
        await read_job_list(store, provider)
        shown = await site.shown(f"/jobs/test/{JOB}")
        assert [said] == re.findall(r"Epoch \d+ of 100|n epochs 100", shown.text)


async def test_job_without_validation(site: Site, store: Store, provider: Provider) -> None:
    """Where no validation loss is known, no checkpoint is named as the one to deploy, and the page says why."""
    provider.checkpoints[JOB] = page([checkpoint(10)])
    await sync(store, provider)
    shown = await site.shown(f"/jobs/test/{JOB}")
    assert "none is named as the one to deploy" in shown.text
    assert ["step 10, latest: train 0.1000"] == shown.all("g", "aria-label")


async def test_long_job(site: Site, sql: asyncpg.Connection) -> None:
    """Of thousands of checkpoints some hundred are drawn, the best and the last among them, and the page says so."""
    await fill(sql, jobs=1, checkpoints=2000)
    await sql.execute(
        """update checkpointd.checkpoints set full_valid_loss = 0, missing_since = null where step_number = 40040;
        select checkpointd.summarise(array_agg(key), array_agg(false)) from checkpointd.jobs"""
    )
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    shown = await site.shown(f"/jobs/large/{job_id}")
    losses = shown.all("g", "aria-label")
    assert 500 < len(losses) < 604
    assert any(said.startswith("step 40,040") and ", best" in said for said in losses)
    assert any(said.startswith("step 80,000") and "latest" in said for said in losses)
    assert "of 2,000 checkpoints are drawn" in shown.text
    assert "page 1 of 40" in shown.text
    assert "page 40 of 40" in (await site.shown(f"/jobs/large/{job_id}?page=40")).text


ELEMENTS = {
    "a", "body", "button", "caption", "circle", "code", "dd", "div", "dl", "dt", "figcaption", "figure",
    "footer", "foreignobject", "form", "g", "h1", "h2", "h3", "head", "header", "html", "input", "label", "li",
    "line", "link", "main", "meta", "nav", "p", "path", "progress", "q", "rect", "script", "section", "span",
    "strong", "svg", "table", "tbody", "td", "text", "th", "thead", "time", "title", "tr", "ul",
}  # fmt: skip
"""What the pages are made of."""

UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


async def test_hostile_names(site: Site, sql: asyncpg.Connection) -> None:
    """No name, status or error becomes markup, an attribute that acts, or a character that does not show."""
    await hostile.store_hostile(sql)
    jobs = [row["id"] for row in await sql.fetch("select id from fine_tuning.jobs order by created_at desc")]
    paths = [f"/jobs/hostile/{quote(one, safe='')}" for one in jobs]
    for path in ("/", f"/?q={quote(hostile.EVERYTHING)}", *paths):
        shown = await site.shown(path)
        assert set() == {tag for tag, _ in shown.elements} - ELEMENTS
        assert ["/static/script.js"] == [a.get("src") for tag, a in shown.elements if tag == "script"]
        names = {name for _, attributes in shown.elements for name in attributes}
        assert set() == {name for name in names if name.startswith("on")} | names & {"style", "autofocus", "srcdoc"}
        assert all(link.startswith(("/", "#")) or not link for link in shown.all("a", "href"))
        assert not UNSEEN.search(shown.html)
        assert hostile.LONG not in shown.html
        assert len(shown.html) < 600_000
    assert "{{ 7 * 7 }}" in (await site.shown(paths[0])).text


async def test_unknown(site: Site) -> None:
    """What was never tracked, and what is no page, is 404 in words."""
    for path in (
        "/jobs/test/ftjob-x",
        "/jobs/test/%00",
        "/jobs",
        "/nonsense",
        "/static/../web.py",
        "/static/%2e%2e/web.py",
    ):
        answer = await site.get(path)
        assert (404, True) == (answer.status, "Not found" in answer.text)


async def test_only_reading(site: Site) -> None:
    """GET and HEAD are answered, nothing else."""
    assert (200, "") == (await site.get("/", "HEAD"))[:2]
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert 405 == (await site.get("/", method)).status


@pytest.mark.parametrize("path", ["/", "/jobs/a/b", "/static/style.css", "/metrics", "/livez"])
async def test_headers(site: Site, path: str) -> None:
    """Every answer forbids scripts of others, frames, guessing and keeping."""
    headers = (await site.get(path)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "frame-ancestors": "'none'",
    }.items() <= policy.items()
    assert not {"unsafe-inline", "unsafe-eval", "*"} & set(re.split(r"[' ]", headers["Content-Security-Policy"]))
    assert ("nosniff", "no-referrer", "no-store") == tuple(
        headers[name] for name in ("X-Content-Type-Options", "Referrer-Policy", "Cache-Control")
    )


@pytest.mark.parametrize("path", ["/", "/metrics", "/static/script.js"])
async def test_names_of_others_are_refused(site: Site, path: str) -> None:
    """On loopback, no web page reads this port by giving its own name the address 127.0.0.1."""
    for name in (
        "evil.example",
        "evil.example:8787",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[",
        "",
        "0.0.0.0",
    ):
        assert 421 == (await site.get(path, Host=name)).status, name
    for name in ("localhost", "LOCALHOST:9000", "127.0.0.1:8787", "[::1]:8787", "127.1.2.3"):
        assert 200 == (await site.get(path, Host=name)).status, name


async def test_it_reads_the_views_only(port: int, url: str, sql: asyncpg.Connection) -> None:
    """The pages are there for a role that may read the views, and no table."""
    await fill(sql, jobs=2, checkpoints=3)
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    await sql.execute("create role onlooker; grant usage on schema fine_tuning to onlooker")
    await sql.execute("grant select on all tables in schema fine_tuning to onlooker")

    async def limited() -> asyncpg.Connection:
        connection = await connect(url)
        await connection.execute("set role onlooker")
        return connection

    try:
        async with (
            open_store(limited) as pages,
            web.serve("127.0.0.1", port, list, pages),
            aiohttp.ClientSession() as http,
        ):
            for path in ("/", "/?q=stale", f"/jobs/large/{job_id}"):
                await Site(port, http).shown(path)
    finally:
        await sql.execute("drop owned by onlooker; drop role onlooker")


async def test_names_where_others_may_ask(port: int, store: Store) -> None:
    """Where the port is open to others, Prometheus and proxies may call it by any name."""
    async with web.serve("0.0.0.0", port, list, store), aiohttp.ClientSession() as http:
        for path in ("/", "/metrics"):
            assert 200 == (await Site(port, http).get(path, Host="checkpointd.example:8787")).status


async def test_database_away(port: int, empty_url: str) -> None:
    """With the database away, or without its schema, the page says so with 503; the port lives on."""
    for url in ("postgresql://u:canary@127.0.0.1:1/db", empty_url):
        async with (
            open_store(lambda url=url: connect(url)) as away,  # type: ignore[misc]
            web.serve("127.0.0.1", port, list, away),
            aiohttp.ClientSession() as http,
        ):
            for path in ("/", "/jobs/a/b"):
                answer = await Site(port, http).get(path)
                assert 503 == answer.status
                assert "The database cannot be read" in answer.text
                assert "Traceback" not in answer.text
                assert "canary" not in answer.text
            assert 200 == (await Site(port, http).get("/livez")).status


async def test_a_slow_database_is_said(site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that the database does not give in time is 503, and the next one is there when it does."""
    monkeypatch.setattr(web, "PAGE_SECONDS", 0.2)
    async with sql.transaction():
        await sql.execute("lock table checkpointd.jobs in access exclusive mode")
        answer = await site.get("/")
        assert (503, True) == (answer.status, "no answer in time" in answer.text)
    monkeypatch.undo()
    await site.shown("/")


async def test_many_look_at_once(port: int, url: str, sql: asyncpg.Connection) -> None:
    """However many look at once, all are answered, by as few connections as the pages have."""
    await fill(sql, jobs=60, checkpoints=3)
    async with (
        open_store(lambda: connect(url), 2) as pages,
        web.serve("127.0.0.1", port, list, pages),
        aiohttp.ClientSession() as http,
    ):
        answers = await asyncio.gather(*(Site(port, http).get("/") for _ in range(30)))
        held = await sql.fetchval("select count(*) from pg_stat_activity where application_name = 'checkpointd'")
    assert {200} == {answer.status for answer in answers}
    assert held <= 2
