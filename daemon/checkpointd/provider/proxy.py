"""The proxy of a source: its address and credentials, and the failures that concern it.

A proxy is used for one source, as the settings name it. Variables such as HTTPS_PROXY are not used.
"""

from base64 import b64encode
from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from checkpointd.domain.failure import ErrorClass, Failure

_CREDENTIALS: Final = "check proxy_credentials"


class Proxy(NamedTuple):
    """The URL of a proxy, and its credentials as `user:password`, or None."""

    url: str
    credentials: str | None = None

    @property
    def _encoded(self) -> str:
        """The credentials as a request contains them; an empty text without credentials."""
        return b64encode((self.credentials or "").encode()).decode()

    @property
    def secrets(self) -> list[str]:
        """The password, and the credentials as a request contains them."""
        if self.credentials is None:
            return []
        return [self.credentials.partition(":")[2], self._encoded]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request to the proxy. They contain the password."""
        if self.credentials is None:
            return {}
        return {"Proxy-Authorization": f"Basic {self._encoded}"}


def proxy_failure(status: int, reason: str, host: str = "") -> Failure:
    """Return what a proxy's own answer means; `host` is the one that a tunnel was requested to."""
    answer = f"HTTP {status} {reason}".rstrip()
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        message = f"the proxy does not accept the credentials, or requires some: {answer}: {_CREDENTIALS}"
        return Failure(ErrorClass.UNREACHABLE, message, no_retry=True, status=status)
    verb = "cannot reach" if status >= 500 else "refuses to connect to"
    return Failure(ErrorClass.UNREACHABLE, f"the proxy {verb} {host}: {answer}", no_retry=status < 500)


def connection_failure(error: Exception, proxy: Proxy | None, host: str) -> Failure:
    """Return what an error of a connection to `host` means, made through `proxy` or directly.

    The error's own text is not used: some errors show the request, which contains the key.
    """
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_failure(error.status, error.message, host)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    if not isinstance(error, aiohttp.ClientConnectorError):
        through = " through the proxy" if proxy else ""
        return Failure(ErrorClass.NETWORK, f"the connection{through} was lost: {reason}")
    if proxy is None:
        return Failure(ErrorClass.UNREACHABLE, f"no connection: {reason}")
    way = "to" if error.host == URL(proxy.url).host else "through"
    return Failure(ErrorClass.UNREACHABLE, f"no connection {way} the proxy: {reason}")
