"""The commands about sources: resume and rename."""

import re

from checkpointd.cli import event_loop, output
from checkpointd.cli.arguments import CommandError, UsageError, choose_source
from checkpointd.cli.database import open_database
from checkpointd.postgres import overview
from checkpointd.settings.fields import NAME
from checkpointd.settings.model import Settings


def resume_sources(settings: Settings, source: str | None) -> None:
    """End the pause of a source, or of all configured ones, and print their names.

    Daemons that are silent because a source refuses them or fails send requests again, too.
    """
    chosen = settings.sources if source is None else [choose_source(settings, source)]

    async def work() -> None:
        async with open_database(settings) as store:
            keys = await store.register_sources(settings.source_kinds)
            for name in await store.resume_sources([keys[each.name] for each in chosen]):
                print(f"source {name}: the daemons send requests again")

    event_loop.run_interruptible(work())


def rename_source(settings: Settings, old_name: str, new_name: str) -> None:
    """Rename a source in the database, with its jobs and history, and print what is left to do."""
    if old_name == new_name or not re.fullmatch(NAME, new_name):
        raise UsageError(
            f"{new_name[:80]!r} cannot be the new name: give another one, of 1 to 63 letters, digits, dots, _ and -"
        )

    async def work() -> None:
        async with open_database(settings) as store:
            outcome = await store.rename_source(old_name, new_name)
            names = ", ".join(row["name"] for row in await overview.list_sources(store, []))
        if outcome == "unknown":
            raise CommandError(f"source {old_name[:80]} does not exist (existing sources: {names or 'none'})")
        if outcome == "occupied":
            raise CommandError(
                f"source {new_name} has jobs of its own: give it another name first"
                f" (`checkpointd rename {new_name} {new_name}-2`), and later untrack the jobs that both have"
            )
        print(f"source {old_name} is now {new_name}")
        if old_name in settings.source_kinds:
            output.say(f"change the name in the settings, too: until then {old_name} still means {new_name}")

    event_loop.run_interruptible(work())
