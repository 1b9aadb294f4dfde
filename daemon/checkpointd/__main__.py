"""The program: run a command, and map errors to exit codes: 0 done, 1 failed, 2 wrong usage or settings."""

import asyncio
import logging
import os
import resource
import sys
import warnings
from typing import Any, NoReturn

import typer

from checkpointd.cli import output
from checkpointd.cli.app import app
from checkpointd.cli.arguments import CommandError, UsageError
from checkpointd.postgres.errors import EmbeddedError, MigrationError
from checkpointd.settings.credentials import SettingsError

_UsageErrorOfTyper: Any = typer.BadParameter.__bases__[0]
"""The class of typer's errors of usage, which has no public name."""


def main() -> NoReturn:
    """Run a command, and end the process without waiting for threads: one may hang in a name lookup."""
    output.replace_closed_streams()
    warnings.showwarning = lambda message, *_, **__: output.say(str(message))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would contain the keys
    try:
        _call()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as e:
            code = code or 1
            if not isinstance(e, BrokenPipeError):
                output.say(str(e), is_error=True)
    os._exit(code)


def _call() -> NoReturn:
    """Run a command. Raises SystemExit."""
    for name in [name for name, value in os.environ.items() if not value]:
        del os.environ[name]  # an empty variable counts as unset, also in the libraries, such as PGPASSFILE
    try:
        code = app(standalone_mode=False)
    except _UsageErrorOfTyper as e:
        # Messages of pydantic start with "Value error", and those of typer end with a full stop.
        message = e.format_message().replace("Value error, ", "", 1).rstrip(".")
        _fail(f"{message}. Try checkpointd --help.", 2)
    except (SettingsError, UsageError) as e:
        _fail(str(e), 2)
    except (CommandError, EmbeddedError, MigrationError) as e:
        _fail(str(e), 1)
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of the output has gone
        os._exit(1)
    except OSError as e:
        _fail(str(e), 1)
    if code == 130:  # typer returns it for Ctrl-C
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    output.say(message, is_error=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
