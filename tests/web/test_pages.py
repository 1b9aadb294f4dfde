"""The status page over HTTP: what it shows, what it refuses, and that no name can add markup to it."""

import asyncio
import json
import re
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import asyncpg
import pytest

from checkpointd.postgres.connection import connect
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.objectives import set_objective, set_source_objectives
from checkpointd.postgres.store import Store, open_store
from checkpointd.web import data, listener
from checkpointd.web import server as web
from support import history, hostile
from support.finding_histories import ENDED, OVERFITTING, History, add
from support.harness import read_job_list, sync, track
from support.provider import JOB, Provider, checkpoint, job, page
from support.stored import fill


class Response(NamedTuple):
    """The response to a request."""

    status: int
    text: str
    headers: dict[str, str]


class Site:
    """A client of the status port of a test."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.url, self._http = f"http://127.0.0.1:{port}", http

    async def get(self, path: str, method: str = "GET", **headers: str) -> Response:
        """Send a request."""
        url = aiohttp.client.URL(self.url + path, encoded=True)
        async with self._http.request(method, url, headers=headers) as response:
            return Response(response.status, await response.text(), dict(response.headers))

    async def open(self, path: str) -> "Page":
        """Return a page, which must exist."""
        response = await self.get(path)
        assert 200 == response.status
        return Page(response.text)


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and its text with single blanks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.html = html
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Record text."""
        self.words.append(data)

    def all(self, tag: str, attribute: str) -> list[str]:
        """Return the values of an attribute of all elements with this tag."""
        return [
            attributes[attribute] or "" for name, attributes in self.elements if name == tag and attribute in attributes
        ]


@asynccontextmanager
async def _serving(
    port: int, store: Store, problems: web.Problems = list, host: str = "127.0.0.1"
) -> AsyncIterator[Site]:
    """Serve the status port over a store."""
    async with web.serve(host, port, problems, store, ["test"]), aiohttp.ClientSession() as http:
        yield Site(port, http)


@pytest.fixture
async def site(port: int, store: Store) -> AsyncIterator[Site]:
    """Serve the status port over the test's database."""
    async with _serving(port, store) as opened:
        yield opened


async def test_nothing_tracked(site: Site) -> None:
    """Without jobs the page explains how to track one."""
    shown = await site.open("/")
    assert "No jobs are tracked yet" in shown.text
    assert "checkpointd track ftjob-…" in shown.text


async def test_jobs(site: Site, store: Store, provider: Provider) -> None:
    """The page of jobs shows status, progress, losses, freshness and source of each job."""
    provider.checkpoints[JOB] = page([checkpoint(n, valid_loss=1.5 / n) for n in (20, 40)])
    provider.checkpoints["ftjob-2"] = page([])
    provider.jobs = page([job(hyperparameters={"n_epochs": 5}), job("ftjob-2", "queued")])
    await sync(store, provider, JOB, "ftjob-2")
    await read_job_list(store, provider)
    shown = await site.open("/")
    assert "2 jobs 1 queued 1 running" in shown.text
    assert re.search(rf"{JOB} gpt-4o-mini-2024-07-18 running epoch 2 of 5 step 40 · 2 checkpoints", shown.text)
    assert re.search(r"train loss 0.0250 validation loss 0.0375 read \d+ s ago", shown.text)
    assert "no checkpoints yet" in shown.text
    assert re.search(r"test ok 2 jobs tracked complete job list read \d+ s ago", shown.text)
    assert f"/jobs/test/{JOB}" in shown.all("a", "href")
    assert ["en"] == shown.all("html", "lang")


async def test_checkpoint_without_a_name(site: Site, store: Store, provider: Provider) -> None:
    """The page of a job with any valid id shows checkpoints without a time and a model, also as the best one."""
    job_id = "ft.v1:abc"
    provider.checkpoints[job_id] = page(
        [{**checkpoint(1, job_id, valid_loss=0.5), "fine_tuned_model_checkpoint": None, "created_at": None}]
    )
    await sync(store, provider, job_id)
    (path,) = [path for path in (await site.open("/")).all("a", "href") if path and path.startswith("/jobs/")]
    shown = await site.open(path)
    assert "Checkpoint to deploy so far model unknown Step 1: the smallest valid_loss , 0.5000" in shown.text
    assert 2 == shown.text.count("model unknown")


