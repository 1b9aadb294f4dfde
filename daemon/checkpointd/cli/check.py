"""Would the daemon work here? Each finding says how it is, what is wrong, and how to mend it.

What a person has to mend is a failure: without a database, its schema and rights nothing works, and nothing is
polled where a provider cannot be reached, is none, or does not take the key. What passes by itself, or only makes the
work worse, is a warning: a provider that throttles, is slow or not well, an unverified certificate, a clock that
differs.

The database is asked a few questions, and each provider for one job, which changes neither. Only the embedded
database is made, started and migrated, as by every command, for it is the daemon's own.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple

import aiohttp

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.polling.setup import open_client
from checkpointd.postgres import dsn, migrations, queries
from checkpointd.postgres.connection import UNAVAILABLE, Connect
from checkpointd.postgres.embedded import EmbeddedError
from checkpointd.postgres.errors import explain
from checkpointd.postgres.store import open_store
from checkpointd.provider import client as api
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings, Source
from checkpointd.words import plural

State = Literal["ok", "warn", "fail"]

OLDEST: Final = 150_000
"""The oldest PostgreSQL that will do, as its server_version_num."""

SKEW_SECONDS: Final = 5.0
"""A clock that differs by more is worth a word. A Date header has whole seconds, and was written a moment before."""


class Finding(NamedTuple):
    """One line: whether it would stop the daemon (fail) or is worth a word (warn), of what, and in words.

    No two findings of a check have one subject.
    """

    state: State
    subject: str
    message: str


class Try(NamedTuple):
    """A request to a source: for a job's checkpoints or (None) the list of jobs; why it failed (None: it did not)."""

    job: str | None
    failure: Failure | None

    @property
    def tells_little(self) -> bool:
        """Say whether another resource may be there for this key all the same."""
        return self.failure is not None and self.failure.status in {403, 404}


async def check(settings: Settings, way: AbstractAsyncContextManager[Connect]) -> AsyncIterator[Finding]:
    """Yield what is found of the settings, of the database that `way` leads to, then of each source.

    Raises SettingsError where `way` does.
    """
    found, jobs = await _check_database(settings, way)
    for finding in [*judge_settings(settings), *found]:
        yield finding
    async with api.session() as http:
        checks = [_check_source(settings, source, jobs.get(source.name), http) for source in settings.sources]
        for findings in await asyncio.gather(*checks):
            for finding in findings:
                yield finding


async def _check_database(
    settings: Settings, way: AbstractAsyncContextManager[Connect]
) -> tuple[list[Finding], dict[str, str]]:
    """Return what is found, and a tracked job of each source that has one."""
    findings: list[Finding] = []
    jobs: dict[str, str] = {}
    subject = "database"
    try:
        async with way as connect, open_store(connect) as store, store.connection() as connection:
            asked_at = time.time()
            server = dict((await connection.fetch(queries.READ_SERVER))[0])
            answered_at = time.time()
            findings += [judge_server(server), judge_clock("database", server["now"], asked_at, answered_at)]
            if settings.database_pooler:
                findings.append(judge_pooler(server))
            subject = "schema"
            if settings.database_url is None:
                await migrations.keep_current(connection)
            subject = "role"
            missing = [tuple(row) for row in await connection.fetch(queries.FIND_MISSING_RIGHTS)]
            findings.append(judge_role(server, missing, embedded=settings.database_url is None))
            if missing:
                return findings, jobs
            subject = "schema"
            await migrations.require_current(connection)
            stored = await connection.fetch(queries.LIST_SOURCES)
            tracked = await connection.fetch(queries.PICK_JOBS)
            findings.append(Finding("ok", "schema", "as this version needs it"))
            findings += judge_sources([dict(row) for row in stored], [source.name for source in settings.sources])
            jobs = {row["source"]: row["id"] for row in tracked}
    except (EmbeddedError, migrations.MigrationError) as e:
        findings.append(Finding("fail", subject, str(e).removeprefix(f"the {subject} is ")))  # the subject says it
    except UNAVAILABLE as e:
        findings.append(Finding("fail", subject, explain(e)))
    return findings, jobs


