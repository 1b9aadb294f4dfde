"""Mistakes that are common in programs of this kind, and for each a test that must catch it.

`python tests/project/planted.py` makes each mistake in a copy of the project and runs its test there, which must fail.
Without a mistake all these tests must pass. `python tests/project/planted.py TEST…` runs other tests for each mistake,
to see which mistakes they catch.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[2]
COPIED = ("daemon", "sql", "tests", "pyproject.toml")
PACKAGE = "daemon/checkpointd"


class Edit(NamedTuple):
    """A change of a file: `old`, which occurs in it exactly once, is replaced by `new`."""

    file: str
    old: str
    new: str


class Planted(NamedTuple):
    """A mistake: its name, the test that catches it, and the edits that make it."""

    name: str
    test: str
    edits: Sequence[Edit]


PLANTED = [
    Planted(
        "early stop",
        "tests/polling/test_poller.py::test_late_metric_is_found_after_quiet_polls",
        [
            Edit(f"{PACKAGE}/provider/client.py", "import random\n", "import random\nimport re\n"),
            Edit(f"{PACKAGE}/polling/workers.py", "lease.id, claim.poll_by, wait, retry_first", "lease.id, claim.poll_by, wait, lease.newest_step, retry_first"),
            Edit(f"{PACKAGE}/provider/client.py", "wait: Wait = no_wait, *, retry_first", "wait: Wait = no_wait, newest: int | None = None, *, retry_first"),
            Edit(f"{PACKAGE}/provider/client.py", "wait, pages, now, retry_first", "wait, pages, now, newest, retry_first"),
            Edit(f"{PACKAGE}/provider/client.py", "pages: list[Page], pagination: Pagination, *,", "pages: list[Page], pagination: Pagination, newest, *,"),
            Edit(f"{PACKAGE}/provider/client.py", "                pages.append(page)\n", """\
                pages.append(page)
                if newest and any(int(s) <= newest for i in page.items for s in re.findall(rb'"step_number": *([0-9]+)', bytes(i))):
                    return None
