"""The client of the provider's API, over real HTTP on loopback."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from checkpointd.domain.listing import RawListing
from checkpointd.provider.client import Client
from checkpointd.provider.http import Limits, open_session
from checkpointd.provider.proxy import Proxy
from support.lists import HEADERS, ListCheckpoints
from support.provider import JOB, Provider


@pytest.fixture
async def list_checkpoints(provider: Provider) -> AsyncIterator[ListCheckpoints]:
    """Yield a function that lists the checkpoints of a job within `seconds`. It retries without a delay by default."""
    async with open_session() as http:

        async def listing(
            job: str = JOB,
            *,
            seconds: float = 60,
            request_timeout: float = 60,
            backoff: float = 0,
            page_size: int = 100,
            url: str = "",
            headers: Mapping[str, str] = HEADERS,
            query: Mapping[str, str] | None = None,
            known: bytes | None = None,
            retry_first: bool = True,
            cut_off: asyncio.Timeout | None = None,
            proxy: Proxy | None = None,
        ) -> RawListing:
            limits = Limits(page_size, request_timeout, backoff)
            secrets = [value.removeprefix("Bearer ") for value in headers.values()]
            client = Client(http, url or provider.url, headers, query or {}, limits, secrets, proxy)
            deadline = asyncio.get_running_loop().time() + seconds
            return await client.list_checkpoints(job, deadline, known=known, retry_first=retry_first, cut_off=cut_off)

        yield listing