async def _check_source(
    settings: Settings, source: Source, job: str | None, http: aiohttp.ClientSession
) -> list[Finding]:
    """Try the key by one request, or by two where the first tells little. `job` is tracked, None: none is known."""
    subject = f"source {source.name}"
    try:
        headers = source.request_headers("its key")
    except SettingsError as e:
        return [Finding("fail", subject, str(e))]
    limits = api.Limits(page_size=1, request_timeout=settings.request_timeout_seconds)
    client = open_client(source, headers, http, limits)
    tried: list[Try] = []
    clock: list[Finding] = []
    # A compatible provider has no list of jobs, as a rule.
    wanted = [job, None] if source.kind == "compatible" else [None, job]
    for resource in wanted if job else [None]:
        asked_at = time.time()
        answer = await client.probe(asyncio.get_running_loop().time() + settings.request_timeout_seconds, resource)
        if answer.date is not None:
            clock = [judge_clock(subject, answer.date.timestamp(), asked_at, time.time())]
        tried.append(Try(resource, answer.failure))
        if not tried[-1].tells_little:
            break
    return [judge_source(source, tried), *clock]


# What it means: pure


def judge_settings(settings: Settings) -> list[Finding]:
    """Judge what is known before anybody is asked."""
    names = ", ".join(source.name for source in settings.sources)
    findings = [Finding("ok", "settings", f"complete, with the {plural('source', len(settings.sources))} {names}")]
    host = dsn.parse(settings.database_url).unverified_host if settings.database_url else None
    if host:
        message = f"nobody knows whether it is {host} that answers: sslmode=verify-full in the URL is safe"
        findings.append(Finding("warn", "certificate", message))
    return findings


def judge_server(server: Mapping[str, Any]) -> Finding:
    """Judge what the server is."""
    if server["version"] < OLDEST:
        return Finding("fail", "database", f"PostgreSQL {server['version_name']} is too old: 15 or newer is needed")
    if server["is_read_only"]:
        message = "it is read-only, a standby perhaps: name the primary, or all hosts, in the URL"
        return Finding("fail", "database", message)
    return Finding("ok", "database", f"PostgreSQL {server['version_name']} at {server['server']}")


