"""Mistakes that are common in programs of this kind, and for each a test that must catch it.

`python tests/project/planted.py` makes each mistake in a copy of the project and runs its test there, which must fail.
Without a mistake all these tests must pass.
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
            Edit(f"{PACKAGE}/polling/poller.py", "claim.lease.id, claim.poll_by, limiter.wait)", "claim.lease.id, claim.poll_by, limiter.wait, claim.lease.newest_step)"),
            Edit(f"{PACKAGE}/provider/client.py", "deadline: float, wait: Wait = no_wait) -> RawListing:", "deadline: float, wait: Wait = no_wait, newest: int | None = None) -> RawListing:"),
            Edit(f"{PACKAGE}/provider/client.py", "        listing = await self._list(path, deadline, wait)", "        listing = await self._list(path, deadline, wait, newest)"),
            Edit(f"{PACKAGE}/provider/client.py", "            again = await self._list(path, deadline, wait)", "            again = await self._list(path, deadline, wait, newest)"),
            Edit(f"{PACKAGE}/provider/client.py", "def _list(self, path: str, deadline: float, wait: Wait)", "def _list(self, path: str, deadline: float, wait: Wait, newest: int | None)"),
            Edit(f"{PACKAGE}/provider/client.py", "                pages.append(page.items)\n", """\
                pages.append(page.items)
                if newest and any(int(s) <= newest for i in page.items for s in re.findall(rb'"step_number": *([0-9]+)', bytes(i))):
                    return RawListing(pages, None, pagination.requests)
"""),
        ],
    ),
    Planted(
        "per-page commit with early stop",
        "tests/service/test_daemon.py::test_kill_during_a_burst",
        [
            Edit(f"{PACKAGE}/polling/poller.py", "            raw = await client.list_checkpoints(claim.lease.id, claim.poll_by, limiter.wait)\n", """\
            async def save(page):
                return await save_page(self._store, claim.lease, read_listing(claim.lease.id, [page]))
            raw = await client.list_checkpoints(claim.lease.id, claim.poll_by, limiter.wait, save)
"""),
            Edit(f"{PACKAGE}/polling/poller.py", "from checkpointd.polling.source import", "from checkpointd.domain.listing import read_listing\nfrom checkpointd.postgres.save import save_page\nfrom checkpointd.polling.source import"),
            Edit(f"{PACKAGE}/provider/client.py", "deadline: float, wait: Wait = no_wait) -> RawListing:", "deadline: float, wait: Wait, save) -> RawListing:"),
            Edit(f"{PACKAGE}/provider/client.py", "        listing = await self._list(path, deadline, wait)", "        listing = await self._list(path, deadline, wait, save)"),
            Edit(f"{PACKAGE}/provider/client.py", "            again = await self._list(path, deadline, wait)", "            again = await self._list(path, deadline, wait, save)"),
            Edit(f"{PACKAGE}/provider/client.py", "def _list(self, path: str, deadline: float, wait: Wait)", "def _list(self, path: str, deadline: float, wait: Wait, save)"),
            Edit(f"{PACKAGE}/provider/client.py", "                pages.append(page.items)\n", """\
                pages.append(page.items)
                if await save(page.items):
                    return RawListing(pages, None, pagination.requests)
