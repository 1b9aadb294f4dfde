"""Which jobs, and which source, a person means."""

import sys
from collections.abc import Iterable, Sequence

from checkpointd.cli.database import CommandError
from checkpointd.postgres.store import Job, Store
from checkpointd.settings.model import Settings, Source


class UsageError(Exception):
    """The call cannot be carried out as it is."""


def read_ids(given: Iterable[str], sources: Sequence[Source]) -> list[str]:
    """Return the ids that were given, those of standard input in the place of -, each once; one must fit a source."""
    ids: dict[str, None] = {}
    for word in given:
        lines = (line.strip() for line in sys.stdin or ()) if word == "-" else [word]
        ids.update((line, None) for line in lines if line or word != "-")
    for job in ids:
        if not any(source.is_job_id(job) for source in sources):
            raise UsageError(f"{job[:80]!r} is no id of a fine-tuning job (such as ftjob-abc123)")
    return list(ids)


def choose_source(chosen: Settings, name: str | None) -> Source:
    """Return the source of this name, or the only one."""
    if name is None and len(chosen.sources) == 1:
        return chosen.sources[0]
    names = ", ".join(source.name for source in chosen.sources)
    if name is None:
        raise UsageError(f"several sources are configured: choose one with --source ({names})")
    for source in chosen.sources:
        if source.name == name:
            return source
    raise UsageError(f"--source {name}: not configured; there are: {names}")


async def find_jobs(store: Store, ids: Sequence[str], source: str | None) -> list[Job]:
    """Find jobs by id; each must be known, and in one source only."""
    by_id: dict[str, list[Job]] = {}
    for found in await store.find_jobs(ids):
        if source in {None, found.source_name} and found.tracked:
            by_id.setdefault(found.id, []).append(found)
    if unknown := [job for job in ids if job not in by_id]:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise CommandError(f"{unknown[0]} is not tracked{more}: checkpointd track {unknown[0]}")
    for job in ids:
        if len(by_id[job]) > 1:
            names = ", ".join(found.source_name for found in by_id[job])
            raise UsageError(f"{job} is in several sources: choose one with --source ({names})")
    return [by_id[job][0] for job in ids]
