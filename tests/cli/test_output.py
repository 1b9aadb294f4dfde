"""What a person sees who types `status`, `jobs` and `sync`: on a real terminal, and in a pipe."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from checkpointd import presentation
from checkpointd.postgres.store import Store
from checkpointd.presentation import duration, number, plural, visible
from support import hostile
from support.harness import read_job_list, sync
from support.provider import JOB, Provider, checkpoint, job, page
from support.stored import fill
from support.verbs import checkpointd, environment, on_terminal

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[3[0-7]m")


def _lines(written: str) -> list[str]:
    """Return the lines of a terminal, without what colours them."""
    return CODES.sub("", written).replace("\r", "").splitlines()


@pytest.mark.parametrize("columns", [80, 120])
async def test_a_terminal_is_shown_what_fits(
    url: str, store: Store, provider: Provider, sql: asyncpg.Connection, tmp_path: Path, columns: int
) -> None:
    """Tables keep to the terminal's width, an id stays in one piece, trouble is red, and wide ones show more."""
    jobs = ["ftjob-" + letter * 24 for letter in "ab"]
    for one in jobs:
        provider.checkpoints[one] = page([checkpoint(1000, one)])
    provider.jobs = page([job(jobs[0], "running"), job(jobs[1], "succeeded")])
    await sync(store, provider, *jobs)
    await read_job_list(store, provider)
    await sql.execute(
        """update checkpointd.polling p set last_complete_at = now() - interval '2 hours 5 minutes', failures = 3,
          last_error = 'HTTP 503 the server is overloaded'
        from checkpointd.jobs j where j.key = p.job and j.id = $1""",
        jobs[0],
    )
    env = environment(tmp_path, url, provider.url)
    written = await on_terminal("status", env=env, columns=columns)
    assert f"{jobs[0]}\x1b" not in written
    assert "\x1b[31mstale, read 2 h 5 min ago" in written
    lines = _lines(written)
    assert max(map(len, lines)) <= columns
    assert ["source  state  jobs", "test    ok        2"] == [line.rstrip() for line in lines[:2]]
    assert re.match(rf"{jobs[0]}  (active +)?stale, read 2 h 5 min ago  3 failed polls: HTTP", lines[4])
    assert re.match(rf"{jobs[1]}  ((active|settling) +)?read \d+ s ago", lines[-3])
    assert "2 tracked: 1 stale, 1 failing" == lines[-1]
    lines = _lines(await on_terminal("jobs", env=env, columns=columns))
    assert max(map(len, lines)) <= columns
    assert re.match(rf"{jobs[0]}  running +active +1  1,000", lines[1])
    assert (columns == 120) == ("gpt-4o-mini-2024-07-18" in lines[1])


async def test_nothing_tracked(url: str, provider: Provider, tmp_path: Path) -> None:
    """Without jobs a person is told how to have some, in a pipe as on a terminal; a program gets an empty list."""
    env = environment(tmp_path, url, provider.url)
    says = "Nothing is tracked: checkpointd track ftjob-…"
    for verb, empty in (("status", {"sources": [], "jobs": []}), ("jobs", [])):
        assert [says] == _lines(await on_terminal(verb, env=env, columns=80))
        assert (0, f"{says}\n", "") == await checkpointd(verb, env=env)
        assert empty == json.loads((await checkpointd(verb, "--json", env=env)).out)


