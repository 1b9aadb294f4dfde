"""Turn the observations of `check` into findings: a state, and a message with the problem and the remedy. Pure.

A failure must be fixed by a person: the database, its schema or a right is missing; or there is no connection to a
source, it has no API of fine-tuning jobs, it refuses the key, or its quota is used up. A warning passes by itself or
only makes the work worse: throttling, a provider that is slow or does not answer in time, a certificate that is not
verified, a clock that differs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres import dsn
from checkpointd.presentation import plural
from checkpointd.settings.model import Settings, Source

State = Literal["ok", "warn", "fail"]

OLDEST: Final = 150_000
"""The oldest supported PostgreSQL, as its server_version_num."""

SKEW_SECONDS: Final = 5.0
"""Clocks may differ by this much. A Date header has whole seconds and is written before it arrives."""

LACKING_SHOWN: Final = 5
"""How many missing rights are listed by name."""


class Finding(NamedTuple):
    """One line of a check. `fail` would stop the daemon. No two findings of a check have the same subject."""

    state: State
    subject: str
    message: str


class Try(NamedTuple):
    """A request to a source: for the checkpoints of a job or, if `job` is None, for the job list; and its failure."""

    job: str | None
    failure: Failure | None

    @property
    def is_inconclusive(self) -> bool:
        """True if another resource may still be available to this key."""
        return self.failure is not None and self.failure.status in {403, 404}


def assess_settings(settings: Settings) -> list[Finding]:
    """Return the findings about the settings alone."""
    names = ", ".join(source.name for source in settings.sources)
    findings = [Finding("ok", "settings", f"complete, with the {plural('source', len(settings.sources))} {names}")]
    host = dsn.parse(settings.database_url).unverified_host if settings.database_url else None
    if host:
        message = f"not verified for {host}: set sslmode=verify-full in the database URL"
        findings.append(Finding("warn", "certificate", message))
    return findings


def assess_server(server: Mapping[str, Any]) -> Finding:
    """Return the finding about the server: whether its version is supported, and whether it can be written to."""
    if server["version"] < OLDEST:
        return Finding("fail", "database", f"PostgreSQL {server['version_name']} is too old: 15 or newer is required")
    if server["is_read_only"]:
        message = "read-only, probably a standby: name the primary, or all hosts, in the database URL"
        return Finding("fail", "database", message)
    return Finding("ok", "database", f"PostgreSQL {server['version_name']} at {server['server']}")


def assess_role(server: Mapping[str, Any], missing: Sequence[tuple[str, ...]], *, embedded: bool) -> Finding:
    """Return whether the role has the rights that polling needs, and is not a superuser.

    `missing` has pairs of an object and a right.
    """
    role = server["role"]
    if missing:
        lacking = ", ".join(f"{privilege} on {name}" for name, privilege in missing[:LACKING_SHOWN])
        more = f" and {len(missing) - LACKING_SHOWN} more" if len(missing) > LACKING_SHOWN else ""
        advice = "run `checkpointd migrate` as the owner, or sql/roles.sql as an administrator"
        if server["membership"]:
            advice = f"run `{server['membership']}` as an administrator"
        return Finding("fail", "role", f"{role} lacks {lacking}{more}: {advice}")
    if server["is_superuser"] and not embedded:
        message = f"{role} is a superuser: log in as the role checkpointd or a member of it, which has enough rights"
        return Finding("warn", "role", message)
    return Finding("ok", "role", f"{role} has the required rights on all existing objects")


def assess_pooler(server: Mapping[str, Any]) -> Finding:
    """Return whether the role has the settings that the daemon cannot set itself behind a pooler."""
    if unset := server["unset"]:
        advice = "run these statements, then reconnect the pooler"
        return Finding(
            "warn", "pooler", f"the role lacks settings that a pooler requires: {advice}: {'; '.join(unset)}"
        )
    return Finding("ok", "pooler", "the role has its timeouts and its search_path")


def assess_clock(subject: str, theirs: float, asked_at: float, answered_at: float) -> Finding:
    """Compare another clock, read between `asked_at` and `answered_at`, with this machine's. In Unix seconds."""
    skew = theirs - min(max(theirs, asked_at), answered_at)
    if abs(skew) <= SKEW_SECONDS:
        return Finding("ok", f"clock of {subject}", "agrees with the clock of this machine")
    message = f"differs by {skew:+.0f} s from the clock of this machine (polling is not affected, logs are): set up NTP"
    return Finding("warn", f"clock of {subject}", message)


