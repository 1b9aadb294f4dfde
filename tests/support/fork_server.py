"""A process that has imported the program, and forks for each run of it: a run takes a tenth of the time.

Run as a script, with the path of its socket, this is the server. It ends with its standard input. Its client is
support/forked.py.
"""

import atexit
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn


@cache
def forked_program() -> tuple[str, ...]:
    """Start the server, for as long as this process lives, and return the command that runs the program through it.

    Where a process cannot be awaited through a file descriptor, which only Linux allows, the command starts Python.
    """
    if not hasattr(os, "pidfd_open"):
        return (sys.executable, "-m", "checkpointd")
    folder = tempfile.TemporaryDirectory(prefix="checkpointd-fork-")
    path = f"{folder.name}/socket"
    command = [sys.executable, "-X", "utf8", __file__, path]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()  # it listens

    def stop() -> None:
        server.communicate()
        folder.cleanup()

    atexit.register(stop)
    return (sys.executable, "-I", "-S", str(Path(__file__).with_name("forked.py")), path)


def _serve(path: str) -> None:
    """Accept clients until standard input ends. For each, fork a process that runs the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print(flush=True)  # noqa: T201  # for forked_program()
        while True:
            ready, _, _ = select.select([listener, 0], [], [])
            if 0 in ready:
                return
            client, _ = listener.accept()
            if not os.fork():
                _attend(client)
            client.close()


def _attend(client: socket.socket) -> NoReturn:
    """Run the program for a client, and report its exit code. Kill it if the client ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, fds, _, _ = socket.recv_fds(client, 1 << 20, 3)
    child = os.fork()
    if not child:
        _run(json.loads(message), fds)
    for fd in fds:
        os.close(fd)
    client.sendall(b"%d\n" % child)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([client, ended], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):
        client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _run(run: dict[str, object], fds: list[int]) -> NoReturn:
    """Run the program with the arguments, environment, folder and standard streams of a client."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(run["env"])  # type: ignore[call-overload]
    os.chdir(str(run["cwd"]))
    sys.argv = run["argv"]  # type: ignore[assignment]
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    main()


if __name__ == "__main__":
    import checkpointd.cli
    from checkpointd.__main__ import main

    for module in pkgutil.iter_modules(checkpointd.cli.__path__, "checkpointd.cli."):
        importlib.import_module(module.name)
    _serve(sys.argv[1])
