"""Lists are read page by page: cursors, retries, lists without an end, and the job list."""

import asyncio
import re
import time
from typing import Any

import pytest

from checkpointd.domain.failure import ErrorClass
from checkpointd.domain.listing import RawListing, digest
from checkpointd.provider import client as client_module
from checkpointd.provider.client import LISTING_BYTES, Client
from checkpointd.provider.http import ApiError, Limits, open_session
from support.lists import HEADERS, ITEMS, LAST_PAGE, ListCheckpoints, failure_class, ids, message
from support.provider import JOB, Provider, body, checkpoint, error, held, page, paged

# Pages


async def test_all_pages_come_in_order(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A list of three pages is read by three requests, each with the last item before it as cursor, and is complete."""
    provider.checkpoints[JOB] = paged(ITEMS)
    listing = await list_checkpoints(page_size=10)
    assert [item["id"] for item in ITEMS] == ids(listing)
    assert ([10, 10, 5], None, 3) == ([len(items) for items in listing.pages], listing.failure, listing.requests)
    assert [None, "ftckpt_0016", "ftckpt_0006"] == [request.query.get("after") for request in provider.requests]
    assert {"10"} == {request.query["limit"] for request in provider.requests}


@pytest.mark.parametrize("count", [0, 1, 25])
async def test_one_page_is_one_request(provider: Provider, list_checkpoints: ListCheckpoints, count: int) -> None:
    """A list of one page, or an empty one, is read by one request."""
    provider.checkpoints[JOB] = page(ITEMS[:count])
    listing = await list_checkpoints()
    assert (count, None, 1, 1) == (len(ids(listing)), listing.failure, listing.requests, provider.asked())


async def test_items_keep_their_bytes(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """An item is returned as the provider sent it, byte for byte."""
    item = '{"id":"a", "metrics": {"loss":1.10},"x":"\\u00e9"}'
    provider.checkpoints[JOB] = body(f'{{"object":"list","data":[{item}],"has_more":false}}')
    assert [[item.encode()]] == [[bytes(raw_item) for raw_item in items] for items in (await list_checkpoints()).pages]


async def test_known_page_is_not_decoded(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """If the only page is the last complete listing, byte for byte, its items are not split."""
    provider.checkpoints[JOB] = page(ITEMS)
    first = await list_checkpoints()
    again = await list_checkpoints(known=digest(first.bodies))
    assert (False, True) == (first.is_known, again.is_known)
    assert ([], None, 1, first.size) == (again.pages, again.failure, again.requests, again.size)
    provider.checkpoints[JOB] = page(ITEMS[1:])
    assert len(ITEMS) - 1 == len(ids(await list_checkpoints(known=digest(first.bodies))))


async def test_known_page_after_others(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A listing that starts again at a known page has all items, because those of the pages before count, too."""
    (known,) = (await _listed(provider, list_checkpoints, page(ITEMS[:2]))).bodies
    lost = error(404, "not_found", "no such checkpoint")
    answers = [page(ITEMS[2:4], has_more=True), lost, page(ITEMS[:2])]
    listing = await _listed(provider, list_checkpoints, answers, known=digest([known]))
    assert (False, None, 3) == (listing.is_known, listing.failure, listing.requests)
    assert {item["id"] for item in ITEMS[:4]} == set(ids(listing))


async def test_known_pages(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """All pages of a list of several pages are read, because the first one does not show what follows."""
    first = await _listed(provider, list_checkpoints, paged(ITEMS), page_size=10)
    again = await _listed(provider, list_checkpoints, paged(ITEMS), page_size=10, known=digest(first.bodies))
    assert (ids(first), False) == (ids(again), again.is_known)
    assert digest(first.bodies) == digest(again.bodies)


async def _listed(provider: Provider, list_checkpoints: ListCheckpoints, answers: Any, **options: Any) -> RawListing:
    provider.checkpoints[JOB] = answers
    return await list_checkpoints(**options)


async def test_the_cursor_is_encoded(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """An id with reserved characters can be a cursor."""
    odd = "a&limit=1#/?%2f ü+"
    provider.checkpoints[JOB] = [page([{"id": odd}], has_more=True), LAST_PAGE]
    assert None is (await list_checkpoints()).failure
    assert ([odd], ["100"]) == (provider.requests[1].query.getall("after"), provider.requests[1].query.getall("limit"))


@pytest.mark.parametrize("last", ["", " ", None, 5, "a\n"])
async def test_no_usable_cursor(provider: Provider, list_checkpoints: ListCheckpoints, last: object) -> None:
    """If more pages follow an item without an id, the listing fails, and does not end with the page sent next."""
    provider.checkpoints[JOB] = [page([*ITEMS[:2], {"id": last}], has_more=True), LAST_PAGE]
    listing = await list_checkpoints()
    assert (ErrorClass.BAD_HAS_MORE, 3, 1) == (failure_class(listing), len(listing.pages[0]), listing.requests)


@pytest.mark.parametrize("job", [JOB, "ft.v1:abc", "a", "7~x@y=z+w", "x" * 256])
async def test_a_job_id_is_one_segment_of_the_path(
    provider: Provider, list_checkpoints: ListCheckpoints, job: str
) -> None:
    """A valid id is one segment of the path."""
    provider.checkpoints[job] = LAST_PAGE
    assert None is (await list_checkpoints(job)).failure
    (request,) = provider.requests
    path = re.fullmatch(r"/v1/fine_tuning/jobs/([A-Za-z0-9_.~%-]+)/checkpoints\?limit=100", request.raw_path)
    assert path
    assert job == request.match_info["job"]


@pytest.mark.parametrize(
    "job", ["..", ".", "ftjob-x/../../y", "ftjob-?a=b#c", "ftjob-%2f", "ftjob-'; drop", "ftjob-ü\r\nX: y", "sk-x", ""]
)
async def test_an_invalid_id_makes_no_request(provider: Provider, list_checkpoints: ListCheckpoints, job: str) -> None:
    """An id that version 0.1.0 discovered, and that is no valid id, is a failure of its job, without a request."""
    listing = await list_checkpoints(job)
    assert ("bad_request", 0) == (listing.failure and listing.failure.error_class, listing.requests)
    assert [] == provider.requests


# Retries


async def test_transient_failures_are_retried(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """After a transient failure the listing is complete."""
    provider.checkpoints[JOB] = [error(503), LAST_PAGE]
    listing = await list_checkpoints()
    assert (None, 1, 2) == (listing.failure, len(ids(listing)), listing.requests)


async def test_each_page_has_its_own_tries(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """Each page may fail once, and the listing is complete."""
    first = page(ITEMS[:1], has_more=True)
    provider.checkpoints[JOB] = [error(500), first, error(500), page(ITEMS[1:2])]
    listing = await list_checkpoints()
    assert (None, 2, 4) == (listing.failure, len(ids(listing)), listing.requests)


async def test_a_failing_job_gets_one_try(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """Without a retry of the first page its failure is returned at once; the pages after it have two tries."""
    provider.checkpoints[JOB] = [error(500), page(ITEMS[:1], has_more=True), error(500), page(ITEMS[1:2])]
    failed = await list_checkpoints(retry_first=False)
    assert (ErrorClass.SERVER_ERROR, 1) == (failure_class(failed), failed.requests)
    listing = await list_checkpoints(retry_first=False)
    assert (None, 2, 3) == (listing.failure, len(ids(listing)), listing.requests)


async def test_cut_off(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A listing that is cut off fails as a timeout at once, and what it has read is returned."""
    waiting, reached, _ = held(LAST_PAGE)
    provider.checkpoints[JOB] = [page(ITEMS[:2], has_more=True), waiting]
    cut_off = asyncio.timeout(None)
    listed = asyncio.ensure_future(list_checkpoints(cut_off=cut_off))
    await reached.wait()
    cut_off.reschedule(0)
    listing = await listed
    assert (ErrorClass.TIMEOUT, 2, 2) == (failure_class(listing), len(ids(listing)), listing.requests)
    assert "while other jobs were read" in message(listing)


async def test_no_retry_beyond_the_deadline(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """If the delay before a retry would exceed the deadline, the failure is returned at once."""
    provider.checkpoints[JOB] = error(500)
    started = time.monotonic()
    listing = await list_checkpoints(backoff=100)
    assert (ErrorClass.SERVER_ERROR, 1) == (failure_class(listing), listing.requests)
    assert time.monotonic() - started < 30


# A lost cursor


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_lost_cursor_starts_again(provider: Provider, list_checkpoints: ListCheckpoints, status: int) -> None:
    """If the checkpoint of the cursor left the list, the list is read again, and the pages before still count."""
    first, again = page(ITEMS[:2], has_more=True), page(ITEMS[1:3])
    provider.checkpoints[JOB] = [first, error(status), again]
    listing = await list_checkpoints()
    assert (None, [i["id"] for i in (*ITEMS[:2], *ITEMS[1:3])], 3) == (listing.failure, ids(listing), listing.requests)
    assert [False, True, False] == ["after" in request.query for request in provider.requests]


async def test_a_cursor_that_is_always_lost(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """The listing starts again twice and then fails. What was read is returned."""
    provider.checkpoints[JOB] = [page(ITEMS[:1], has_more=True), error(400)] * 3 + [LAST_PAGE]
    listing = await list_checkpoints()
    assert (ErrorClass.CURSOR_LOST, 6) == (failure_class(listing), listing.requests)
    assert {ITEMS[0]["id"]} == set(ids(listing))


async def test_pages_before_a_lost_cursor_are_kept(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """The pages before a lost cursor are returned, even if the second start fails."""
    provider.checkpoints[JOB] = [page(ITEMS[:2], has_more=True), error(400), error(404)]
    listing = await list_checkpoints()
    assert (ErrorClass.MISSING, [i["id"] for i in ITEMS[:2]]) == (failure_class(listing), ids(listing))


# Lists without an end


async def test_an_ignored_cursor_ends_the_listing(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """If every request returns page 1, the listing ends at the second one."""
    provider.checkpoints[JOB] = page(ITEMS[:2], has_more=True)
    listing = await list_checkpoints()
    assert (ErrorClass.CURSOR_REPEATED, 2) == (failure_class(listing), listing.requests)
    assert {i["id"] for i in ITEMS[:2]} == set(ids(listing))


async def test_a_circle_of_pages_ends_the_listing(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A cursor that is repeated after others ends the listing."""
    provider.checkpoints[JOB] = [page([item], has_more=True) for item in (*ITEMS[:3], *ITEMS[:3])]
    listing = await list_checkpoints()
    assert (ErrorClass.CURSOR_REPEATED, 4) == (failure_class(listing), listing.requests)


@pytest.mark.parametrize(("more", "expected"), [(0, None), (1, ErrorClass.TOO_MANY_PAGES)])
async def test_at_most_a_hundred_pages(
    provider: Provider, list_checkpoints: ListCheckpoints, more: int, expected: ErrorClass | None
) -> None:
    """A list of a hundred pages is complete. With one more it is incomplete, with the items of a hundred pages."""
    provider.checkpoints[JOB] = paged([checkpoint(number) for number in range(100 + more, 0, -1)])
    listing = await list_checkpoints(page_size=1)
    assert (expected, 100, 100) == (failure_class(listing), len(ids(listing)), listing.requests)


# The job list


async def test_the_job_list_is_read_page_by_page(provider: Provider) -> None:
    """The pages before a failure are yielded before it is raised."""
    provider.jobs = [page([{"id": "a"}], has_more=True), page([{"id": "b"}], has_more=True), error(403, "denied")]
    seen: list[bytes] = []

    async def read() -> None:
        async with open_session() as http:
            client = Client(http, provider.url, HEADERS, {}, Limits(1, backoff=0))
            async for read in client.list_jobs(asyncio.get_running_loop().time() + 5):
                seen.extend(bytes(item) for item in read.items)

    with pytest.raises(ApiError) as caught:
        await read()
    assert [b'{"id": "a"}', b'{"id": "b"}'] == seen
    assert ErrorClass.FORBIDDEN is caught.value.failure.error_class
    assert [None, "a", "b"] == [request.query.get("after") for request in provider.requests]


# Bounds of one list


async def test_items_of_a_list(
    provider: Provider, list_checkpoints: ListCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list with more items than the limit is incomplete, with the pages that were read."""
    monkeypatch.setattr(client_module, "LISTING_ITEMS", 25)
    provider.checkpoints[JOB] = paged(ITEMS)
    assert (None, 25) == (failure_class(listing := await list_checkpoints(page_size=10)), len(ids(listing)))
    provider.checkpoints[JOB] = paged([*ITEMS, checkpoint(26)])
    assert (ErrorClass.TOO_MANY_ITEMS, 26) == (
        failure_class(listing := await list_checkpoints(page_size=10)),
        len(ids(listing)),
    )


async def test_bytes_of_a_list(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A list of more bytes than the limit is incomplete, with the pages before. Retries of a page do not count."""
    large = [{**checkpoint(number), "extra": "x" * 1_900_000} for number in range(5, 0, -1)]
    provider.checkpoints[JOB] = [page([item], has_more=True) for item in large[:2]]
    provider.checkpoints[JOB] += [body("x" * 4_000_000), *(page([item], has_more=True) for item in large[2:])]
    listing = await list_checkpoints()
    assert (ErrorClass.TOO_LARGE, 4) == (failure_class(listing), len(ids(listing)))
    assert f"a list of more than {LISTING_BYTES} bytes" == message(listing)


async def test_large_lists_wait_for_each_other(provider: Provider) -> None:
    """Two large lists of a source are in memory at the same time. A third one waits, and small ones do not.

    The time of waiting does not count as a time of the provider.
    """
    large = page([{**checkpoint(1), "extra": "x" * 2_000_000}])
    provider.checkpoints = dict.fromkeys(("ftjob-1", "ftjob-2", "ftjob-3"), large) | {JOB: LAST_PAGE}
    async with open_session() as http:
        client = Client(http, provider.url, HEADERS, {}, Limits(request_timeout=2))
        deadline = asyncio.get_running_loop().time() + 60
        held = [client.memory(), client.memory()]
        for name, memory in zip(("ftjob-1", "ftjob-2"), held, strict=True):
            assert (await client.list_checkpoints(name, deadline, memory=memory)).failure is None
        third = asyncio.create_task(client.list_checkpoints("ftjob-3", deadline, memory=client.memory()))
        assert (await client.list_checkpoints(JOB, deadline)).failure is None
        soon = asyncio.get_running_loop().time() + 2.5  # later than the timeout of the request
        in_vain = await client.list_checkpoints("ftjob-3", soon, memory=client.memory())
        assert ErrorClass.INTERNAL == failure_class(in_vain)
        assert not third.done()
        held[0].free()
        assert (await third).failure is None
