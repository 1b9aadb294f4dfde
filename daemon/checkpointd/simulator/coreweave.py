"""The checkpoint list of CoreWeave's Serverless Training: `GET /models/{id}/checkpoints`."""

from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from checkpointd.simulator.lists import Clock, page
from checkpointd.simulator.world import Record, World


def checkpoint(record: Record) -> Record:
    """Return a checkpoint as CoreWeave describes it, from a record of OpenAI's format."""
    metrics = {name: value for name, value in record["metrics"].items() if name != "step"}
    return {"id": record["id"], "step": record["step_number"], "metrics": metrics}


def handlers(world: World, clock: Clock) -> Mapping[str, Handler]:
    """Return the handlers by path. The list is in the order that `order` says: oldest first by default."""

    async def list_checkpoints(request: web.Request) -> web.Response:
        newest = [checkpoint(record) for record in world.checkpoints(request.match_info["id"], clock())]
        items = newest if request.query.get("order", "asc") == "desc" else newest[::-1]
        listed = {item["id"] for item in newest[: world.shape.listed]}
        data, has_more = page(request, items, 20, listed=listed)
        return web.json_response({"object": "list", "data": data, "has_more": has_more})

    return {"/models/{id}/checkpoints": list_checkpoints}