async def test_problems_of_jobs_and_sources(
    site: Site, store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """Stale, failing and unstable jobs, rejects, suspected gaps and paused sources are shown, and found by search."""
    provider.checkpoints[JOB] = page([checkpoint(n) for n in (1, 2, 4)])
    await sync(store, provider)
    await sql.execute(
        """update checkpointd.polling set last_complete_at = now() - interval '3 hours', last_success_at = null,
          failures = 2, last_error = 'HTTP 500', unstable_since = now() - interval '2 days';
        update checkpointd.sources set state = 'paused', resume_at = now() + interval '110 s',
          last_error = 'HTTP 429'"""
    )
    for path in ("/", "/?q=stale", "/?q=failing"):
        shown = await site.open(path)
        assert "stale, read 3 h ago 2 failed polls: HTTP 500; unreadable items: see" in shown.text
        assert "unstable: its list differs at each request" in shown.text
        assert "suspected gap" in shown.text
        assert "test paused 1 job tracked resumes in 1 min" in shown.text
        assert "to end the pause now, run `checkpointd resume`" in shown.text
        assert "HTTP 429" in shown.text
    shown = await site.open(f"/jobs/test/{JOB}")
    assert "2 failed polls: HTTP 500" in shown.text
    assert "Unstable list since 2 d ago" in shown.text
    assert "The source test is paused: HTTP 429" in shown.text
    assert "Suspected gap: the provider may have dropped checkpoints" in shown.text


async def test_open_findings(site: Site, store: Store, sql: asyncpg.Connection) -> None:
    """The list of jobs begins with three open findings, and the others are folded: that a job has finished comes last.

    Those of jobs link to them; the page of a job has its own, without a link.
    """
    await store.register_sources({"test": "openai"})
    for number in range(12):
        await add(sql, f"ftjob-{number:02}", History("", losses=OVERFITTING))
    await add(sql, "ftjob-done", History("", status="succeeded", former_status="running", polling=ENDED))
    await sql.execute("update checkpointd.sources set state = 'refused', last_error = 'HTTP 401: no such key'")
    await evaluate_findings(store)
    shown = await site.open("/")
    assert shown.text.index("source refused test The source refuses the key: HTTP 401") < shown.text.index(
        "overfitting"
    )
    first, _, folded = shown.text.partition(" 11 more ")
    assert 2 == first.count("overfitting ftjob-")
    assert 7 == folded.count("overfitting ftjob-")
    assert "4 more in the view fine_tuning.findings" in folded
    assert "finished ftjob-done" not in shown.text  # not one of the first ten
    assert 9 + 13 == sum(path.startswith("/jobs/test/") for path in shown.all("a", "href"))
    shown = await site.open("/jobs/test/ftjob-00")
    assert "Findings overfitting full_valid_loss went from 0.9 at step 200 to 1.2 at step 300" in shown.text
    assert "HTTP 401" not in shown.text.partition("Findings")[2].partition("The source")[0]
    await sql.execute("update checkpointd.findings set until = now()")
    for path in ("/", "/jobs/test/ftjob-00"):
        assert "Findings" not in (await site.open(path)).text


async def test_problems_of_the_daemon(port: int, store: Store) -> None:
    """The page of jobs shows the problems that keep the daemon from working."""
    async with _serving(port, store, lambda: ["database: save: OSError"]) as site:
        shown = await site.open("/")
    assert "The daemon cannot work. This page may show old data. database: save: OSError" in shown.text


async def test_search_and_pages(site: Site, sql: asyncpg.Connection) -> None:
    """A search finds jobs that contain every word. A long list is divided into pages, with each job on one page."""
    await fill(sql, jobs=120, checkpoints=2)
    seen: list[str] = []
    for number in (1, 2, 3):
        shown = await site.open(f"/?page={number}")
        assert f"page {number} of 3" in shown.text
        seen += [link for link in shown.all("a", "href") if link.startswith("/jobs/")]
    assert (120, 120) == (len(seen), len(set(seen)))
    assert "page 3 of 3" in (await site.open("/?page=99")).text
    assert "page 3 of 3" in (await site.open(f"/?page={'9' * 19}")).text
    assert "page 1 of 3" in (await site.open("/?page=-1")).text
    assert "page 1 of 3" in (await site.open("/?page=x")).text
    shown = await site.open("/?q=RUNNING+gpt-4.1")
    assert "2 jobs matching RUNNING gpt-4.1 show all 2 running" in shown.text
    assert 2 == len([link for link in shown.all("a", "href") if link.startswith("/jobs/")])
    assert "RUNNING gpt-4.1" == shown.all("input", "value")[0]
    shown = await site.open("/?q=gpt&page=2")
    assert "/?q=gpt&page=3" in shown.all("a", "href")
    assert "No job matches gpt nonsense ." in (await site.open("/?q=gpt+nonsense")).text
    assert "No job matches " in (await site.open("/?q=%00%ff%27%25_")).text


async def test_job(site: Site, store: Store, provider: Provider) -> None:
    """The page of a job shows its curves with every value, its best and its missing checkpoints, and its changes."""
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
    shown = await site.open(f"/jobs/test/{JOB}")
    assert [
        "step 10, epoch 1, missing: train 0.1000, full valid 2.0000",
        "step 20, epoch 2, best: train 0.0500, full valid 1.2500",
        "step 30, epoch 3, latest: train 0.0333, full valid 1.7500",
        "step 10, epoch 1, missing: train 0.5000",
        "step 20, epoch 2, best, latest: train 0.5000",
    ] == shown.all("g", "aria-label")
    best = first[1]["fine_tuned_model_checkpoint"]
    assert f"Checkpoint to deploy so far copy {best} Step 20: the smallest full_valid_loss , 1.2500" in shown.text
    assert "1.2500, of the 2 checkpoints that the provider lists. Curves" in shown.text
    assert [best, best] == [name for name in shown.all("button", "data-copy") if name == best]
    assert "Epoch 3 of 4" in shown.text
    assert "batch size 8" in shown.text
    assert "1 item could not be read" in shown.text
    assert re.search(r"\d s ago missing step 10 .*\d s ago new step 20", shown.text)
    assert re.search(r"\d s ago status job running", shown.text)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("nebius", f"{JOB}:{checkpoint(1)['id']}"), ("together", "acme/model:1"), ("tinker", "tinker://a/1")],
)
async def test_text_to_deploy(
    site: Site, store: Store, provider: Provider, sql: asyncpg.Connection, kind: str, expected: str
) -> None:
    """The text to copy is the one with which the provider deploys the checkpoint, not always the name of its model."""
    provider.checkpoints[JOB] = page([checkpoint(1, valid_loss=0.5)])
    await sync(store, provider)
    await sql.execute("update checkpointd.sources set kind = $1", kind)
    details = None if kind == "nebius" else json.dumps({"deploy_as": expected})
    await sql.execute("update checkpointd.checkpoints set details = $1", details)
    assert [expected] * 2 == (await site.open(f"/jobs/test/{JOB}")).all("button", "data-copy")


