"""The program: run a command. The exit codes are 0 done, 1 failed, 2 wrong usage or settings."""

import logging
import os
import resource
import sys
import warnings
from typing import NoReturn

from checkpointd.cli import output


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
        from checkpointd.cli.app import app  # noqa: PLC0415  # loading it takes long enough for a Ctrl-C

        code = app(standalone_mode=False)
    except BrokenPipeError:  # the reader of the output has gone
        os._exit(1)
    except BaseException as e:
        from checkpointd.cli.failures import explain  # noqa: PLC0415  # it loads the driver: a help text needs none

        if (ending := explain(e)) is None:
            raise
        _fail(*ending)
    if code == 130:  # typer returns it for Ctrl-C
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    output.say(message, is_error=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