"""),
            Edit(f"{PACKAGE}/postgres/save.py", "async def _save_in_transaction(", '''\
async def save_page(store, lease, listing):
    """Commit a page as soon as it is read. Returns whether one of its checkpoints was known before."""
    async with store.connection() as connection, connection.transaction():
        rows = await connection.fetch(queries.READ_STORED_CHECKPOINTS, [lease.job], [item.id for item in listing.checkpoints])
        known = {row["id"] for row in rows}
        new = [item for item in listing.checkpoints if item.id not in known]
        await _write_checkpoints(connection, {lease.job: Diff(new)})
        await write_changes(connection, [(lease.job, None, "new", item.id, None, None, None) for item in new])
        return len(new) < len(listing.checkpoints)


async def _save_in_transaction('''),
            Edit(f"{PACKAGE}/postgres/save.py", "from checkpointd.postgres.save_rows import quiet_row, write_polls", "from checkpointd.domain.diff import Diff\nfrom checkpointd.postgres.save_rows import _write_checkpoints, quiet_row, write_changes, write_polls"),
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
            Edit("sql/queries/fence_polls.sql", "using (job, lease_token)", "using (job)"),
            Edit(f"{PACKAGE}/postgres/save_rows.py", ' and p.lease.lease_token == held[p.lease.job]["lease_token"]]', "]"),
        ],
    ),
    Planted(
        "client's clock in leases",
        "tests/polling/test_leases.py::test_the_databases_clock_decides",
        [
            Edit("sql/queries/claim_due_jobs.sql", "(select clock_timestamp() as now)", "(select to_timestamp($6::float8) as now)"),
            Edit(f"{PACKAGE}/postgres/store.py", "            [capacity.request_interval for capacity in capacities.values()],\n            lease_seconds,\n", "            [capacity.request_interval for capacity in capacities.values()],\n            lease_seconds,\n            time.time(),\n"),
            Edit(f"{PACKAGE}/postgres/store.py", "import asyncio\n", "import asyncio\nimport time\n"),
        ],
    ),
    Planted(
        "counters n = n + 1",
        "tests/polling/test_leases.py::test_a_lost_answer_counts_once",
        [
            Edit(f"{PACKAGE}/postgres/save_rows.py", "    await write_rejects(connection, ((p.lease.job, None, r) for p in polls if p.listing for r in p.listing.rejects))\n", ""),
            Edit(f"{PACKAGE}/postgres/save.py", "    async with transaction(connection, keep=keep):\n", "    if keep:  # kept even if the save fails\n        await write_rejects(connection, ((p.lease.job, None, r) for p in polls if p.listing for r in p.listing.rejects))\n    async with transaction(connection, keep=keep):\n"),
            Edit(f"{PACKAGE}/postgres/save.py", "import quiet_row, write_polls", "import quiet_row, write_polls, write_rejects"),
        ],
    ),
    Planted(
        "swallowed CancelledError",
        "tests/polling/test_poller.py::test_drain_releases_polls_that_do_not_end",
        [
            Edit(f"{PACKAGE}/polling/poller.py", """\
        except asyncio.CancelledError:
            self.queue.put_now(FinishedPoll(claim, source, None, None, 0))
            raise
        except Exception:""", "        except BaseException:"),
        ],
    ),
    Planted(
        "ignored has_more",
        "tests/polling/test_no_false_success.py::test_pages_smaller_than_requested",
        [
            Edit(f"{PACKAGE}/provider/client.py", "        self._backoff = limits.backoff\n", "        self._backoff = limits.backoff\n        self._page_size = limits.page_size\n"),
            Edit(f"{PACKAGE}/provider/client.py", "                pages.append(page.items)\n", """\
                pages.append(page.items)
                if len(page.items) < self._page_size:  # a short page is the last one
                    return RawListing(pages, None, pagination.requests)
"""),
        ],
    ),
    Planted(
        "deletion of what is absent",
        "tests/polling/test_poller.py::test_missing_after_two_listings",
        [
            Edit("sql/queries/mark_checkpoints.sql", "update checkpointd.checkpoints\nset missing_since = case when marked.missing then clock_timestamp() end\nfrom", "delete from checkpointd.checkpoints\nusing"),
            Edit("sql/queries/mark_checkpoints.sql", "where checkpoints.job", "where marked.missing\n  and checkpoints.job"),
        ],
    ),
    Planted(
        "null overwriting",
        "tests/polling/test_poller.py::test_null_erases_nothing",
        [Edit("sql/queries/update_checkpoints.sql", " valid_loss = coalesce(listed.valid_loss, checkpoints.valid_loss)", " valid_loss = listed.valid_loss")],
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
        [Edit(f"{PACKAGE}/polling/setup.py", "        if (found, found_proxy) == (headers, proxy):\n", "        if found:\n")],
    ),
    Planted(
        "only the first address of a host",
        "tests/reports/test_postgres.py::test_each_address_of_a_name_is_tried",
        [Edit(f"{PACKAGE}/postgres/addresses.py", "(str(address[0]) for *_, address in found))", "(str(address[0]) for *_, address in found[:1]))")],
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
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        ended = subprocess.run(command, cwd=top, env=env, capture_output=True, text=True, check=False)
    if ended.returncode not in {0, 1} or re.search(r"^ERROR ", ended.stdout, flags=re.MULTILINE):
        raise RuntimeError(f"the tests could not run:\n{ended.stdout}")
    return ended.returncode == 0, ended.stdout


def main() -> int:
    """Try out all mistakes. Returns 0 if each is caught."""
    passed, output = try_out([], sorted({planted.test for planted in PLANTED}))
    if not passed:
        print(output, "Without a mistake these tests must pass.", sep="\n")
        return 1
    missed = 0
    for planted in PLANTED:
        passed, output = try_out(planted.edits, [planted.test])
        missed += passed
        reason = next(iter(re.findall(r"^E +(.*)", output, flags=re.MULTILINE)), "")
        print(f"{'MISSED' if passed else 'caught'}: {planted.name}: {planted.test}: {reason[:100]}", flush=True)
    print(f"{len(PLANTED) - missed} of {len(PLANTED)} planted mistakes caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
