"""Learn when the checkpoints of a source arrive, and read what is known."""

from collections.abc import Mapping
from typing import Final

from checkpointd.domain.arrivals import Learnt, Prior
from checkpointd.domain.cadence import HIGHEST_PRICE, SourceCadence
from checkpointd.postgres import queries
from checkpointd.postgres.store import Store

LEARN_SECONDS: Final = 60.0
"""What was learnt is kept for so long, by whichever daemon. Each daemon reads it more often, so that all soon agree."""


async def learn_arrivals(
    store: Store, request_intervals: Mapping[int, float | None], usual: Prior
) -> dict[int, SourceCadence]:
    """Return what is known of sources, by key. Their `request_intervals` are in seconds, or None without a rate limit.

    `usual` is what is expected of a source without ended jobs.

    Raises DatabaseUnavailableError.
    """
    rows = await store.fetch(
        queries.LEARN_ARRIVALS,
        list(request_intervals),
        list(request_intervals.values()),
        LEARN_SECONDS,
        HIGHEST_PRICE,
    )
    return {
        row["source"]: SourceCadence(
            usual.after(
                first=Learnt(row["firsts"], row["first_mean"], row["first_spread"]),
                spacing=Learnt(row["spacings"], row["spacing_mean"], row["spacing_spread"]),
                ratio=Learnt(row["ratios"], row["ratio_mean"], row["ratio_spread"]),
                noise=Learnt(row["noises"], row["noise"], 0.0),
                estimate=Learnt(row["estimates"], row["estimate_mean"], row["estimate_spread"]),
            ),
            row["price"],
        )
        for row in rows
    }