async def test_many_jobs(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A terminal is shown the first of many jobs and told how to see all; a pipe gets all."""
    await fill(sql, jobs=1000, checkpoints=1)
    env = environment(tmp_path, url, provider.url)
    lines = _lines(await on_terminal("jobs", env=env, columns=80))
    assert (202, "… and 800 more: checkpointd jobs | less") == (len(lines), lines[-1])
    assert 1001 == len((await checkpointd("jobs", env=env)).out.splitlines())


async def test_colours_only_where_wanted(url: str, store: Store, provider: Provider, tmp_path: Path) -> None:
    """Colours are for terminals alone, and not for those whose user set NO_COLOR; JSON is for programs."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    env = environment(tmp_path, url, provider.url)
    assert COLOURS.search(await on_terminal("status", env=env, columns=80))
    assert not COLOURS.search(await on_terminal("status", env={**env, "NO_COLOR": "1"}, columns=80))
    assert "\x1b" not in await on_terminal("status", env={**env, "TERM": "dumb"}, columns=80)
    assert "\x1b" not in (await checkpointd("status", env={**env, "FORCE_COLOR": "1"})).out
    for verb in ("status", "jobs"):
        json.loads(await on_terminal(verb, "--json", env=env, columns=80))


async def test_hostile_names(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """No name or error steers a terminal, is taken for markup, or fills the screen; a pipe gets none of it either."""
    await hostile.store_hostile(sql)
    env = environment(tmp_path, url, provider.url)
    for verb in ("status", "jobs"):
        for columns in (80, 120):
            written = await on_terminal(verb, env=env, columns=columns)
            assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202e\u2066]", written)
            assert set() == {code[-1] for code in CODES.findall(written)} - {"m"}
            assert "\x1b" not in CODES.sub("", written)
            assert len(_lines(written)) < 150
        assert "[red]x[/red]" in CODES.sub("", written)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066]", (await checkpointd(verb, env=env)).out)


async def test_progress(url: str, provider: Provider, tmp_path: Path) -> None:
    """`sync` shows a bar on a terminal, which is gone at the end; a pipe sees the result alone."""
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", JOB, "ftjob-2", env=env)
    provider.checkpoints = {JOB: page([]), "ftjob-2": page([])}
    written = await on_terminal("sync", env=env, columns=80)
    assert re.search("sync .*━", written)
    assert "\x1b[2K" in written  # the bar's line is cleared
    assert "2 jobs: 0 new checkpoints, 0 changed, 0 rejected items, 0 failed" == _lines(written)[-1]
    ended = await checkpointd("sync", env={**env, "FORCE_COLOR": "1"})
    assert (0, "2 jobs: 0 new checkpoints, 0 changed, 0 rejected items, 0 failed\n", "") == ended


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (9000, "2 h 30 min"),
     (86400, "1 d"), (90000, "1 d 1 h"), (400 * 86400, "400 d"), (-90, "1 min")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    """A duration is told in its two largest units."""
    assert words == duration(seconds)


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, ""), (0.0, "0.0000"), (0.12345, "0.1235"), (-1.5, "-1.5000"), (0.00001, "1.00e-05"), (1e308, "1.00e+308"),
     (float("nan"), "nan"), (12345.6789, "12345.6789")],
)  # fmt: skip
def test_numbers(value: float | None, words: str) -> None:
    """A metric has four decimals, or a power of ten where they would not tell it."""
    assert words == number(value)


@pytest.mark.parametrize(("number", "words"), [(0, "polls"), (1, "poll"), (2, "polls"), (1001, "polls")])
def test_plurals(number: int, words: str) -> None:
    """One is one; none and many are several."""
    assert words == plural("poll", number)


def test_visible() -> None:
    """What steers, hides or turns text is replaced; line breaks are blanks; other writing stays."""
    assert "a�[31m b��c" == visible("a\x1b[31m\nb\u202e\0c")
    assert "微调 تدريب ñ" == visible("微调 تدريب ñ")


@pytest.mark.parametrize(
    ("row", "age", "said"),
    [
        ({"phase": "active"}, 5, ("good", "read 5 s ago")),
        ({"phase": "active"}, None, ("quiet", "not read yet")),
        ({"phase": "active", "is_stale": True}, 7200, ("bad", "stale, read 2 h ago")),
        ({"phase": "active", "is_stale": True}, None, ("bad", "stale, never read")),
        ({"phase": "settling", "consecutive_failures": 1}, 5, ("warn", "read 5 s ago")),
        ({"phase": "missing", "consecutive_failures": 1}, 5, ("bad", "missing, read 5 s ago")),
        ({"phase": "sealed"}, 5, ("quiet", "complete")),
        ({"phase": "untracked", "is_stale": None}, 5, ("quiet", "not tracked any more")),
    ],
)
def test_freshness(row: dict[str, object], age: float | None, said: tuple[str, str]) -> None:
    """How far a job can be believed is told in words, the worst first."""
    assert said == presentation.freshness({"is_stale": False, "consecutive_failures": 0, **row}, age)


NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=1)
UNREADABLE = "items of its last complete list cannot be read: see fine_tuning.rejects"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"last_complete_at": None, "last_success_at": None}, ""),
        ({"last_complete_at": NOW, "last_success_at": NOW}, ""),
        ({"last_complete_at": NOW, "last_success_at": BEFORE}, UNREADABLE),
        ({"last_complete_at": NOW, "last_success_at": None}, UNREADABLE),
        ({"consecutive_failures": 1, "last_error": "HTTP 500"}, "1 failed poll: HTTP 500"),
        (
            {"consecutive_failures": 1001, "last_error": "HTTP 500", "last_complete_at": NOW, "last_success_at": None},
            f"1,001 failed polls: HTTP 500; {UNREADABLE}",
        ),
    ],
)
def test_what_is_wrong_with_a_job(row: dict[str, object], said: str) -> None:
    """Failed polls are told, and a list that is complete, but of which something cannot be read."""
    assert said == presentation.trouble(
        {"consecutive_failures": 0, "last_complete_at": None, "last_success_at": None, **row}
    )


async def test_what_cannot_be_read_is_told(url: str, store: Store, provider: Provider, tmp_path: Path) -> None:
    """`status` says of a job that all is listed and not all can be read, until it can."""
    env = environment(tmp_path, url, provider.url)
    for items in ([checkpoint(2), checkpoint(1)], ["no checkpoint", checkpoint(1)]):
        provider.checkpoints[JOB] = page(items)
        await sync(store, provider)
        assert ("no checkpoint" in items) == (UNREADABLE in (await checkpointd("status", env=env)).out)


@pytest.mark.parametrize(
    ("received", "said"),
    [
        (None, None),
        ("null", None),
        ("{}", None),
        ('{"code": null, "message": null}', None),
        ('{"code": "x", "message": "y z"}', "x: y z"),
        ('{"reason": 1}', '{"reason": 1}'),
        ('"text"', "text"),
        ("[", None),
        ("[" * 100_000, None),
    ],
)
def test_errors_of_providers(received: str | None, said: str | None) -> None:
    """A job's error is told in words, whatever shape the provider gave it."""
    assert said == presentation.provider_error(received)


def test_epochs_of_a_job() -> None:
    """Of how many epochs a job is, is told where it is a whole number, however that is written."""
    job = {"checkpoint_count": 1, "estimated_finish": None, "finished_at": None}
    for given, epochs in (("3", 3), ("3.0", 3), ('"auto"', None), ("2.5", None)):
        assert epochs == presentation.progress({**job, "hyperparameters": f'{{"n_epochs": {given}}}'}, 1, NOW).epochs


@pytest.mark.parametrize(
    ("finish", "finished", "expected"),
    [
        (NOW + timedelta(hours=2), None, "end expected in 2 h"),
        (BEFORE, None, "end was expected 2025-12-31 23:00 UTC"),
        (NOW - timedelta(days=8), None, None),
        (BEFORE, BEFORE, None),
        (None, None, None),
    ],
)
def test_when_a_job_is_expected_to_end(
    finish: datetime | None, finished: datetime | None, expected: str | None
) -> None:
    """The provider's estimate is told until the job has ended, or until it tells nothing any more."""
    job = {"hyperparameters": None, "checkpoint_count": 1, "estimated_finish": finish, "finished_at": finished}
    assert expected == presentation.progress(job, None, NOW).expected