async def test_step_curves(site: Site, sql: asyncpg.Connection) -> None:
    """The page of a job of 10,000 steps shows the curve with the checkpoints on it, its progress, and is small."""
    await fill(sql, jobs=1, checkpoints=3)
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    path = f"/jobs/large/{job_id}"
    await history.add_events(sql, [job_id], 10_000)
    await sql.execute("update checkpointd.steps set full_valid_loss = 0.25 where step_number in (9994, 9996)")
    shown = await site.open(path)
    assert len(shown.html) < 250_000
    sent = (await site.get(path)).headers
    assert ("Content-Encoding" in sent, int(sent["Content-Length"]) < len(shown.html) // 3) == (True, True)
    assert "Content-Encoding" not in (await site.get(path, **{"Accept-Encoding": "identity"})).headers
    assert "step 10,000 of 10,000" in shown.text
    assert re.search(
        r"Best step of the curve: step \d,\d+, the smallest full_valid_loss , 0\.25\d+, of 2 steps\. ", shown.text
    )
    assert "The nearest checkpoint that can be deployed is 9,876 steps away: step 120." in shown.text
    assert "Lines: the 10,000 steps that the provider reports as events" in shown.text
    labels = shown.all("g", "aria-label")
    assert any(label.startswith("step 120, epoch 3, checkpoint, best: train") for label in labels)
    assert any(re.match(r"steps 9,934 to 10,000, latest: train 0\.\d+ to 0\.\d+, valid", label) for label in labels)
    assert f"{path}?axis=time&scale=log#curves" in (await site.open(f"{path}?axis=time")).all("a", "href")
    for axis, unit in (("epoch", "epoch"), ("time", "h")):
        shown = await site.open(f"{path}?axis={axis}&smoothing=light&scale=log")
        assert f">{unit}</text>" in shown.html
        assert len([style for style in shown.all("path", "class") if "exact" in style]) == 5


@pytest.mark.parametrize("has_checkpoint", [True, False])
async def test_best_step_without_best_checkpoint(
    site: Site, store: Store, provider: Provider, sql: asyncpg.Connection, *, has_checkpoint: bool
) -> None:
    """If no checkpoint has a metric, the page shows the best step of the curve, and what to deploy near it."""
    provider.checkpoints[JOB] = page([{**checkpoint(60), "metrics": {}}] if has_checkpoint else [])
    await sync(store, provider)
    await history.add_events(sql, [JOB], 100)
    await sql.execute("update checkpointd.steps set full_valid_loss = 0.25 where step_number in (20, 50)")
    shown = await site.open(f"/jobs/test/{JOB}")
    best = "Best step of the curve: step 50, the smallest full_valid_loss , 0.2500, of "
    assert best in shown.text
    name = checkpoint(60)["fine_tuned_model_checkpoint"]
    nearest = f"Checkpoint nearest to the best step so far copy {name} {best}"
    assert has_checkpoint == (nearest in shown.text)
    assert has_checkpoint == ("The nearest checkpoint that can be deployed is 10 steps away: step 60." in shown.text)
    assert has_checkpoint == ("The checkpoint to deploy is unknown, because no checkpoint has a metric" in shown.text)
    assert has_checkpoint != (f"Best step so far {best}" in shown.text)


async def test_sample_of_steps(site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many steps to read, a sample is drawn, and the pages say so."""
    await fill(sql, jobs=1, checkpoints=1)
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    await history.add_events(sql, [job_id], 1000)
    monkeypatch.setattr(data, "STEPS_READ", 200)
    shown = await site.open(f"/jobs/large/{job_id}")
    assert "Lines: a sample of the 1,000 steps" in shown.text
    assert (
        30
        < len([label for label in shown.all("g", "aria-label") if re.match(r"step [\d,]+(, latest)?: ", label)])
        < 170
    )
    assert "Of long curves, a sample of the steps is shown." in (await site.open(_compare(job_id))).text


async def test_progress(site: Site, sql: asyncpg.Connection) -> None:
    """The list of jobs shows the training step, and of how many it is, if the provider states that."""
    await fill(sql, jobs=3, checkpoints=1)
    jobs = [row["id"] for row in await sql.fetch("select id from checkpointd.jobs order by key")]
    await history.add_events(sql, jobs[:2], 1500)
    await sql.execute(
        """update checkpointd.steps set total_steps = null
        where job = (select key from checkpointd.jobs where id = $1)""",
        jobs[1],
    )
    shown = await site.open("/")
    assert 1 == shown.text.count("step 1,500 of 1,500 · 1 checkpoint")
    assert 1 == shown.text.count("step 1,500 · 1 checkpoint")
    assert 1 == shown.text.count("step 40 · 1 checkpoint")
    assert ["1500"] == shown.all("progress", "value")


async def test_messages(site: Site, sql: asyncpg.Connection) -> None:
    """The page of a job shows its newest messages, the newest first."""
    await fill(sql, jobs=1, checkpoints=1)
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    await sql.execute(
        """insert into checkpointd.events (job, id, created_at, level, message)
        select key, 'e' || n, case when n > 1 then 1750000000 + n end, case n when 60 then 'ERROR' end, 'text ' || n
        from checkpointd.jobs cross join generate_series(1, 60) as n"""
    )
    shown = await site.open(f"/jobs/large/{job_id}")
    assert re.search(r"Messages \d+ s ago message text 1 \d+ d .* ago ERROR text 60 .* message text 59 ", shown.text)
    assert "text 12 These are the 50 newest. All are in the view fine_tuning.events ." in shown.text
    assert "mark bad" in [value for value in shown.all("span", "class") if "bad" in value]


async def test_objective(site: Site, store: Store, provider: Provider) -> None:
    """The page of a job follows its objective: it says which, and draws a metric without a column of its own."""
    provider.checkpoints[JOB] = page([checkpoint(n, **{"val/<b>reward": n / 10}) for n in (1, 2)])
    await sync(store, provider)
    shown = await site.open(f"/jobs/test/{JOB}")
    assert "Step 2: the largest val/<b>reward , 0.2000, of the 2 checkpoints" in shown.text
    assert "step 2, best, latest: objective 0.2000" in shown.all("g", "aria-label")
    (found,) = await store.find_jobs([JOB])
    await set_objective(store, found, ("train_loss", "minimize"))
    shown = await site.open(f"/jobs/test/{JOB}")
    assert "Step 2: the smallest train_loss (as set for this job), 0.5000, of the 2 checkpoints" in shown.text
    await set_objective(store, found, ("cost", "minimize"))
    shown = await site.open(f"/jobs/test/{JOB}")
    assert "unknown, because no checkpoint has cost , the metric that was set for this job." in shown.text
    await set_source_objectives(store, {found.source: ("cost", "minimize")})
    await set_objective(store, found, None)
    assert "the metric that was set for this source." in (await site.open(f"/jobs/test/{JOB}")).text


async def test_checkpoint_to_deploy(site: Site, sql: asyncpg.Connection) -> None:
    """The page of a job states among which checkpoints the best one was chosen, and whether it is still listed."""
    await fill(sql, jobs=1, checkpoints=3)
    path = f"/jobs/large/{await sql.fetchval('select id from fine_tuning.jobs')}"
    summarise = "select checkpointd.summarise(array_agg(key), array_agg(false)) from checkpointd.jobs"
    for change, expected in (
        ("valid_loss = valid_loss", "of the 3 checkpoints that the provider lists. Curves"),
        (
            "full_valid_loss = null, valid_loss = case when step_number > 40 then valid_loss end",
            "of the 2 checkpoints with this metric, out of 3 that the provider lists. Curves",
        ),
        (
            "valid_loss = case when step_number > 80 then valid_loss end",
            "of the only checkpoint with this metric, out of 3 that the provider lists. Curves",
        ),
        (
            "missing_since = now() - interval '2 hours'",
            "out of 3 that the provider listed. It went missing from the provider's list 2 h ago . Curves",
        ),
        (
            "missing_since = case when step_number < 120 then now() end",
            "of the only checkpoint that the provider lists. Curves",
        ),
    ):
        await sql.execute(f"update checkpointd.checkpoints set {change}; {summarise}")
        assert expected in (await site.open(path)).text


async def test_next_poll(site: Site, store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The next poll is shown as a time in the future, or as due now, and never as a time in the past."""
    provider.checkpoints[JOB] = page([])
    await sync(store, provider)
    for due, expected in (("90 s", "in 1 min"), ("-1 h", "due now")):
        await sql.execute("update checkpointd.polling set next_poll_at = now() + $1::text::interval", due)
        shown = await site.open(f"/jobs/test/{JOB}")
        assert f"Next poll {expected}" in shown.text


async def test_older_changes(site: Site, sql: asyncpg.Connection) -> None:
    """The pages of a job's changes together show each change once, the newest first."""
    await fill(sql, jobs=2, checkpoints=70)
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    path, seen = f"/jobs/large/{job_id}", []
    shown = await site.open(path)
    while older := [link for link in shown.all("a", "href") if "?before=" in link]:
        seen += re.findall(r"new step ([\d,]+)", shown.text)
        shown = await site.open(older[0].removesuffix("#changes"))
        assert f"{path}#changes" in shown.all("a", "href")
    seen += re.findall(r"new step ([\d,]+)", shown.text)
    assert [f"{40 * n:,}" for n in range(70, 0, -1)] == seen
    assert "No older changes." in (await site.open(f"{path}?before=1")).text
    for invalid in ("-1", "x", "9" * 19, "9" * 5000):
        assert "new step 2,800" in (await site.open(f"{path}?before={invalid}")).text


async def test_job_without_checkpoints(site: Site, store: Store) -> None:
    """The page of a job without checkpoints explains when the first one is listed, or how to track the job again."""
    await track(store, JOB)
    shown = await site.open(f"/jobs/test/{JOB}")
    assert "not read yet" in shown.text
    assert "No checkpoints yet. Providers list the first one when the first epoch has ended." in shown.text
    assert "No changes yet." in shown.text
    await store.untrack(await store.find_jobs([JOB]))
    assert f"run checkpointd track {JOB} ." in (await site.open(f"/jobs/test/{JOB}")).text


async def test_epoch(site: Site, store: Store, provider: Provider) -> None:
    """The epoch of a job is shown if it is known: 0 before the first checkpoint, and then as the steps show."""
    provider.jobs = page([job(hyperparameters={"n_epochs": 100})])
    for listed, expected in (
        ([], "Epoch 0 of 100"),
        ([checkpoint(30)], "n epochs 100"),
        ([checkpoint(30), checkpoint(60)], "Epoch 2 of 100"),
    ):
        provider.checkpoints[JOB] = page(listed)
        await sync(store, provider)
        await read_job_list(store, provider)
        shown = await site.open(f"/jobs/test/{JOB}")
        assert [expected] == re.findall(r"Epoch \d+ of 100|n epochs 100", shown.text)


async def test_job_without_an_objective(site: Site, store: Store, provider: Provider) -> None:
    """Without a metric to choose by, the page of a job names no checkpoint to deploy, and explains why."""
    provider.checkpoints[JOB] = page([checkpoint(10, train_loss=None, train_mean_token_accuracy=0.5)])
    await sync(store, provider)
    shown = await site.open(f"/jobs/test/{JOB}")
    assert "unknown, because no checkpoint has a metric by which one is chosen by default." in shown.text
    assert ["step 10, latest: train 0.5000"] == shown.all("g", "aria-label")


async def test_long_job(site: Site, sql: asyncpg.Connection) -> None:
    """The charts of a job with thousands of checkpoints show a few hundred, with the best and the latest one."""
    await fill(sql, jobs=1, checkpoints=2000)
    await sql.execute(
        """update checkpointd.checkpoints set full_valid_loss = 0, missing_since = null where step_number = 40040;
        select checkpointd.summarise(array_agg(key), array_agg(false)) from checkpointd.jobs"""
    )
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    shown = await site.open(f"/jobs/large/{job_id}")
    labels = shown.all("g", "aria-label")
    assert 500 < len(labels) < 604
    assert any(label.startswith("step 40,040") and ", best" in label for label in labels)
    assert any(label.startswith("step 80,000") and "latest" in label for label in labels)
    assert re.search(r"The charts show \d+ of 2,000 checkpoints", shown.text)
    assert "page 1 of 40" in shown.text
    assert "page 40 of 40" in (await site.open(f"/jobs/large/{job_id}?page=40")).text


def _compare(*jobs: str, source: str = "large") -> str:
    """Return the address of the comparison of these jobs."""
    keys = (f"{quote(source, safe='')}/{quote(job, safe='')}" for job in jobs)
    return f"/compare?{urlencode([('job', key) for key in keys])}"


async def test_compare(site: Site, sql: asyncpg.Connection) -> None:
    """Jobs that are selected in the list are compared: one chart for each metric, and what differs first."""
    await fill(sql, jobs=3, checkpoints=4)
    await sql.execute(
        """update checkpointd.jobs set hyperparameters = json_build_object('n_epochs', 4, 'batch_size', key),
          payload = '{"method": {"type": "supervised"}, "seed": 42}'"""
    )
    listed = await site.open("/")
    boxes = [attributes for _, attributes in listed.elements if attributes.get("type") == "checkbox"]
    assert {("job", "large")} == {(box["name"], (box["value"] or "").partition("/")[0]) for box in boxes}
    jobs = [(box["value"] or "").partition("/")[2] for box in boxes][:2]
    await history.add_events(sql, jobs[:1], 200)
    shown = await site.open(_compare(*jobs))
    assert re.search(rf"Compare jobs A {jobs[0]} succeeded .* remove B {jobs[1]} succeeded", shown.text)
    metrics = ("loss", "token accuracy")
    titles = [f"{part} {metric}" for metric in metrics for part in ("Train", "Valid", "Full valid")]
    assert titles == re.findall(r"<h3[^>]*>([^<]+)</h3>", shown.html)
    labels = shown.all("g", "aria-label")
    assert any(re.match(r"steps 39 to 40: A 0\.\d+ to 0\.\d+, B 0\.\d+$", label) for label in labels)
    assert ["A", "B"] == re.findall(r">([A-H])</text>", shown.html)[:2]
    different, _, same = shown.text.partition("Differences")[2].partition("The same for all jobs")
    assert re.search(r" base model gpt\S+ gpt\S+ batch size \d \d ", different)
    assert " best value 0." in different
    assert re.search(r" best step of the curve \d+: smallest valid_loss, 0\.\d{4} ", different)
    assert re.search(r" checkpoints with its metric (\d of \d) \1 ", same)
    assert " method supervised supervised seed 42 42 n epochs 4 4 " in same
    assert _compare(jobs[1]) in shown.all("a", "href")
    shown = await site.open(f"{_compare(*jobs)}&axis=epoch")
    assert any(re.match(r"epoch 1\.\d\d, steps \d+ to \d+: A", label) for label in shown.all("g", "aria-label"))


async def test_compare_other_numbers_of_jobs(site: Site, sql: asyncpg.Connection) -> None:
    """At most eight jobs are compared, each once, and the page states what it does not show."""
    await fill(sql, jobs=9, checkpoints=2)
    jobs = [row["id"] for row in await sql.fetch("select id from checkpointd.jobs order by key")]
    shown = await site.open(_compare(*jobs))
    assert "1 of the jobs is not shown: at most 8 tracked jobs are compared." in shown.text
    assert ["A", "H"] == sorted(set(re.findall(r">([A-H])</span>", shown.html)))[::7]
    shown = await site.open(_compare(jobs[0], jobs[0], "ftjob-unknown"))
    assert "1 of the jobs is not shown" in shown.text
    assert "The same for all jobs" not in shown.text
    for path in ("/compare", "/compare?job=", "/compare?job=%00", "/compare?job=a/b&job=%25/%25&axis=x"):
        assert "Select jobs in the list of jobs to compare them." in (await site.open(path)).text


ELEMENTS = {
    "a", "body", "button", "caption", "circle", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure",
    "footer", "foreignobject", "form", "g", "h1", "h2", "h3", "head", "header", "html", "input", "label", "li",
    "line", "link", "main", "meta", "nav", "ol", "p", "path", "progress", "q", "rect", "script", "section", "span",
    "strong", "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "time", "title", "tr", "ul",
}  # fmt: skip
"""The elements that the templates use."""

INVISIBLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


async def test_hostile_names(site: Site, sql: asyncpg.Connection) -> None:
    """No name, status or error becomes markup, an attribute that runs a script, or an invisible character."""
    await hostile.store_hostile(sql)
    jobs = [row["id"] for row in await sql.fetch("select id from fine_tuning.jobs order by created_at desc")]
    paths = [f"/jobs/hostile/{quote(one, safe='')}" for one in jobs]
    paths.append(_compare(*jobs, source="hostile"))
    for path in ("/", f"/?q={quote(hostile.EVERYTHING)}", *paths):
        shown = await site.open(path)
        assert set() == {tag for tag, _ in shown.elements} - ELEMENTS
        assert ["/static/script.js"] == [a.get("src") for tag, a in shown.elements if tag == "script"]
        names = {name for _, attributes in shown.elements for name in attributes}
        assert set() == {name for name in names if name.startswith("on")} | names & {"style", "autofocus", "srcdoc"}
        assert all(link.startswith(("/", "#")) or not link for link in shown.all("a", "href"))
        assert not INVISIBLE.search(shown.html)
        assert hostile.LONG not in shown.html
        assert len(shown.html) < 600_000
    assert "{{ 7 * 7 }}" in (await site.open(paths[0])).text


async def test_not_found(site: Site) -> None:
    """The page of a job that was never tracked, and every path without a page, is a 404 with an explanation."""
    for path in (
        "/jobs/test/ftjob-x",
        "/jobs/test/%00",
        "/jobs",
        "/nonsense",
        "/static/../web.py",
        "/static/%2e%2e/web.py",
    ):
        response = await site.get(path)
        assert (404, True) == (response.status, "Not found" in response.text)


async def test_only_get_and_head(site: Site) -> None:
    """The status port answers GET and HEAD, and no other method."""
    assert (200, "") == (await site.get("/", "HEAD"))[:2]
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert 405 == (await site.get("/", method)).status


@pytest.mark.parametrize("path", ["/", "/jobs/a/b", "/static/style.css", "/metrics", "/livez"])
async def test_headers(site: Site, path: str) -> None:
    """The headers of every response forbid foreign scripts, frames, content sniffing and caching."""
    headers = (await site.get(path)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert {
        "default-src": "'none'",
        "script-src": "'self'",
        "connect-src": "'self'",
        "style-src": "'self'",
        "frame-ancestors": "'none'",
    }.items() <= policy.items()
    assert not {"unsafe-inline", "unsafe-eval", "*"} & set(re.split(r"[' ]", headers["Content-Security-Policy"]))
    assert ("nosniff", "no-referrer", "no-store") == tuple(
        headers[name] for name in ("X-Content-Type-Options", "Referrer-Policy", "Cache-Control")
    )


@pytest.mark.parametrize("path", ["/", "/metrics", "/static/script.js"])
async def test_foreign_host_names_are_refused(site: Site, path: str) -> None:
    """On loopback, a web page cannot read this port by resolving its own host name to 127.0.0.1."""
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


async def test_host_names_of_an_open_port(port: int, store: Store) -> None:
    """If the port is open to other machines, Prometheus and proxies may use any host name."""
    async with _serving(port, store, host="0.0.0.0") as site:
        for path in ("/", "/metrics"):
            assert 200 == (await site.get(path, Host="checkpointd.example:8787")).status


async def test_pages_read_only_the_views(port: int, url: str, sql: asyncpg.Connection) -> None:
    """A role that may read the views and no table can read the pages."""
    await fill(sql, jobs=2, checkpoints=3)
    job_id = await sql.fetchval("select id from fine_tuning.jobs")
    await sql.execute("create role onlooker; grant usage on schema fine_tuning to onlooker")
    await sql.execute("grant select on all tables in schema fine_tuning to onlooker")

    async def limited() -> asyncpg.Connection:
        connection = await connect(url)
        await connection.execute("set role onlooker")
        return connection

    try:
        async with open_store(limited) as store, _serving(port, store) as site:
            for path in ("/", "/?q=stale", f"/jobs/large/{job_id}", _compare(job_id)):
                await site.open(path)
    finally:
        await sql.execute("drop owned by onlooker; drop role onlooker")


async def test_database_unavailable(port: int, empty_url: str) -> None:
    """If the database is away or has no schema, a page is a 503 that explains it, and the port continues to work."""
    for url in ("postgresql://u:canary@127.0.0.1:1/db", empty_url):
        async with (
            open_store(lambda url=url: connect(url)) as store,  # type: ignore[misc]
            _serving(port, store) as site,
        ):
            for path in ("/", "/jobs/a/b", "/compare?job=a/b"):
                response = await site.get(path)
                assert 503 == response.status
                assert "The database cannot be read" in response.text
                assert "Traceback" not in response.text
                assert "canary" not in response.text
            assert 200 == (await site.get("/livez")).status


async def test_slow_database(site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the database does not answer in time, a page is a 503. The next page works when the database does."""
    monkeypatch.setattr(web, "PAGE_SECONDS", 0.2)
    async with sql.transaction():
        await sql.execute("lock table checkpointd.jobs in access exclusive mode")
        response = await site.get("/")
        assert (503, True) == (response.status, "no response in time" in response.text)
        assert "reading this page took longer than" in response.text
    monkeypatch.undo()
    await site.open("/")


@pytest.mark.slow
async def test_many_jobs_are_listed_soon(port: int, store: Store, sql: asyncpg.Connection) -> None:
    """The page that lists 10,000 jobs takes at most 30 times as long as one reading of their rows by PostgreSQL."""
    await fill(sql, jobs=10_000, checkpoints=10)
    readings, pages = [], []
    async with _serving(port, store) as site:
        for _ in range(20):
            started = time.perf_counter()
            await sql.fetch("""
                select count(*) from checkpointd.jobs join checkpointd.polling on polling.job = jobs.key
                where jobs.status is not null and polling.failures >= 0""")
            readings.append(time.perf_counter() - started)
            started = time.perf_counter()
            assert 200 == (await site.get("/")).status
            pages.append(time.perf_counter() - started)
    assert min(pages) < 30 * min(readings)


async def test_large_documents(port: int, url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading pages about jobs with documents of 7 MB and long texts takes less memory than one such document.

    The page of a job says what it omits.
    """
    monkeypatch.setattr(web, "PAGE_SECONDS", 60)  # on a busy machine; the size of what is read is the claim
    await fill(sql, jobs=3, checkpoints=5)
    await sql.execute(
        """with large as materialized (
          select json_build_object('n_epochs', 3, 'x', string_agg(md5(n::text), '')) as document
          from generate_series(1, 220000) as n)
        update checkpointd.jobs
        set hyperparameters = document, error = document, model = repeat('m', 60000)
        from large"""
    )
    await sql.execute("update checkpointd.checkpoints set fine_tuned_model_checkpoint = repeat('😀', 60000)")
    job_id = await sql.fetchval("select id from fine_tuning.jobs limit 1")
    async with open_store(lambda: connect(url)) as store, _serving(port, store) as site:
        await site.open("/")
        tracemalloc.start()
        try:
            await site.open("/")
            await site.open(f"/jobs/large/{job_id}")
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()
        assert "too large to show" in (await site.get(f"/jobs/large/{job_id}")).text


async def test_many_requests_at_once(
    port: int, url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many simultaneous requests are all answered, over no more connections than the store has."""
    monkeypatch.setattr(web, "PAGE_SECONDS", 60)  # the test is not about time, and the machine may be busy
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 60)
    monkeypatch.setattr(listener, "RESPONSE_SECONDS", 60)
    await fill(sql, jobs=60, checkpoints=3)
    async with open_store(lambda: connect(url), 2) as store, _serving(port, store) as site:
        responses = await asyncio.gather(*(site.get("/") for _ in range(30)))
        held = await sql.fetchval("select count(*) from pg_stat_activity where application_name = 'checkpointd'")
    assert {200} == {response.status for response in responses}
    assert held <= 2
