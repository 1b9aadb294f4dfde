"""Read checkpoint lists with a provider's own SDK, and print them as JSON, by job: `python sdks.py KIND URL JOB…`.

It runs with the Python of the environment in which `make contract` has installed the SDKs.
"""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

Read = Callable[[str, list[str]], Coroutine[Any, Any, dict[str, Any]]]
KEY = "canary-key"


async def read_coreweave(url: str, models: list[str]) -> dict[str, Any]:
    """Read the checkpoints of models with the client of OpenPipe's ART.

    Only the module of the client is loaded. The package as a whole needs a hundred others, for training.
    """
    spec = importlib.util.find_spec("art")
    assert spec
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    for name, path in (("art", folder), ("art.serverless", folder / "serverless"), ("art.trajectories", folder)):
        module = ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
    vars(sys.modules["art.trajectories"])["TrajectoryGroup"] = object  # the type of what is trained with
    client_module = importlib.import_module("art.serverless.client")
    client = client_module.Client(api_key=KEY, base_url=url.removesuffix("/preview"))
    return {
        model: [item.model_dump() async for item in client.models.checkpoints.list(model_id=model, limit=2)]
        for model in models
    }


async def read_together(url: str, jobs: list[str]) -> dict[str, Any]:
    """Read jobs, and their checkpoints and metrics, with Together's SDK."""
    sdk = importlib.import_module("together")
    client = sdk.AsyncTogether(
        api_key=KEY, base_url=url.removesuffix("/v1"), max_retries=0, _strict_response_validation=True
    )
    listed = (await client.fine_tuning.list()).data
    records = {job.id: job.model_dump(mode="json", by_alias=True, exclude_unset=True) for job in listed}
    found = {}
    for job in jobs:
        checkpoints = (await client.fine_tuning.list_checkpoints(job)).data or []
        found[job] = {
            "record": records[job],
            "checkpoints": [item.model_dump(mode="json", exclude_unset=True) for item in checkpoints],
            "metrics": (await client.fine_tuning.list_metrics(job)).metrics,
        }
    return found


async def read_tinker(url: str, runs: list[str]) -> dict[str, Any]:
    """Read training runs and their checkpoints with Tinker's SDK."""
    sdk, types = importlib.import_module("tinker._client"), importlib.import_module("tinker.types")
    client = sdk.AsyncTinker(
        api_key=f"tml-{KEY}", base_url=url.removesuffix("/api/v1"), max_retries=0, _strict_response_validation=True
    )
    records: dict[str, Any] = {}
    total = None
    while total is None or len(records) < total:
        options = {"params": {"limit": 1, "offset": len(records)}}
        page = await client.get("/api/v1/training_runs", options=options, cast_to=types.TrainingRunsResponse)
        records |= {run.training_run_id: run.model_dump(mode="json", exclude_unset=True) for run in page.training_runs}
        total = page.cursor.total_count
    found = {}
    for run in runs:
        checkpoints = (await client.weights.list(run)).checkpoints
        items = [item.model_dump(mode="json", exclude_unset=True) for item in checkpoints]
        found[run] = {"record": records[run], "checkpoints": items}
    return found


async def read_foundry(url: str, sessions: list[str]) -> dict[str, Any]:
    """Read fine-tuning sessions and their checkpoints with the synchronous client of Microsoft's SDK."""
    sdk = importlib.import_module("azure.ai.finetuningsessions")
    credentials = importlib.import_module("azure.core.credentials")
    preview = {"foundry_features": "FineTuningSessions=V1Preview", "api_version": "v1"}
    with sdk.FineTuningSessionClient(url, credentials.AzureKeyCredential(KEY), allow_insecure_http=True) as client:
        records: dict[str, Any] = {}
        total = None
        while total is None or len(records) < total:
            page = client.sessions.list(**preview, limit=1, offset=len(records))
            records |= {session.session_id: session.as_dict() for session in page.data}
            total = page.cursor.total_count
        found = {}
        for session in sessions:
            checkpoints = client.checkpoints.list(session, **preview).checkpoints
            assert all(item.time.tzinfo for item in checkpoints)
            found[session] = {"record": records[session], "checkpoints": [item.as_dict() for item in checkpoints]}
    return found


READERS: dict[str, Read] = {
    "coreweave": read_coreweave,
    "together": read_together,
    "tinker": read_tinker,
    "foundry": read_foundry,
}

if __name__ == "__main__":
    kind, api, *jobs = sys.argv[1:]
    print(json.dumps(asyncio.run(READERS[kind](api, jobs)), default=str))  # noqa: T201  # it is a program
