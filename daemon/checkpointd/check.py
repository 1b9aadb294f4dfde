"""Would the daemon work here? Each finding says how it is, what is wrong, and how to mend it.

It asks the database a few questions, and each provider for one job; nothing is changed anywhere.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import aiohttp

from checkpointd import address, api, migrations, queries
from checkpointd.failures import ErrorClass, Failure
from checkpointd.reasons import explain
from checkpointd.redaction import secrets_of
from checkpointd.settings import Settings, SettingsError, Source
from checkpointd.store import UNAVAILABLE, Store

State = Literal["ok", "warn", "fail"]

OLDEST: Final = 150_000
"""The oldest PostgreSQL that will do, as its server_version_num."""

SKEW_SECONDS: Final = 5.0
"""A clock that differs by more is worth a word. A Date header has whole seconds, and was written a moment before."""


class Finding(NamedTuple):
    """One line: whether it would stop the daemon (fail) or is worth a word (warn), of what, and in words."""

    state: State
    subject: str
    message: str


async def check(settings: Settings, store: Store) -> AsyncIterator[Finding]:
    """Yield what is found, one after the other: of the database, then of each source."""
    for finding in judge_settings(settings):
        yield finding
    async for finding in _check_database(settings, store):
        yield finding
    async with api.session() as http:
        checks = [_check_source(settings, source, http) for source in settings.sources]
        for findings in await asyncio.gather(*checks):
            for finding in findings:
                yield finding


async def _check_database(settings: Settings, store: Store) -> AsyncIterator[Finding]:
    try:
        asked_at = time.time()
        server = dict((await store.fetch(queries.READ_SERVER))[0])
        answered_at = time.time()
        yield judge_server(server)
        missing = [tuple(row) for row in await store.fetch(queries.FIND_MISSING_RIGHTS)]
        yield judge_role(server, missing, embedded=settings.database_url is None)
        yield judge_clock("database", server["now"], asked_at, answered_at)
        if settings.database_pooler:
            yield judge_pooler(server)
        async with store.connection() as connection:
            await migrations.require_current(connection)
        yield Finding("ok", "schema", "as this version needs it")
        configured = [source.name for source in settings.sources]
        for finding in judge_sources(await store.list_sources(), configured):
            yield finding
    except migrations.MigrationError as e:
        yield Finding("fail", "schema", str(e))
    except UNAVAILABLE as e:
        yield Finding("fail", "database", explain(e))


async def _check_source(settings: Settings, source: Source, http: aiohttp.ClientSession) -> list[Finding]:
    subject = f"source {source.name}"
    try:
        headers = source.request_headers()
    except SettingsError as e:
        return [Finding("fail", subject, str(e))]
    limits = api.Limits(page_size=1, request_timeout=settings.request_timeout_seconds)
    client = api.Client(
        http, source.base_url, headers, source.query, limits, secrets=secrets_of({**source.query, **headers})
    )
    asked_at = time.time()
    answer = await client.probe(asyncio.get_running_loop().time() + settings.request_timeout_seconds)
    findings = [judge_source(subject, answer.failure)]
    if answer.date is not None:
        findings.append(judge_clock(subject, answer.date.timestamp(), asked_at, time.time()))
    return findings


# What it means: pure


def judge_settings(settings: Settings) -> list[Finding]:
    """Judge what is known before anybody is asked."""
    names = ", ".join(source.name for source in settings.sources)
    findings = [Finding("ok", "settings", f"complete, with the sources: {names}")]
    host = address.parse(settings.database_url).unverified if settings.database_url else None
    if host:
        message = f"nobody knows whether it is {host} that answers: sslmode=verify-full in the URL is safe"
        findings.append(Finding("warn", "database", message))
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
        return Finding("fail", "role", f"{server['role']} lacks {lacks}{more}: {mend}")
    if server["is_superuser"] and not embedded:
        message = f"{server['role']} is a superuser: a role that may read, insert and update is enough"
        return Finding("warn", "role", message)
    return Finding("ok", "role", f"{server['role']} has the rights that it needs")


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
    return [
        Finding("warn", f"source {s['name']}", f"{s['jobs']} tracked jobs, but it is not configured: nobody polls them")
        for s in stored
        if s["jobs"] and s["name"] not in configured
    ]


_REACH: Final = "is base_url right, and does a firewall let us through? Proxies of the environment are not used"
_MEANINGS: Final[Mapping[ErrorClass, tuple[State, str]]] = {
    ErrorClass.REFUSED: ("fail", "the key is wrong or revoked, or may not read fine-tuning jobs: give it that right"),
    ErrorClass.FORBIDDEN: ("warn", "the key may not list jobs: polling may work all the same, without statuses"),
    ErrorClass.MISSING: ("warn", "no list of jobs there: is base_url right? Where there is none, polling goes without"),
    ErrorClass.THROTTLED: ("warn", "too many requests with this key: see requests_per_minute"),
    ErrorClass.QUOTA: ("warn", "the account is out of quota: nothing is polled until it has some again"),
    ErrorClass.SERVER_ERROR: ("warn", "the provider is not well: polling waits for it"),
    ErrorClass.TIMEOUT: ("fail", _REACH),
    ErrorClass.NETWORK: ("fail", _REACH),
}  # fmt: skip


def judge_source(subject: str, failure: Failure | None) -> Finding:
    """Judge what a provider answered to one request for its job list."""
    if failure is None:
        return Finding("ok", subject, "the key is accepted, and jobs can be listed")
    state, meaning = _MEANINGS.get(failure.error_class, ("fail", "no API of fine-tuning jobs: is base_url right?"))
    return Finding(state, subject, f"{failure.message} ({meaning})")
