"""One POST of a message to an endpoint. Redirects are not followed, and the body of the answer is not read."""

import asyncio
from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp

from checkpointd import __version__
from checkpointd.domain.delivery import GIVE_UP_SECONDS, Answer
from checkpointd.provider.http import Session
from checkpointd.provider.proxy import connection_failure
from checkpointd.provider.responses import retry_after
from checkpointd.webhooks.signature import signed_headers

_STATUSES: Final = frozenset(HTTPStatus)


class Endpoint(NamedTuple):
    """Where messages are sent, and the key that signs them, if there is one."""

    url: str
    key: bytes | None


async def post(http: Session, endpoint: Endpoint, id_: str, body: bytes, seconds: int, most_seconds: float) -> Answer:
    """Send a message, and return the answer. `seconds` is the time, in Unix seconds.

    Neither the URL nor a text of the endpoint is in the answer: the URL of a Slack webhook is a secret.
    """
    signed = signed_headers(endpoint.key, id_, seconds, body) if endpoint.key else {}
    headers = {"Content-Type": "application/json", "User-Agent": f"checkpointd/{__version__}", **signed}
    try:
        async with (
            asyncio.timeout(most_seconds),
            http.post(endpoint.url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            wait = retry_after(response.headers, GIVE_UP_SECONDS)
            return Answer(response.status, _words(response.status), wait)
    except TimeoutError:
        return Answer(None, f"no answer within {most_seconds:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as e:
        return Answer(None, connection_failure(e, None, "").message)


def _words(status: int) -> str:
    phrase = f" {HTTPStatus(status).phrase}" if status in _STATUSES else ""
    return f"HTTP {status}{phrase}"
