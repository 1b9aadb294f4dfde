"""What is said when a command fails, and its exit code."""

import asyncio
from typing import Any, Final, NamedTuple

import typer

from checkpointd.cli.arguments import CommandError, UsageError
from checkpointd.postgres.errors import EmbeddedError, MigrationError
from checkpointd.settings.credentials import SettingsError

_UsageErrorOfTyper: Final[Any] = typer.BadParameter.__bases__[0]
"""The class of typer's errors of usage, which has no public name."""


class Ending(NamedTuple):
    """What a command that fails says, and the exit code."""

    message: str
    code: int


def explain(error: BaseException) -> Ending | None:
    """Return how a command ends after an error; None if that is an exit, or an error of checkpointd itself."""
    match error:
        case _UsageErrorOfTyper():
            # Messages of pydantic start with "Value error", and those of typer end with a full stop.
            message = error.format_message().replace("Value error, ", "", 1).rstrip(".")
            return Ending(f"{message}. Try checkpointd --help.", 2)
        case SettingsError() | UsageError():
            return Ending(str(error), 2)
        case CommandError() | EmbeddedError() | MigrationError() | OSError():
            return Ending(str(error), 1)
        case KeyboardInterrupt() | asyncio.CancelledError() | typer.Abort():
            return Ending("interrupted", 130)
    return None
