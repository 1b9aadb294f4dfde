"""The pages of simulated lists."""

import re
from collections.abc import Callable, Collection

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