"""),
        ],
    ),
    Planted(
        "per-page commit with early stop",
        "tests/service/test_daemon.py::test_kill_during_a_burst",
        [
            Edit(f"{PACKAGE}/polling/workers.py", "            raw = await client.list_checkpoints(\n", """\
            async def save(page):
                return await save_page(self._store, lease, read_listing(lease.id, [page]))
            raw = await client.list_checkpoints(
"""),
            Edit(f"{PACKAGE}/polling/workers.py", "lease.id, claim.poll_by, wait, retry_first", "lease.id, claim.poll_by, wait, save, retry_first"),
            Edit(f"{PACKAGE}/polling/workers.py", "from checkpointd.polling.source import", "from checkpointd.domain.listing import read_listing\nfrom checkpointd.postgres.save import save_page\nfrom checkpointd.polling.source import"),
            Edit(f"{PACKAGE}/provider/client.py", "wait: Wait = no_wait, *, retry_first", "wait: Wait, save, *, retry_first"),
            Edit(f"{PACKAGE}/provider/client.py", "wait, pages, now, retry_first", "wait, pages, now, save, retry_first"),
            Edit(f"{PACKAGE}/provider/client.py", "pages: list[Page], pagination: Pagination, *,", "pages: list[Page], pagination: Pagination, save, *,"),
            Edit(f"{PACKAGE}/provider/client.py", "                pages.append(page)\n", """\
                pages.append(page)
                if await save(page.items):
                    return None
"""),
            Edit(f"{PACKAGE}/postgres/save.py", "async def _save_compared(", '''\
async def save_page(store, lease, listing):
    """Commit a page as soon as it is read. Returns whether one of its checkpoints was known before."""
    async with store.connection() as connection, connection.transaction():
        rows = await connection.fetch("select id from checkpointd.checkpoints where job = $1", lease.job)
        new = [item for item in listing.checkpoints if item.id not in {row["id"] for row in rows}]
        for item in new:
            await connection.execute(
                "insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint,"
                " payload) values ($1, $2, $3, $4, $5, $6)",
                lease.job, item.id, item.step_number, item.created_at, item.fine_tuned_model_checkpoint, item.payload,
            )
        await connection.execute(
            "insert into checkpointd.changes (job, kind, checkpoint_id) select $1, 'new', unnest($2::text[])",
            lease.job, [item.id for item in new],
        )
        return len(new) < len(listing.checkpoints)


async def _save_compared('''),
        ],
    ),
    Planted(
        "success on an incomplete listing",
        "tests/polling/test_no_false_success.py::test_no_second_page",
        [Edit(f"{PACKAGE}/domain/poll.py", "complete=failure is None,", "complete=failure is None or listing is not None,")],
    ),
    Planted(
        "no fence",
        "tests/polling/test_poller.py::test_poll_that_lost_its_lease_writes_nothing",
        [
            Edit("sql/queries/read_polls.sql", "using (job, lease_token)", "using (job)"),
            Edit("sql/queries/read_polls.sql", "select polling.job, polling.lease_token, lease.is_listed", "select polling.job, lease.lease_token, lease.is_listed"),
            Edit("sql/views/saves.sql", "join unnest(poll_job, poll_lease_token) as lease (job, lease_token) using (job, lease_token)", "join unnest(poll_job) as lease (job) using (job)"),
        ],
    ),
    Planted(
        "client's clock in leases",
        "tests/polling/test_leases.py::test_the_databases_clock_decides",
        [
            Edit("sql/queries/claim_due_jobs.sql", "(select clock_timestamp() as now)", "(select to_timestamp($9::float8) as now)"),
            Edit(f"{PACKAGE}/postgres/store.py", "            FAILURE_CAP,\n        )\n", "            FAILURE_CAP,\n            time.time(),\n        )\n"),
            Edit(f"{PACKAGE}/postgres/store.py", "import asyncio\n", "import asyncio\nimport time\n"),
        ],
    ),
    Planted(
        "counters n = n + 1",
        "tests/polling/test_leases.py::test_a_lost_answer_counts_once",
        [
            Edit(f"{PACKAGE}/postgres/save_rows.py", "*columns(RejectRow, reject_rows(rejects)),", "*columns(RejectRow, []),"),
            Edit(f"{PACKAGE}/postgres/save.py", "    compared = [one.limited(most_items)", """\
    if keep:  # counted whether or not the leases still hold
        rejects = reject_rows((p.lease.job, r) for p in polls if p.listing for r in p.listing.rejects)
        await connection.execute(
            "select checkpointd.save_rejects($1::text::bigint[], $2, $3, $4, $5::text::bool[], 1000)", *columns(RejectRow, rejects)
        )
    compared = [one.limited(most_items)"""),
            Edit(f"{PACKAGE}/postgres/save.py", "import QuietRow, columns", "import QuietRow, RejectRow, columns"),
            Edit(f"{PACKAGE}/postgres/save.py", "import quiet_row, write_polls", "import quiet_row, reject_rows, write_polls"),
        ],
    ),
    Planted(
        "swallowed CancelledError",
        "tests/polling/test_poller.py::test_drain_releases_polls_that_do_not_end",
        [
            Edit(f"{PACKAGE}/polling/workers.py", """\
        except asyncio.CancelledError:
            self._queue.put_now(FinishedPoll(claim, source, None, None, 0))
            raise
        except Exception:""", "        except BaseException:"),
        ],
    ),
    Planted(
        "ignored has_more",
        "tests/polling/test_no_false_success.py::test_pages_smaller_than_requested",
        [
            Edit(f"{PACKAGE}/provider/client.py", "        self._backoff = limits.backoff\n", "        self._backoff = limits.backoff\n        self._page_size = limits.page_size\n"),
            Edit(f"{PACKAGE}/provider/client.py", "                pages.append(page)\n", """\
                pages.append(page)
                if len(page.items) < self._page_size:  # a short page is the last one
                    return None
"""),
        ],
    ),
    Planted(
        "deletion of what is absent",
        "tests/polling/test_poller.py::test_missing_after_two_listings",
        [
            Edit("sql/views/saves.sql", "update checkpointd.checkpoints\n  set missing_since = case when mark.missing then clock_timestamp() end,\n    is_expired = mark.missing and coalesce(checkpoints.expires_at <= clock_timestamp(), false)\n  from", "delete from checkpointd.checkpoints\n  using"),
            Edit("sql/views/saves.sql", "where checkpoints.job = mark.job", "where mark.missing\n    and checkpoints.job = mark.job"),
        ],
    ),
    Planted(
        "null overwriting",
        "tests/polling/test_poller.py::test_null_erases_nothing",
        [Edit("sql/views/saves.sql", " valid_loss = coalesce(listed.valid_loss, checkpoints.valid_loss)", " valid_loss = listed.valid_loss")],
    ),
    Planted(
        "no dedupe",
        "tests/polling/test_leases.py::test_items_listed_twice_are_one_checkpoint",
        [
            Edit(f"{PACKAGE}/domain/listing.py", "    checkpoints: dict[str, Checkpoint] = {}\n", "    checkpoints: list[Checkpoint] = []\n"),
            Edit(f"{PACKAGE}/domain/listing.py", "checkpoints.update((checkpoint.id, checkpoint) for checkpoint in read)", "checkpoints += read"),
            Edit(f"{PACKAGE}/domain/listing.py", "list(checkpoints.values()), rejects, e.kind", "checkpoints, rejects, e.kind"),
            Edit(f"{PACKAGE}/domain/listing.py", "list(checkpoints.values()), rejects, None", "checkpoints, rejects, None"),
            Edit(f"{PACKAGE}/domain/listing.py", "    found: dict[str, Checkpoint] = {}\n", "    found: list[Checkpoint] = []\n"),
            Edit(f"{PACKAGE}/domain/listing.py", "(earlier := found.get(checkpoint.id))", "(earlier := None)"),
            Edit(f"{PACKAGE}/domain/listing.py", "found[checkpoint.id] = checkpoint", "found.append(checkpoint)"),
            Edit(f"{PACKAGE}/domain/listing.py", "list(found.values())", "found"),
        ],
    ),
    Planted(
        "an in-memory seen-set",
        "tests/polling/test_leases.py::test_a_lost_save_is_not_remembered",
        [
            Edit(f"{PACKAGE}/domain/poll.py", "        if failure or hashed != lease.digest:\n", "        if failure or hashed not in _seen:\n            _seen.add(hashed)\n"),
            Edit(f"{PACKAGE}/domain/poll.py", "def evaluate(", "_seen: set[bytes] = set()\n\n\ndef evaluate("),
        ],
    ),
    Planted(
        "a gateway's 404 taken for a missing job",
        "tests/reports/test_attribution.py::test_few_requests_during_an_outage",
        [Edit(f"{PACKAGE}/provider/responses.py", "        return ErrorClass.GATEWAY  # not in", "        return ErrorClass.MISSING  # not in")],
    ),
    Planted(
        "bytes compared instead of content",
        "tests/reports/test_content.py::test_other_pages_are_equal",
        [Edit(f"{PACKAGE}/domain/poll.py", " and content == lease.content_digest:", " and hashed == lease.digest:")],
    ),
    Planted(
        "rows for whatever changes",
        "tests/reports/test_growth.py::test_rows_do_not_grow_for_ever",
        [Edit(f"{PACKAGE}/domain/growth.py", "    return instability >= UNSTABLE_POINTS\n", "    return instability < 0\n")],
    ),
    Planted(
        "an odd value that costs its item",
        "tests/reports/test_reading.py::test_odd_unimportant_value",
        [Edit(f"{PACKAGE}/domain/reading.py", "        if not isinstance(value, Odd):\n            return value\n", "        if not isinstance(value, Odd):\n            return value\n        raise BadItemError(value.reason)\n")],
    ),
    Planted(
        "an empty variable taken for a value",
        "tests/reports/test_environment.py::test_empty_variables_count_as_unset",
        [
            Edit(f"{PACKAGE}/__main__.py", "if not value]:", "if value is None]:"),
            Edit(f"{PACKAGE}/settings/environment.py", "        and (value := variable(name))\n", "        and (value := variable(name) or '') is not None\n"),
        ],
    ),
    Planted(
        "a key that is read once",
        "tests/reports/test_environment.py::test_a_key_that_is_replaced",
        [Edit(f"{PACKAGE}/polling/setup.py", "        if (found, found_proxy) == (fields, proxy):\n", "        if found:\n")],
    ),
    Planted(
        "only the first address of a host",
        "tests/reports/test_postgres.py::test_each_address_of_a_name_is_tried",
        [Edit(f"{PACKAGE}/postgres/addresses.py", "(str(address[0]) for *_, address in found))", "(str(address[0]) for *_, address in found[:1]))")],
    ),
    Planted(
        "counted leases",
        "tests/polling/test_leases.py::test_restored_database_repeats_no_lease",
        [Edit("sql/queries/claim_due_jobs.sql", "checkpointd.random_token()", "polling.lease_token + 1")],
    ),
    Planted(
        "a time without the time at which it was written",
        "tests/postgres/test_clock_steps.py::test_no_step_of_the_clock_delays_work",
        [Edit("sql/queries/charge_source.sql", ",\n  charged_at = clock_timestamp()\n", "\n")],
    ),
    Planted(
        "a silence that no command ends",
        "tests/service/test_pauses.py::test_resumption_ends_a_silence",
        [Edit("sql/queries/resume_sources.sql", "  resumed_at = clock_timestamp(),\n", "")],
    ),
    Planted(
        "a renamed source that is registered again",
        "tests/cli/test_sources.py::test_names_of_a_renamed_source",
        [Edit("sql/queries/register_sources.sql", "coalesce(renamed.name, source.name)", "source.name")],
    ),
    Planted(
        "new jobs without a bound",
        "tests/polling/test_new_jobs.py::test_the_budget",
        [Edit("sql/queries/discover_jobs.sql", "  limit (select jobs from budget)\n", "")],
    ),
    Planted(
        "events after a failure that are never read",
        "tests/polling/test_events.py::test_an_interrupted_pass_resumes",
        [Edit(f"{PACKAGE}/polling/event_reading.py", "            await self._save()\n            raise\n", "            await self._save()\n")],
    ),
    Planted(
        "events without a fence",
        "tests/polling/test_events.py::test_a_lost_lease_writes_nothing",
        [Edit("sql/views/event_saves.sql", "    and lease_token = list_lease_token\n", "")],
    ),
    Planted(
        "sealed before the events were read",
        "tests/polling/test_events.py::test_a_job_is_sealed_after_the_complete_pass",
        [Edit("sql/views/saves.sql", "            and sources.events_looked_at\n              between", "            and sources.charged_at\n              between")],
    ),
    Planted(
        "a repeated step that overwrites",
        "tests/polling/test_events.py::test_a_repeated_step_shows_the_newest_values",
        [Edit("sql/views/event_saves.sql", "join differing on differing.step_number = steps.step_number and differing.replaces", "join differing on false")],
    ),
    Planted(
        "a server that inherits the keys",
        "tests/postgres/test_embedded.py::test_no_key_in_the_environment",
        [Edit(f"{PACKAGE}/postgres/embedded.py", "                env=_environment(),\n", "")],
    ),
    Planted(
        "a cursor that moves before the delivery",
        "tests/webhooks/test_sender.py::test_a_cancelled_sender",
        [Edit(f"{PACKAGE}/webhooks/sender.py", "            answer = await self._post(endpoint, message)\n", """\
            await self._advance(lease, message.seq, self._lease_seconds)
            answer = await self._post(endpoint, message)
""")],
    ),
    Planted(
        "a webhook without a lease",
        "tests/webhooks/test_kills.py::test_five_senders",
        [Edit("sql/queries/claim_webhook.sql", "  and checkpointd.is_over(lease_expires_at, leased_at, clock.now)\n", "")],
    ),
    Planted(
        "a repetition with another id",
        "tests/webhooks/test_answers.py::test_answers_that_may_change",
        [Edit(f"{PACKAGE}/webhooks/signature.py", 'f"{webhook} {last.seq} {last.at}"', 'f"{webhook} {last.seq} {last.age}"')],
    ),
]  # fmt: skip


def plant(edits: Sequence[Edit], top: Path) -> None:
    """Make edits below `top`. Raises ValueError if an old text does not occur exactly once."""
    for file, old, new in edits:
        text = (top / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{file}: occurs {text.count(old)} times, not once: {old!r}")
        (top / file).write_text(text.replace(old, new), encoding="utf-8")


def try_out(edits: Sequence[Edit], tests: Sequence[str]) -> tuple[bool, str]:
    """Run tests in a copy of the project with these edits. Returns whether they passed, and the output of pytest."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        top = Path(folder)
        for name in COPIED:
            if (TOP / name).is_dir():
                shutil.copytree(TOP / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(TOP / name, top / name)
        plant(edits, top)
        env = {**os.environ, "PYTHONPATH": str(top / "daemon")}
        where = "import checkpointd.postgres.queries as q; print(q.__file__, q.folder(), sep='\\n')"
        imported = subprocess.run(
            [sys.executable, "-c", where], cwd=top, env=env, capture_output=True, text=True, check=True
        )
        if not all(Path(path).is_relative_to(top) for path in imported.stdout.splitlines()):
            raise RuntimeError(f"this is imported instead of the copy: {imported.stdout}")
        options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow"]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        ended = subprocess.run(command, cwd=top, env=env, capture_output=True, text=True, check=False)
    if ended.returncode not in {0, 1} or re.search(r"^ERROR \S", ended.stdout, flags=re.MULTILINE):
        raise RuntimeError(f"the tests could not run:\n{ended.stdout}")
    return ended.returncode == 0, ended.stdout


def main(tests: Sequence[str]) -> int:
    """Try out all mistakes, with these tests or each with its own. Returns 0 if each is caught."""
    passed, output = try_out([], tests or sorted({planted.test for planted in PLANTED}))
    if not passed:
        print(output, "Without a mistake these tests must pass.", sep="\n")
        return 1
    missed = 0
    for planted in PLANTED:
        passed, output = try_out(planted.edits, tests or [planted.test])
        missed += passed
        caught_by = "" if passed else next(iter(re.findall(r"^FAILED (\S+)", output, flags=re.MULTILINE)))
        reason = next(iter(re.findall(r"^E +(.*)", output, flags=re.MULTILINE)), "")
        print(f"{'MISSED' if passed else 'caught'}: {planted.name}: {caught_by}: {reason[:100]}", flush=True)
    print(f"{len(PLANTED) - missed} of {len(PLANTED)} planted mistakes caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
