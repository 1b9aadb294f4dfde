"""Damaged copies of recorded responses are read, compared and saved: no crash, and every item is accounted for."""

import json
import random
import re
from collections import Counter
from typing import Any

import asyncpg
import pytest

from checkpointd.domain.checkpoint import METRICS
from checkpointd.domain.diff import StoredCheckpoint, compare, values
from checkpointd.domain.listing import Listing, read_listing
from checkpointd.domain.poll import Lease, PollResult, evaluate
from checkpointd.postgres.save import save_changed, save_quiet
from checkpointd.postgres.store import Store
from checkpointd.provider.page import NotAListError, Page, read_page
from service.faults.invariants import ALWAYS, HARM
from service.faults.mutations import mutated
from service.faults.play import Play
from support.harness import CADENCE, track
from support.lists import raw_listing
from support.paths import RECORDED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DOCUMENTS = [path.read_bytes() for path in sorted(RECORDED.glob("*.json"))]

INPUTS_OF_A_JOB = 10
JOBS = 100
"""How many damaged responses a job gets before the good one, and how many jobs are saved at the same time."""


DUPLICATE = """
select fine_tuning_job_id, checkpoint_id from fine_tuning.changes where kind = 'new'
group by fine_tuning_job_id, checkpoint_id having count(*) > 1"""
"""Damaged ids may be those of several jobs, so a checkpoint is identified by its job and its id."""


def _read(document: bytes) -> Page | None:
    """Return the page, or None if the document is no page of a list. Anything but NotAListError is a crash."""
    try:
        return read_page(document)
    except NotAListError:
        return None


def _lease(job: str, **state: Any) -> Lease:
    unknown = dict.fromkeys(Lease.__struct_fields__)
    counts = {"job": 1, "source": 1, "lease_token": 1, "instability": 0, "failures": 0, "equal_failures": 0}
    times = {"waited_s": 0, "claimed_at": 1e9, "tracked_at": 1e9, "source_not_ok": False, "is_listed": True}
    return Lease(**{**unknown, **counts, **times, "id": job, **state})


def _evaluate(lease: Lease, page: Page) -> PollResult:
    return evaluate(lease, raw_listing(page.items, failure=page.failure), CADENCE, lambda _: False)


def _stored(listing: Listing) -> dict[str, StoredCheckpoint]:
    return {c.id: StoredCheckpoint(values(c), values(c), missing=False) for c in listing.checkpoints}


def _assert_accounted(page: Page, listing: Listing) -> None:
    """Check that each item is a checkpoint or a reject; of items that are equal, one is."""
    if listing.foreign is not None:
        assert not listing.checkpoints
        return
    counted = len(listing.checkpoints) + listing.unreadable
    if counted != len(page.items):
        distinct = {_canonical(bytes(item)) for item in page.items}
        assert len(distinct) <= counted <= len(page.items), listing.rejects
    assert len({c.id for c in listing.checkpoints}) == len(listing.checkpoints)


def _canonical(item: bytes) -> str:
    try:
        return json.dumps(json.loads(item), sort_keys=True)
    except (ValueError, RecursionError):
        return item.hex()


@pytest.mark.play("fuzzed inputs", short=10_000, long=1_000_000, round=50_000)
def test_fuzzed_responses(play: Play, rng: random.Random) -> None:
    """A damaged response is no page, or each of its items is a checkpoint or a reject, and no value is erased."""
    known = {}
    for document in DOCUMENTS:
        page = read_page(document)
        job = json.loads(document)["data"][0]["fine_tuning_job_id"]
        known[document] = job, _stored(read_listing(job, [page.items]))
    pages = 0
    for _ in range(play.amount):
        document = rng.choice(DOCUMENTS)
        job, stored = known[document]
        damaged = mutated(document, rng)
        play.made += 1
        try:
            if (page := _read(damaged)) is None:
                continue
            pages += 1
            result = _evaluate(_lease(job), page)
            assert result.listing is not None
            _assert_accounted(page, result.listing)
            diff = compare(stored, result.listing, complete=result.complete, absent_before=())
            assert len(diff.new) == len({c.id for c in result.listing.checkpoints} - stored.keys())
            if result.complete:
                again = _lease(job, digest=result.digest, content_digest=result.content_digest)
                assert _evaluate(again, page).quiet
        except Exception:
            play.violations["other"] += 1
            print(f"input {play.made}: {damaged!r}")  # noqa: T201
            raise
    print(f"{pages} of {play.made} are pages")  # noqa: T201
    assert play.made // 20 < pages < play.made


