"""The findings about the database: its server, the role, a pooler, and the sources and webhooks that it knows. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from checkpointd.cli.findings import Finding, State
from checkpointd.postgres.migrations import Obstacle
from checkpointd.presentation import is_unconfigured, plural, timestamp, webhook_trouble

OLDEST: Final = 150_000
"""The oldest supported PostgreSQL, as its server_version_num."""

LACKING_SHOWN: Final = 5
"""How many missing rights are listed by name."""


def assess_server(server: Mapping[str, Any]) -> Finding:
    """Return the finding about the server: whether its version is supported, and whether it can be written to."""
    if server["version"] < OLDEST:
        return Finding("fail", "database", f"PostgreSQL {server['version_name']} is too old: 15 or newer is required")
    if server["is_standby"]:
        message = "read-only, a standby: name the primary, or all hosts, in the database URL"
        return Finding("fail", "database", message)
    if server["is_read_only"]:
        message = "read-only, because default_transaction_read_only is on for the server, the database or the role"
        return Finding("fail", "database", f"{message}: turn it off")
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


def assess_tables(obstacles: Sequence[Obstacle]) -> list[Finding]:
    """Return a finding if something hides, changes or loses rows of the tables."""
    if not obstacles:
        return []
    state: State = "fail" if any(obstacle.is_certain for obstacle in obstacles) else "warn"
    return [Finding(state, "tables", "; ".join(map(str, obstacles)))]


def assess_readers(open_rights: Sequence[tuple[str, str]]) -> list[Finding]:
    """Return a warning if everybody, and so each login of a reader, has rights that can stop the server's work.

    `open_rights` has pairs of what everybody may do and the statement that revokes it.
    """
    if not open_rights:
        return []
    may, remedies = (list(dict.fromkeys(texts)) for texts in zip(*open_rights, strict=True))
    message = f"their logins may {', '.join(may)}, and so fill the lock table of the server, which stops everybody"
    advice = f"if nothing else needs these rights, run as a superuser `{'; '.join(remedies)}`"
    return [Finding("warn", "readers", f"{message}: {advice}")]


def assess_pooler(server: Mapping[str, Any]) -> Finding:
    """Return whether the role has the settings that the daemon cannot set itself behind a pooler."""
    if unset := server["unset"]:
        advice = "run these statements, then reconnect the pooler"
        return Finding(
            "warn", "pooler", f"the role lacks settings that a pooler requires: {advice}: {'; '.join(unset)}"
        )
    return Finding("ok", "pooler", "the role has its timeouts and its search_path")


def assess_sources(stored: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return a warning for each source that pauses, was renamed, or has tracked jobs and is not configured here."""
    findings = []
    for source in stored:
        if source["is_paused"] and source["is_configured"]:
            message = f"no daemon polls it until {timestamp(source['resume_at'])}, because of: {source['last_error']}"
            advice = "if that is over, end the pause: run `checkpointd resume`"
            findings.append(Finding("warn", f"pause of source {source['name']}", f"{message} ({advice})"))
        if is_unconfigured(source):
            count = source["jobs"]
            message = f"not configured, so nothing polls its {count} tracked {plural('job', count)}"
            advice = "add it to the settings, rename it by `checkpointd rename`, or untrack its jobs"
            findings.append(Finding("warn", f"source {source['name']}", f"{message}: {advice}"))
        elif source["outdated_name"] is not None:
            message = f"was renamed, and the settings still name it {source['outdated_name']}: change that"
            findings.append(Finding("warn", f"source {source['name']}", message))
    return findings


def assess_unstable_jobs(counted: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return a warning for each source with jobs whose list never stabilises."""
    findings = []
    for row in counted:
        message = (
            f"the checkpoint list of {row['jobs']} {plural('job', row['jobs'])} has other ids, times or values at each "
            f"request, such as that of {row['job']}"
        )
        advice = "only new steps and metrics are stored: report it to the provider, then run `checkpointd resync`"
        findings.append(Finding("warn", f"lists of {row['source']}", f"{message}: {advice}"))
    return findings


def assess_new_jobs(stored: Sequence[Mapping[str, Any]], per_day: int) -> list[Finding]:
    """Return a warning for each source of which discovery leaves out new jobs: more than `per_day` are new."""
    findings = []
    for source in stored:
        if source["jobs_left_out_at"] is not None:
            message = f"the job list has more new jobs than the {per_day:,} per day that discovery may track"
            advice = (
                "if they are yours, raise CHECKPOINTD_MAX_NEW_JOBS_PER_DAY; if the provider invents them, turn"
                " CHECKPOINTD_DISCOVER off, track jobs by their ids, and untrack the invented ones"
            )
            findings.append(Finding("warn", f"new jobs of {source['name']}", f"{message}: {advice}"))
    return findings


def assess_webhooks(stored: Sequence[Mapping[str, Any]], configured: Collection[str]) -> list[Finding]:
    """Return a warning for each configured webhook whose deliveries fail, or that lags behind the changes."""
    return [
        Finding("warn", f"deliveries of {row['name']}", webhook_trouble(row))
        for row in stored
        if row["name"] in configured and row["state"] != "ok"
    ]