def judge_role(server: Mapping[str, Any], missing: Sequence[tuple[str, ...]], *, embedded: bool) -> Finding:
    """Judge what the role may do."""
    if missing:
        lacks = ", ".join(f"{privilege} on {name}" for name, privilege in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        mend = "run `checkpointd migrate` as the owner, or sql/roles.sql as an administrator"
        if server["membership"]:
            mend = f"let an administrator run `{server['membership']}`"
        return Finding("fail", "role", f"{server['role']} lacks {lacks}{more}: {mend}")
    if server["is_superuser"] and not embedded:
        message = f"{server['role']} is a superuser: a login of the role checkpointd is enough, or of a member of it"
        return Finding("warn", "role", message)
    return Finding("ok", "role", f"{server['role']} lacks no right on what is there")


def judge_pooler(server: Mapping[str, Any]) -> Finding:
    """Judge the settings that the daemon cannot make for itself behind a pooler."""
    if unset := server["unset"]:
        message = "behind a pooler the role has to bring its settings: run this, then let the pooler connect anew: "
        return Finding("warn", "pooler", message + "; ".join(unset))
    return Finding("ok", "pooler", "the role brings its timeouts and its search_path")


def judge_clock(subject: str, theirs: float, asked_at: float, answered_at: float) -> Finding:
    """Compare their clock with ours, before and after they looked at it. Unix seconds."""
    skew = theirs - min(max(theirs, asked_at), answered_at)
    if abs(skew) <= SKEW_SECONDS:
        return Finding("ok", f"clock of {subject}", "agrees with this machine's")
    message = f"differs by {skew:+.0f} s from this machine's: polling does not mind, logs will confuse: set up NTP"
    return Finding("warn", f"clock of {subject}", message)


def judge_sources(stored: Sequence[Mapping[str, Any]], configured: Sequence[str]) -> list[Finding]:
    """Judge the sources that have jobs, but that this daemon does not serve."""
    mend = "add it to the settings, or untrack what it has"
    left = [source for source in stored if source["jobs"] and source["name"] not in configured]
    jobs = [f"{source['jobs']} tracked {plural('job', source['jobs'])}" for source in left]
    return [
        Finding("warn", f"source {source['name']}", f"not configured, so that nobody polls its {its}: {mend}")
        for source, its in zip(left, jobs, strict=True)
    ]


_REACH: Final = "is base_url right, and does a firewall let us through? Proxies of the environment are not used"
_NO_API: Final = "no API of fine-tuning jobs: is base_url right?"
_MEANINGS: Final[Mapping[ErrorClass, tuple[State, str]]] = {
    ErrorClass.REFUSED: ("fail", "the key is wrong or revoked, or may not read fine-tuning jobs: give it that right"),
    ErrorClass.QUOTA: ("fail", "the account is out of quota: nothing is polled until somebody adds some"),
    ErrorClass.NETWORK: ("fail", _REACH),
    ErrorClass.REDIRECT: ("fail", f"{_NO_API} Redirects are not followed"),
    ErrorClass.BAD_REQUEST: ("fail", "is base_url right, and what `query` and `headers` add, such as api-version?"),
    ErrorClass.THROTTLED: ("warn", "too many requests with this key: see requests_per_minute"),
    ErrorClass.SERVER_ERROR: ("warn", "the provider is not well: polling waits for it"),
    ErrorClass.FORBIDDEN: ("warn", "the key may not list jobs: polling may work all the same, without statuses"),
    ErrorClass.MISSING: ("fail", f"{_NO_API} A provider without a list of jobs is of kind compatible"),
    ErrorClass.TIMEOUT: ("warn", "it is slow, or not to be reached: polling tries again, see request_timeout_seconds"),
}  # fmt: skip


def judge_source(source: Source, tried: Sequence[Try]) -> Finding:
    """Judge what a provider answered, the last time above all."""
    subject = f"source {source.name}"
    first, last = tried[0], tried[-1]
    if last.failure is None:
        if first.job is None and first.failure is not None:
            meaning = "polling works, but jobs cannot be listed, for their statuses: give the key that right"
            return Finding("warn", subject, f"{first.failure.message} ({meaning})")
        return Finding("ok", subject, f"the key is accepted, and {'checkpoints' if last.job else 'jobs'} can be listed")
    # Where nothing was accepted, a refusal tells more than a 404, and that of a poll more than that of the job list.
    told = min(tried, key=_is_missing_or_a_list) if last.tells_little else last
    failure = told.failure or last.failure
    state, meaning = _MEANINGS.get(failure.error_class, ("fail", _NO_API))
    if failure.error_class is ErrorClass.NETWORK and "certificate verify failed" in failure.message:
        meaning = "is base_url right? An authority of your own that signed it goes into SSL_CERT_FILE"
    if failure.error_class is ErrorClass.FORBIDDEN and told.job:
        state, meaning = "fail", f"the key may not list the checkpoints of {told.job}: give it that right"
    elif failure.error_class is ErrorClass.MISSING and source.kind == "compatible":
        job = last.job or first.job
        missing, mend = (f"neither {job} nor a", "is base_url right?") if job else ("no", "track a job and check again")
        state, meaning = "warn", f"{missing} list of jobs is there, so that the key could not be tried: {mend}"
    return Finding(state, subject, f"{failure.message} ({meaning})")


def _is_missing_or_a_list(tried: Try) -> tuple[bool, bool]:
    return tried.failure is None or tried.failure.error_class is ErrorClass.MISSING, tried.job is None
