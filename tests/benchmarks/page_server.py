"""Serve prepared pages: Debian's nginx if it is installed, otherwise a small server, which is this program.

The pages of the lists are files: /NAME/v1/fine_tuning/jobs/JOB/checkpoints is FOLDER/NAME/JOB.json.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from support.paths import TOP
from support.servers import free_port

TARGET: Final = re.compile(rb"GET /([\w-]+)/v1/fine_tuning/jobs/([\w-]+)/checkpoints(?:\?| )")

# Debian's nginx has paths for its other files that only root may use.
NGINX: Final = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; default_type application/json;
  etag off; if_modified_since off;
  client_body_temp_path {folder}/unused; proxy_temp_path {folder}/unused; fastcgi_temp_path {folder}/unused;
  uwsgi_temp_path {folder}/unused; scgi_temp_path {folder}/unused;
  server {{
    listen 127.0.0.1:{port};
    root {folder};
    location = /requests {{ stub_status; }}
    location ~ ^/(?<name>[^/]+)/v1/fine_tuning/jobs/(?<job>[^/]+)/checkpoints$ {{ try_files /$name/$job.json =404; }}
  }}
}}
"""


class PageServer(NamedTuple):
    """A running server."""

    program: str
    url: str

    def api(self, name: str) -> str:
        """Return the base URL of the lists with this name."""
        return f"{self.url}/{name}/v1"

    def requests(self) -> int:
        """Return how many requests were served before this one."""
        with urllib.request.urlopen(f"{self.url}/requests") as response:
            *_, requests = re.findall(r"\d+", response.read().decode().splitlines()[2])
        return int(requests) - 1


@contextmanager
def serving_pages(folder: Path, *, own: bool = False) -> Iterator[PageServer]:
    """Serve the lists in a folder. If not `own`, by nginx if it is installed."""
    port, nginx = free_port(), None if own else shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if nginx:
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port))
        command = [nginx, "-c", str(config), "-e", str(folder / "nginx.log")]
    else:
        command = [sys.executable, "-m", "benchmarks.page_server", str(folder), str(port)]
    server = PageServer("nginx" if nginx else "our own server", f"http://127.0.0.1:{port}")
    with subprocess.Popen(command, cwd=TOP / "tests") as process:
        try:
            _wait_for(server, process)
            yield server
        finally:
            process.terminate()


def _wait_for(server: PageServer, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        try:
            server.requests()
        except OSError:
            assert process.poll() is None, "the server of the pages has ended"
            time.sleep(0.02)  # a server that starts gives no event
        else:
            return
    raise TimeoutError("the server of the pages does not answer")


class _Connection(asyncio.Protocol):
    """A connection of the small server."""

    requests = 0
    """Those of all connections."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._received = b""
        self._transport = asyncio.Transport()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for request in requests:
            _Connection.requests += 1
            self._transport.write(self._answer(request))

    def _answer(self, request: bytes) -> bytes:
        status, body = b"404 Not Found", b""
        if request.startswith(b"GET /requests "):  # as nginx shows it: connections, and requests at the end of a line
            status, body = b"200 OK", b"\n\n%d" % self.requests
        elif target := TARGET.match(request):
            path = self._folder / target[1].decode() / f"{target[2].decode()}.json"
            if path.exists():
                status, body = b"200 OK", path.read_bytes()
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return head % (status, len(body)) + body


async def _serve(folder: Path, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(folder), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
