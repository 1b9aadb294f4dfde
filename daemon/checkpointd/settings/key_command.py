"""Run the command of a source that prints its key, within bounds of time and output.

Nothing that the command prints is repeated, except the plain words of its last line of standard error.
"""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from checkpointd.redaction import Secrets
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.issued_key import IssuedKey, likely_keys, read_key

COMMAND_SECONDS: Final = 30.0
"""The time of a command. Programs of cloud providers take a few seconds, also because they ask another server."""

REST_SECONDS: Final = 1.0
"""The time after its end in which its output is read further, if a program that it started holds it open."""

KILL_SECONDS: Final = 5.0
"""The time in which a killed command must end."""

_STEP: Final = 0.02
"""Seconds between two looks at a command. Looking needs no watcher of processes whose events could be lost."""

OUTPUT_BYTES: Final = 64 * 1024
"""The most bytes of standard output. A token has a few thousand."""

_KEPT_ERROR_BYTES: Final = 4096
"""So much of the end of standard error is kept."""

_KEY_ARGUMENT: Final = re.compile(
    r"""(?x) (?<![\w-]) sk[-_] (?=[\w-]*\d) [\w-]{20} | \beyJ[\w-]{20}
    | (?=[A-Za-z]*\d) (?=\d*[A-Za-z]) [A-Za-z0-9]{25}"""
)
"""Matches a key in an argument: that of OpenAI, a JSON Web Token, or so many mixed letters and digits in a row. Ids of
24 hexadecimal digits are no keys."""

_HOST_ARGUMENT: Final = re.compile(r"(?:^|=)(?!eyJ)[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}$")
"""Matches an argument that is, or ends with, the name of a host, as the id of a client of Google does."""

VARIABLES: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME",
    "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
VARIABLE_PREFIXES: Final = ("AWS_", "AZURE_", "CLOUDSDK_", "GOOGLE_", "IDENTITY_")
"""The variables that a command gets: these, and those whose names begin so, which cloud providers' programs read."""


class _Output:
    """Collects what a program prints."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe]
        self.printed = bytearray()
        """The beginning of standard output."""
        self.error = bytearray()
        """The end of standard error."""
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)

    @property
    def is_too_long(self) -> bool:
        """Whether more was printed than a key can have."""
        return len(self.printed) > OUTPUT_BYTES

    def read(self) -> bool:
        """Read what has been printed, as far as it is at hand. Returns whether standard output is still open."""
        printed, error = (pipe.read(OUTPUT_BYTES) for pipe in self._pipes)  # None: nothing yet; empty: closed
        self.printed += (printed or b"")[: OUTPUT_BYTES + 1 - len(self.printed)]
        self.error += error or b""
        del self.error[:-_KEPT_ERROR_BYTES]
        return printed != b""

    def close(self) -> None:
        """Close the pipes. Programs that still hold them get SIGPIPE."""
        for pipe in self._pipes:
            pipe.close()


def command(value: object) -> tuple[str, ...]:
    """Return a setting that is a program with its arguments. Raises ValueError."""
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(word, str) and "\0" not in word for word in value)
    ):
        raise ValueError("must be a list of a program and its arguments, such as ['az', 'account', 'get-access-token']")
    if not value[0] or any(map(_is_key, value[1:])):
        raise ValueError("must name a program, and must not contain a key: other programs can see its arguments")
    return tuple(value)


def _is_key(argument: str) -> bool:
    """Return whether an argument has a key in it. A path or a URL is taken for none."""
    return bool(_KEY_ARGUMENT.search(argument)) and "/" not in argument and not _HOST_ARGUMENT.search(argument)


async def run_key_command(arguments: Sequence[str], label: str) -> IssuedKey:
    """Run a command, and return the key that it prints. Raises SettingsError, whose text starts with `label`.

    At the end, and if it is cancelled, the program and all others of its process group are killed. Programs that it
    started in a session or a process group of their own are not.
    """
    environment = {
        name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith(VARIABLE_PREFIXES)
    }
    try:
        process = _start(arguments, environment)
    except OSError as e:
        raise SettingsError(f"{label}: {arguments[0]}: {e.strerror or 'it cannot be started'}") from None
    output = _Output(process)
    try:
        problem = await _collect(process, output)
    finally:
        with suppress(ProcessLookupError, PermissionError):  # it has ended, or is a program of another user
            os.killpg(process.pid, signal.SIGKILL)
        output.close()
        await _reap(process)
    if problem is None and (status := process.returncode):
        problem = f"exit status {status}" if status > 0 else f"it was ended by signal {-status}"
    try:
        if problem is None:
            return read_key(bytes(output.printed), time.time())
    except ValueError as e:
        problem = str(e)
    said = _plain_words(bytes(output.error), bytes(output.printed))
    raise SettingsError(f"{label}: {problem}{said and f' ({said})'}")


def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program. Raises OSError.

    asyncio's own start can be cancelled before it returns the process. In Python 3.11 it then waits until all programs
    that hold the output have ended, which nobody can kill any more.
    """
    return subprocess.Popen(  # noqa: S603  # the command of the settings
        arguments, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment, start_new_session=True,
    )  # fmt: skip


async def _collect(process: subprocess.Popen[bytes], output: _Output) -> str | None:
    """Read the output of a program until its end. Returns why that was not waited for, or None."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + COMMAND_SECONDS
    while process.poll() is None and not output.is_too_long:
        output.read()
        if clock() > deadline:
            return f"it did not end within {COMMAND_SECONDS:g} s"
        await asyncio.sleep(_STEP)
    deadline = clock() + REST_SECONDS
    while output.read() and not output.is_too_long and clock() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_STEP)
    return f"it printed more than {OUTPUT_BYTES} bytes" if output.is_too_long else None


async def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait until a killed program has ended, but not for long: one of another user was not killed."""
    deadline = asyncio.get_running_loop().time() + KILL_SECONDS
    while process.poll() is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_STEP)


def _plain_words(error: bytes, printed: bytes) -> str:
    """Return the last line of standard error, with [secret] instead of all words that can be a part of a key."""
    lines = error.decode(errors="replace").split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    secrets = Secrets([*printed.decode(errors="replace").split(), *likely_keys(printed.decode(errors="replace"))])
    return secrets.redact_truncated(line[-200:], may_quote=True)
