"""What is found of simulated jobs over a day, compared with a table that was made by hand from the simulated worlds."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from checkpointd.cli import demo
from checkpointd.cli.sync import sync_jobs
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import open_store
from checkpointd.settings.model import FixedSettings
from checkpointd.settings.source import Source
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Shape
from checkpointd.simulator.troubles import RefusingWorld, TroubledWorld
from checkpointd.simulator.world import EPOCH, World
from support.shifted import SHIFT_DEFAULTS, SHIFTED_CLOCK, connect_shifted

MINUTES: Final = (*range(0, 150, 10), 180, 210, 1800, 1810)
"""When the jobs are polled, in simulated minutes. All but one have ended at 180. What ended a day before is not found
any more at 1800, and resolved at 1810."""

WORLDS: Final[dict[str, World]] = {
    "demo": TroubledWorld(demo.SEED, demo.JOB_COUNT, EPOCH, demo.SHAPE),
    "coreweave": World(5, 4, EPOCH, Shape("coreweave")),
    "tinker": World(5, 4, EPOCH, Shape("tinker")),
    **{name: RefusingWorld(demo.SEED, EPOCH, error) for name, error in demo.REFUSING_SOURCES.items()},
}

FOUND: Final = {
    "demo ftjob-4azbS5RGjXUQgYWeocYzHZ9J": "diverging finished",  # its loss explodes after the third checkpoint
    "demo ftjob-P8ypikofMVG4a3gkMDSlQPWU": "leaving overfitting stalled",  # it hangs after its loss has risen
    "demo ftjob-fbJJTBAZzWLJwefx1XnQdk00": "finished",
    "demo ftjob-KhG0bY4bSMRiD1EaiBfWQGwJ": "finished suspected_gap",  # its third checkpoint is never listed
    "demo ftjob-5lROEH2M7KN0243W1TJa7l9a": "finished stalled unreadable",  # only two checkpoints can be read
    "demo ftjob-wUzVDRmfEhMlUQdaWgu8f3JP": "finished",
    "demo ftjob-oqC8hOogVHBNptKr3PnGNXeJ": "finished stale",  # its checkpoints are not found
    "demo ftjob-EH78UaRrUKG8HoKYVPkEUKm6": "finished",
    "demo ftjob-KD7Y2UzvVBeZBAeOGQ7ingXi": "finished",
    "demo ftjob-hsv82daD2GknrNys8obF1T0B": "finished",  # cancelled
    "demo ftjob-PmwFbhshhcVgHH5qgdYTQEle": "failed",
    "demo ftjob-RLkU5btBuKw5bA2aVVU5VNQl": "finished",
    "demo ftjob-9noF5epyUMDtM5MeEvlt5lzD": "finished overfitting",  # full_valid_loss rises from 0.53 to 1.48
    "demo ftjob-ljTrCCggrU4CfhMc1pfmXzxY": "finished",
    "demo ftjob-LWpiTFkktQKYog21tNJ8DqJz": "failed",
    "demo ftjob-HmALgTexcwjvIPmo2XRaswGi": "finished",
    "demo ftjob-46zGNWwDnGQ4dOLcfrtW2bxh": "finished",
    "demo ftjob-WuAZVIGGV1vSVPu1sXjzPeOC": "failed",
    "demo ftjob-diPSPFRtC8e1PWyV4RgSn2Bs": "finished",
    "demo ftjob-bFSNeCf7JZkNbd0olIQLjqdi": "finished",
    "demo ftjob-VvGWUeViKWbATBajWXcwAsgz": "finished",
    "demo ftjob-5l8BI5X6b6uBAXv1Hcrcz7fe": "finished",
    "demo ftjob-G9Lq68mdVeehVwMx1yS6lNOj": "finished",
    "demo ftjob-YBsDwc5D8U4yzMt9aRmJmrcP": "finished",
    "coreweave baeb19a1-5ea6-49c8-8384-c60ea525bd49": "finished",
    "coreweave ff0b57d3-1905-42a7-ab17-46256e4db15f": "finished",
    "coreweave 87eeb21c-2aaa-4a73-80d4-04c2c8f11341": "finished leaving",  # its reward falls after the third of five
    "coreweave 16646fec-a77d-4186-9bd8-74a9ea8b7d25": "finished",
    "tinker baeb19a1-5ea6-49c8-8384-c60ea525bd49:train:0": "finished",
    "tinker ff0b57d3-1905-42a7-ab17-46256e4db15f:train:0": "finished",
    "tinker 87eeb21c-2aaa-4a73-80d4-04c2c8f11341:train:0": "finished",
    "tinker 16646fec-a77d-4186-9bd8-74a9ea8b7d25:train:0": "finished",
    "without-quota": "source_paused",
    "refused": "source_refused",
}
"""The kinds of findings of each source and job of WORLDS, in alphabetical order: each fires once."""

OPEN: Final = {"demo ftjob-P8ypikofMVG4a3gkMDSlQPWU": "leaving overfitting stalled"}
"""What is not resolved at the end: this job hangs for ever. Everything else is resolved once."""


@pytest.mark.slow
async def test_simulated_histories(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Of each simulated job, what the table says is found, fires once, and is resolved once or stays open."""
    await sql.execute(SHIFTED_CLOCK + SHIFT_DEFAULTS)
    (tmp_path / "key").write_text("any")
    now = EPOCH
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(lambda: connect_shifted(url)))
        sources = []
        for name, world in WORLDS.items():
            address = await stack.enter_async_context(serve(world, lambda: now))
            sources.append(Source(name=name, kind=world.shape.kind, base_url=address, api_key=str(tmp_path / "key")))
        settings = FixedSettings(sources=tuple(sources), discover=True, assume_ended_seconds=3600)
        for minute in MINUTES:
            now = EPOCH + 60 * minute
            await sql.execute("update shifted.by set shift = to_timestamp($1::float8) - clock_timestamp()", now)
            keys = await store.register_sources(settings.source_kinds)
            # CoreWeave lists no models.
            await store.track(keys["coreweave"], [record["id"] for record in WORLDS["coreweave"].jobs(now)])
            fields = {source.name: source.request_fields() for source in settings.sources}
            await sync_jobs(settings, store, fields, None, None, lambda *_: None)
            await evaluate_findings(store, 0)
            # Those that refuse are asked once: a pause takes time.
            answering = tuple(source for source in sources if source.name not in demo.REFUSING_SOURCES)
            settings = settings.model_copy(update={"sources": answering})
    assert FOUND == await _changes(sql, "fired")
    resolved = await _changes(sql, "resolved")
    assert {of: kinds for of, kinds in FOUND.items() if of not in OPEN} == resolved


async def _changes(sql: asyncpg.Connection, kind: str) -> dict[str, str]:
    """Return the kinds of the findings of each source or job with changes of this kind, in alphabetical order."""
    rows = await sql.fetch(
        """select concat_ws(' ', source, fine_tuning_job_id) as subject, string_agg(field, ' ' order by field) as kinds
        from fine_tuning.changes where kind = $1 group by 1""",
        kind,
    )
    return {row["subject"]: row["kinds"] for row in rows}
