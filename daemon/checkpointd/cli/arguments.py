"""Find the jobs and the source to which the arguments of a command refer."""

import sys
from collections.abc import Iterable, Sequence

from checkpointd.domain.checkpoint import is_valid_id
from checkpointd.domain.job import Job, is_job_id
from checkpointd.postgres.store import Store
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source


class UsageError(Exception):
    """The command cannot be run with these arguments. The text is the reason."""


class CommandError(Exception):
    """The command failed. The text is the reason and the remedy."""


def read_ids(given: Iterable[str], *, are_stored: bool = False) -> list[str]:
    """Return the given ids, each once; - stands for the lines of standard input. Raises UsageError for an invalid one.

    With `are_stored` more ids are accepted: version 0.1.0 discovered jobs by ids that are no longer valid.
    """
    ids: dict[str, None] = {}
    for word in given:
        # Some editors begin a file with a byte order mark.
        lines = (line.lstrip("\ufeff").strip() for line in sys.stdin or ()) if word == "-" else [word]
        ids.update((line, None) for line in lines if line or word != "-")
    is_valid = is_valid_id if are_stored else is_job_id
    for job in ids:
        if not is_valid(job):
            raise UsageError(f"{job[:80]!r} is not the id of a fine-tuning job (such as ftjob-abc123)")
    return list(ids)


def choose_source(settings: Settings, name: str | None) -> Source:
    """Return the source with this name, or, without a name, the only one. Raises UsageError."""
    if name is None and len(settings.sources) == 1:
        return settings.sources[0]
    names = ", ".join(source.name for source in settings.sources)
    if name is None:
        raise UsageError(f"several sources are configured: choose one with --source ({names})")
    for source in settings.sources:
        if source.name == name:
            return source
    raise UsageError(f"--source {name}: not configured (configured sources: {names})")


async def find_jobs(store: Store, ids: Sequence[str], source: str | None, *, only_tracked: bool = True) -> list[Job]:
    """Return the jobs with these ids that are tracked or, without `only_tracked`, that ever were.

    Raises CommandError, or UsageError for an id of several sources.
    """
    by_id: dict[str, list[Job]] = {}
    for found in await store.find_jobs(ids, source):
        if found.tracked or not only_tracked:
            by_id.setdefault(found.id, []).append(found)
    if unknown := [job for job in ids if job not in by_id]:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        advice = f": run `checkpointd track {unknown[0]}`" if is_job_id(unknown[0]) else ""
        if not only_tracked:
            raise CommandError(f"{unknown[0]} is not known{more}: run `checkpointd jobs`")
        raise CommandError(f"{unknown[0]} is not tracked{more}{advice}")
    for job in ids:
        if len(by_id[job]) > 1:
            names = ", ".join(found.source_name for found in by_id[job])
            raise UsageError(f"{job} is in several sources: choose one with --source ({names})")
    return [by_id[job][0] for job in ids]
