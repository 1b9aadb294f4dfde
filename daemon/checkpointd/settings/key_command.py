"""Run the command of a source that prints its key, within bounds of time and output.

Nothing that the command prints is repeated, except the plain words of its last line of standard error.
"""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from checkpointd.redaction import Secrets, looks_like_key
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.issued_key import IssuedKey, likely_keys, read_key

COMMAND_SECONDS: Final = 30.0
"""The time of a command. Programs of cloud providers take a few seconds, also because they ask another server."""

OUTPUT_BYTES: Final = 64 * 1024
"""The most bytes of standard output. A token has a few thousand."""

_KEPT_ERROR_BYTES: Final = 4096
"""So much of the end of standard error is kept."""

VARIABLES: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME",
    "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
VARIABLE_PREFIXES: Final = ("AWS_", "AZURE_", "CLOUDSDK_", "GOOGLE_", "IDENTITY_")
"""The variables that a command gets: these, and those whose names begin so, which cloud providers' programs read."""


class _Output(asyncio.SubprocessProtocol):
    """Collects what a program prints."""

    def __init__(self) -> None:
        self.printed = bytearray()
        self.error = bytearray()
        self.ended = asyncio.get_running_loop().create_future()
        """Done when the program has ended and closed its output, or has printed too much: then it is true."""
        self.exited = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what is printed: the beginning of standard output, and the end of standard error."""
        if fd == 1:
            self.printed += data[: OUTPUT_BYTES + 1 - len(self.printed)]
            if len(self.printed) > OUTPUT_BYTES and not self.ended.done():
                self.ended.set_result(True)
        else:
            self.error += data
            del self.error[:-_KEPT_ERROR_BYTES]

    def process_exited(self) -> None:
        """Note the end of the program. Programs that it started may still hold its output."""
        self.exited.set()

    def connection_lost(self, _: Exception | None) -> None:
        """Note the end of the program and of its output."""
        if not self.ended.done():
            self.ended.set_result(False)


def command(value: object) -> tuple[str, ...]:
    """Return a setting that is a program with its arguments. Raises ValueError."""
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(word, str) and "\0" not in word for word in value)
    ):
        raise ValueError("must be a list of a program and its arguments, such as ['az', 'account', 'get-access-token']")
    if not value[0] or any(looks_like_key(word) and "/" not in word for word in value):
        raise ValueError("must name a program, and must not contain a key: other programs can see its arguments")
    return tuple(value)


async def run_key_command(arguments: Sequence[str], label: str) -> IssuedKey:
    """Run a command, and return the key that it prints. Raises SettingsError, whose text starts with `label`.

    At the end, and if it is cancelled, the program and all programs that it started are killed.
    """
    environment = {
        name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith(VARIABLE_PREFIXES)
    }
    problem = None
    try:
        transport, output = await asyncio.get_running_loop().subprocess_exec(
            _Output, *arguments, stdin=asyncio.subprocess.DEVNULL, env=environment, start_new_session=True
        )
    except OSError as e:
        raise SettingsError(f"{label}: {arguments[0]}: {e.strerror or 'it cannot be started'}") from None
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            if await output.ended:
                problem = f"it printed more than {OUTPUT_BYTES} bytes"
    except TimeoutError:
        problem = f"it did not end within {COMMAND_SECONDS:g} s"
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        transport.close()
        await output.exited.wait()  # otherwise the event loop could be closed before it has seen the end
    if problem is None and (status := transport.get_returncode()):
        problem = f"exit status {status}" if status > 0 else f"it was ended by signal {-status}"
    try:
        if problem is None:
            return read_key(bytes(output.printed), time.time())
    except ValueError as e:
        problem = str(e)
    said = _plain_words(bytes(output.error), bytes(output.printed))
    raise SettingsError(f"{label}: {problem}{said and f' ({said})'}")


def _plain_words(error: bytes, printed: bytes) -> str:
    """Return the last line of standard error, with [secret] instead of all words that can be a part of a key."""
    lines = error.decode(errors="replace").split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    secrets = Secrets([*printed.decode(errors="replace").split(), *likely_keys(printed.decode(errors="replace"))])
    return secrets.redact_truncated(line[-200:], may_quote=True)
