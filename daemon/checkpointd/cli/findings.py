"""What the observations of `check` mean: each becomes a finding with a state, and a message that says what to do. Pure.

A failure needs a person: without a database, its schema and rights nothing works, and a source that cannot be reached,
is no API of fine-tuning jobs or refuses the key is not polled. A warning passes by itself or only makes the work worse:
throttling, a slow provider, a certificate that is not verified, a clock that differs.
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
"""Clocks may differ by so much. A Date header has whole seconds and is written before it arrives."""


class Finding(NamedTuple):
    """One line of a check. `fail` would stop the daemon. No two findings of a check have the same subject."""

    state: State
    subject: str
    message: str


class Try(NamedTuple):
    """A request to a source: for the checkpoints of a job, or, without a job, for the job list. And why it failed."""

    job: str | None
    failure: Failure | None

    @property
    def is_inconclusive(self) -> bool:
        """True if another resource may still be available to this key."""
        return self.failure is not None and self.failure.status in {403, 404}


def assess_settings(settings: Settings) -> list[Finding]:
    """Judge what is known before anybody is asked."""
    names = ", ".join(source.name for source in settings.sources)
    findings = [Finding("ok", "settings", f"complete, with the {plural('source', len(settings.sources))} {names}")]
    host = dsn.parse(settings.database_url).unverified_host if settings.database_url else None
    if host:
        message = f"nobody knows whether it is {host} that answers: sslmode=verify-full in the URL is safe"
        findings.append(Finding("warn", "certificate", message))
    return findings


def assess_server(server: Mapping[str, Any]) -> Finding:
    """Judge what the server is."""
    if server["version"] < OLDEST:
        return Finding("fail", "database", f"PostgreSQL {server['version_name']} is too old: 15 or newer is needed")
    if server["is_read_only"]:
        message = "it is read-only, a standby perhaps: name the primary, or all hosts, in the URL"
        return Finding("fail", "database", message)
    return Finding("ok", "database", f"PostgreSQL {server['version_name']} at {server['server']}")


def assess_role(server: Mapping[str, Any], missing: Sequence[tuple[str, ...]], *, embedded: bool) -> Finding:
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


def assess_pooler(server: Mapping[str, Any]) -> Finding:
    """Judge the settings that the daemon cannot make for itself behind a pooler."""
    if unset := server["unset"]:
        message = "behind a pooler the role has to bring its settings: run this, then let the pooler connect anew: "
        return Finding("warn", "pooler", message + "; ".join(unset))
    return Finding("ok", "pooler", "the role brings its timeouts and its search_path")


def assess_clock(subject: str, theirs: float, asked_at: float, answered_at: float) -> Finding:
    """Compare their clock with ours, before and after they looked at it. Unix seconds."""
    skew = theirs - min(max(theirs, asked_at), answered_at)
    if abs(skew) <= SKEW_SECONDS:
        return Finding("ok", f"clock of {subject}", "agrees with this machine's")
    message = f"differs by {skew:+.0f} s from this machine's: polling does not mind, logs will confuse: set up NTP"
    return Finding("warn", f"clock of {subject}", message)


def assess_sources(stored: Sequence[Mapping[str, Any]], configured: Sequence[str]) -> list[Finding]:
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


def assess_source(source: Source, tried: Sequence[Try]) -> Finding:
    """Judge what a provider answered, the last time above all."""
    subject = f"source {source.name}"
    first, last = tried[0], tried[-1]
    if last.failure is None:
        if first.job is None and first.failure is not None:
            meaning = "polling works, but jobs cannot be listed, for their statuses: give the key that right"
            return Finding("warn", subject, f"{first.failure.message} ({meaning})")
        return Finding("ok", subject, f"the key is accepted, and {'checkpoints' if last.job else 'jobs'} can be listed")
    # Where nothing was accepted, a refusal tells more than a 404, and that of a poll more than that of the job list.
    told = min(tried, key=_is_missing_or_a_list) if last.is_inconclusive else last
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