@pytest.mark.play("fuzzed saves", short=2_000, long=50_000, round=10_000)
async def test_fuzzed_saves(store: Store, sql: asyncpg.Connection, play: Play, rng: random.Random) -> None:
    """Damaged responses are saved without an error, and the good response after them stores every value."""
    for first in range(0, play.amount // INPUTS_OF_A_JOB, JOBS):
        names = [f"ftjob-{number:06d}" for number in range(first, first + JOBS)]
        documents = {name: _document_of(name, rng) for name in names}
        await track(store, *names)
        for _ in range(INPUTS_OF_A_JOB):
            await _save(store, {name: mutated(document, rng) for name, document in documents.items()}, play)
        await _save(store, documents, play)
        play.violations["lost"] += len(lost := await _lost(sql, documents))
        assert [] == lost
    for name, statement in {**ALWAYS, "duplicate": DUPLICATE}.items():
        if name.startswith(("half-written", "duplicate", "feed")):
            rows = await sql.fetch(statement)
            play.violations[HARM.get(name.partition(":")[0], "other")] += len(rows)
            assert [] == rows, name
    counts = await sql.fetch("select outcome, count(*) from fine_tuning.polls group by outcome order by 2 desc")
    print(*counts)  # noqa: T201


def _document_of(name: str, rng: random.Random) -> bytes:
    """Return a recorded response as one of a job: its job and its checkpoints have ids that no other job has."""
    document = rng.choice(DOCUMENTS)
    job = json.loads(document)["data"][0]["fine_tuning_job_id"]
    document = document.replace(job.encode(), name.encode())
    return re.sub(rb'"id": *"', rb"\g<0>" + name.encode(), document)


async def _save(store: Store, documents: dict[str, bytes], play: Play) -> None:
    """Claim the jobs, evaluate the responses that are pages, and save them."""
    pages = {name: page for name, document in documents.items() if (page := _read(document))}
    play.made += len(documents)
    leases = await store.claim_named_jobs(await store.find_jobs(list(pages)), {}, 60.0)
    assert len(pages) == len(leases)
    results = [_evaluate(lease, pages[lease.id]) for lease in leases]
    quiet, changed = ([r for r in results if r.quiet is is_quiet] for is_quiet in (True, False))
    saved = (await save_quiet(store, quiet) if quiet else []) + (await save_changed(store, changed) if changed else [])
    assert Counter(r.lease.id for r in results) == Counter(s.result.lease.id for s in saved)
    assert [] == [s.result.error for s in saved if s.result.error_class == "internal"]


async def _lost(sql: asyncpg.Connection, documents: dict[str, bytes]) -> list[str]:
    """Return the checkpoints of which a value is not stored. Jobs that became unstable are left out."""
    steady = "select id from fine_tuning.jobs where unstable_since is null and id = any($1)"
    names = {row["id"] for row in await sql.fetch(steady, list(documents))}
    rows = await sql.fetch(f"select id, step_number, {', '.join(METRICS)} from fine_tuning.checkpoints")
    stored = {row["id"]: dict(row) for row in rows}
    sent = [item for name in names for item in json.loads(documents[name])["data"]]
    expected = [{"id": i["id"], "step_number": i["step_number"], **i["metrics"]} for i in sent]
    return [e["id"] for e in expected if not e.items() <= stored.get(e["id"], {}).items()]
