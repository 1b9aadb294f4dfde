"""The findings about the database: its server, the role, a pooler, and the sources that it knows. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from checkpointd.cli.findings import Finding, State
from checkpointd.postgres.migrations import Obstacle
from checkpointd.presentation import plural

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


def assess_pooler(server: Mapping[str, Any]) -> Finding:
    """Return whether the role has the settings that the daemon cannot set itself behind a pooler."""
    if unset := server["unset"]:
        advice = "run these statements, then reconnect the pooler"
        return Finding(
            "warn", "pooler", f"the role lacks settings that a pooler requires: {advice}: {'; '.join(unset)}"
        )
    return Finding("ok", "pooler", "the role has its timeouts and its search_path")


def assess_sources(stored: Sequence[Mapping[str, Any]], configured: Sequence[str]) -> list[Finding]:
    """Return a warning for each source in the database that has tracked jobs and is not configured here."""
    findings = []
    for source in stored:
        if (count := source["jobs"]) and source["name"] not in configured:
            message = f"not configured, so nothing polls its {count} tracked {plural('job', count)}"
            advice = "add it to the settings, or untrack its jobs"
            findings.append(Finding("warn", f"source {source['name']}", f"{message}: {advice}"))
    return findings
