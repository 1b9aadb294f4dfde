"""Turn the observations of `check` into findings: a state, and a message with the problem and the remedy. Pure.

A failure must be fixed by a person: the database, its schema or a right is missing; or there is no connection to a
source, it has no API of fine-tuning jobs, it refuses the key, or its quota is used up. A warning passes by itself or
only makes the work worse: throttling, a provider that is slow or does not answer in time, a certificate that is not
verified, a source without encryption or behind a proxy, a clock that differs.
"""

from typing import Final, Literal, NamedTuple

from checkpointd.postgres import dsn
from checkpointd.presentation import duration, plural
from checkpointd.settings.issued_key import IssuedKey
from checkpointd.settings.model import Settings

State = Literal["ok", "warn", "fail"]

SKEW_SECONDS: Final = 5.0
"""Clocks may differ by this much. A Date header has whole seconds and is written before it arrives."""


class Finding(NamedTuple):
    """One line of a check. `fail` would stop the daemon. No two findings of a check have the same subject."""

    state: State
    subject: str
    message: str


def assess_settings(settings: Settings) -> list[Finding]:
    """Return the findings about the settings alone."""
    names = ", ".join(source.name for source in settings.sources)
    findings = [Finding("ok", "settings", f"complete, with the {plural('source', len(settings.sources))} {names}")]
    host = dsn.parse(settings.database_url).unverified_host if settings.database_url else None
    if host:
        message = f"not verified for {host}: set sslmode=verify-full in the database URL"
        findings.append(Finding("warn", "certificate", message))
    for source in settings.sources:
        if source.unencrypted_host:
            message = (
                f"the key is sent unencrypted to {source.unencrypted_host}: use https unless you trust the network"
            )
            findings.append(Finding("warn", f"encryption of source {source.name}", message))
        if source.plain_secrets:
            names = ", ".join(source.plain_secrets)
            message = f"the settings contain a secret ({names}): write the name of a credential instead"
            findings.append(
                Finding("warn", f"secrets of source {source.name}", f"{message}: {{ credential = 'NAME' }}")
            )
        if source.proxy:
            seen = "which sees the key" if source.base_url.startswith("http:") else "which sees where they go"
            message = f"all requests are sent through {source.proxy}, {seen}; proxies of the environment are not used"
            findings.append(Finding("warn", f"proxy of source {source.name}", message))
    return findings


def assess_key(source: str, issued: IssuedKey | None) -> list[Finding]:
    """Return the finding about the key that a command printed, if it has printed one."""
    if issued is None:
        return []
    subject, seconds = f"key of source {source}", issued.seconds
    if seconds is None:
        message = "api_key_command prints no expiry: it is run again when the provider refuses the key"
        return [Finding("ok", subject, message)]
    if seconds <= 0:
        message = "api_key_command printed a key that has expired by the clock of this machine: check both"
        return [Finding("warn", subject, message)]
    return [Finding("ok", subject, f"from api_key_command, expires in {duration(seconds)}")]


def assess_clock(subject: str, theirs: float, asked_at: float, answered_at: float) -> Finding:
    """Compare another clock, read between `asked_at` and `answered_at`, with this machine's. In Unix seconds."""
    skew = theirs - min(max(theirs, asked_at), answered_at)
    if abs(skew) <= SKEW_SECONDS:
        return Finding("ok", f"clock of {subject}", "agrees with the clock of this machine")
    message = f"differs by {skew:+.0f} s from the clock of this machine (polling is not affected, logs are): set up NTP"
    return Finding("warn", f"clock of {subject}", message)
