"""The pages of simulated lists."""

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from aiohttp import web

from checkpointd.simulator.shapes import RequestError
from checkpointd.simulator.world import Record

Clock = Callable[[], float]
"""Returns the simulated time, in Unix seconds."""


def page(
    request: web.Request, items: list[Record], default_limit: int, listed: Collection[str] | None = None
) -> tuple[list[Record], bool]:
    """Return the items of the requested page, and whether more follow.

    `items` are in the order of the list. If `listed` is given, only items with these ids are returned; the others can
    still be cursors.
    """
    limit = request.query.get("limit", str(default_limit))
    if not re.fullmatch("[1-9][0-9]?|100", limit):
        raise RequestError(400, f"Invalid 'limit': expected an integer from 1 to 100, but got {limit!r}.", "limit")
    start = 0
    if "after" in request.query:
        after = request.query["after"]
        # A cursor may have left the list since the last page. The listed items after it still follow.
        start = next((number for number, item in enumerate(items, 1) if item["id"] == after), 0)
        if start == 0:
            raise RequestError(400, f"Invalid 'after': there is no {after!r} in this list.", "after")
    rest = [item for item in items[start:] if listed is None or item["id"] in listed]
    return rest[: int(limit)], len(rest) > int(limit)


def models_of(jobs: Collection[Record], shutdown_date: str | None) -> list[Record]:
    """Return the records of the base models of jobs, which are shut down on that day, and of the models they made."""
    owners = {job["model"]: "system" for job in jobs} | {job["fine_tuned_model"]: "user" for job in jobs}
    created = {job[kind]: job["created_at"] for job in jobs for kind in ("model", "fine_tuned_model")}
    return [
        {
            "id": name, "object": "model", "created": created[name], "owned_by": owner,
            "shutdown_date": shutdown_date if owner == "system" else None,
        }
        for name, owner in sorted(owners.items(), key=str)
        if name is not None
    ]  # fmt: skip


def page_by_offset(request: web.Request, name: str, items: list[Record]) -> Record:
    """Return the page that `limit` and `offset` ask for: its items, as the member `name`, and `cursor`."""
    limit, offset = _number(request, "limit", 1, 20), _number(request, "offset", 0, 0)
    cursor = {"offset": offset, "limit": limit, "total_count": len(items)}
    return {name: items[offset : offset + limit], "cursor": cursor}


def _number(request: web.Request, name: str, least: int, default: int) -> int:
    given = request.query.get(name, str(default))
    if not re.fullmatch("[0-9]{1,6}", given) or int(given) < least or (name == "limit" and int(given) > 100):
        raise RequestError(422, f"{name}: must be an integer from {least} on, and a limit is at most 100")
    return int(given)


def time_text(seconds: float) -> str:
    """Return a time, given in Unix seconds, in the form of RFC 3339, without a fraction."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