def assess_sources(stored: Sequence[Mapping[str, Any]], configured: Sequence[str]) -> list[Finding]:
    """Return a warning for each source in the database that has tracked jobs and is not configured here."""
    findings = []
    for source in stored:
        if (count := source["jobs"]) and source["name"] not in configured:
            message = f"not configured, so nothing polls its {count} tracked {plural('job', count)}"
            advice = "add it to the settings, or untrack its jobs"
            findings.append(Finding("warn", f"source {source['name']}", f"{message}: {advice}"))
    return findings


_UNREACHABLE: Final = "check base_url and the firewall; proxies of the environment are not used"
_NO_API: Final = "no API of fine-tuning jobs: check base_url"
_MEANINGS: Final[Mapping[ErrorClass, tuple[State, str]]] = {
    ErrorClass.REFUSED: (
        "fail",
        "the key is wrong or revoked, or may not read fine-tuning jobs: replace it, or give it that right",
    ),
    ErrorClass.QUOTA: ("fail", "the account is out of quota: nothing is polled until it has quota again"),
    ErrorClass.NETWORK: ("fail", _UNREACHABLE),
    ErrorClass.REDIRECT: ("fail", f"{_NO_API}; redirects are not followed"),
    ErrorClass.BAD_REQUEST: ("fail", "check base_url, `query` (such as api-version) and `headers`"),
    ErrorClass.THROTTLED: ("warn", "too many requests with this key: set or lower requests_per_minute"),
    ErrorClass.SERVER_ERROR: ("warn", "the provider has a problem: polling tries again by itself"),
    ErrorClass.FORBIDDEN: ("warn", "the key may not list jobs: polling can work, but statuses are not updated"),
    ErrorClass.MISSING: ("fail", f"{_NO_API}, or set kind to compatible for a provider without a job list"),
    ErrorClass.TIMEOUT: ("warn", "slow or unreachable: polling tries again by itself; see request_timeout_seconds"),
}


def assess_source(source: Source, tries: Sequence[Try]) -> Finding:
    """Return the finding about a source. The last request is conclusive, unless all responses were 403 or 404."""
    subject = f"source {source.name}"
    first, last = tries[0], tries[-1]
    if last.failure is None:
        if first.job is None and first.failure is not None:
            meaning = "polling works, but jobs cannot be listed, so statuses are not updated: give the key that right"
            return Finding("warn", subject, f"{first.failure.message} ({meaning})")
        return Finding("ok", subject, f"the key is accepted, and {'checkpoints' if last.job else 'jobs'} can be listed")
    chosen = min(tries, key=_informative_first) if last.is_inconclusive else last
    failure = chosen.failure or last.failure
    state, meaning = _meaning(source, chosen.job, failure, first.job or last.job)
    return Finding(state, subject, f"{failure.message} ({meaning})")


def _informative_first(tried: Try) -> tuple[bool, bool]:
    """Sort a refusal before a 404, and a request for checkpoints before one for the job list."""
    return tried.failure is None or tried.failure.error_class is ErrorClass.MISSING, tried.job is None


def _meaning(source: Source, job: str | None, failure: Failure, tracked_job: str | None) -> tuple[State, str]:
    """Return the state and the meaning of a failed request for the checkpoints of `job`, or for the job list.

    `tracked_job` is the job whose checkpoints were requested in any of the requests, or None.
    """
    if failure.error_class is ErrorClass.NETWORK and "certificate verify failed" in failure.message:
        return "fail", "check base_url; if an authority of your own signed the certificate, name it in SSL_CERT_FILE"
    if failure.error_class is ErrorClass.FORBIDDEN and job:
        return "fail", f"the key may not list the checkpoints of {job}: give it that right"
    if failure.error_class is ErrorClass.MISSING and source.kind == "compatible":
        if tracked_job:
            found = f"neither {tracked_job} nor a job list was found"
            return "warn", f"{found}, so the key could not be tested: check base_url"
        return "warn", "no job list was found, so the key could not be tested: track a job and check again"
    return _MEANINGS.get(failure.error_class, ("fail", _NO_API))
