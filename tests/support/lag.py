"""Measures from outside for how long a daemon does not answer: `python -m support.lag PORT PID`, as a process.

For each line on standard input it prints the longest time of an answer since the last one, in seconds. The time in
which the daemon or this process was ready to run and had no processor does not count.
"""

import http.client
import select
import sys
import time
from pathlib import Path


def queued_seconds(pid: str) -> float:
    """Return for how many seconds in all the threads of a process were ready to run and had no processor."""
    return sum(int(file.read_text().split()[1]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def main(port: int, pid: str) -> None:
    """Measure until standard input is closed."""
    longest = 0.0
    while True:
        before, started = queued_seconds(pid) + queued_seconds("self"), time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", "/livez")
        connection.getresponse().read()
        connection.close()
        seconds = time.monotonic() - started
        longest = max(longest, seconds - (queued_seconds(pid) + queued_seconds("self") - before))
        if select.select([sys.stdin], [], [], 0.02)[0]:
            if not sys.stdin.readline():
                return
            print(longest, flush=True)  # noqa: T201
            longest = 0.0


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
