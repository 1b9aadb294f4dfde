"""Histories: whatever a provider does, and whatever happens to the daemons, the views show what the promises require.

Hypothesis makes up histories (steps.py). Two daemons play each one over a real server and a real PostgreSQL (play.py).
After each step the views (views.py) are compared with the reference model (reference.py).
"""

import asyncio
import itertools
import os

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from checkpointd.domain import growth
from checkpointd.polling import save_queue
from checkpointd.postgres import connection
from checkpointd.provider import client
from model.play import PAGE_LIMIT, Environment, History
from model.steps import Poll, Step, histories
from model.world import Damage, Publish, Restore, Withdraw
from support.examples import tries

HISTORIES = int(os.environ.get("HISTORIES", tries(60)))

NOT_ABSENT_TWICE_IN_A_ROW: list[Step] = [
    *(Publish(3), Poll()),
    *(Withdraw(1, 0), Poll()),
    *(Restore(0), Damage(0, "no id"), Poll()),
    *(Withdraw(1, 0), Poll()),
]
"""A checkpoint is absent from the second and the fourth listing. In the third one an item without an id may be it."""

CURSOR_THAT_MOVES: list[Step] = [Publish(3), Poll(edits=((2, Withdraw(2, 0)), (2, Restore(1))))]
"""Two checkpoints that were read return to the list behind the third one, which is therefore never read."""


@pytest.mark.hypothesis
@pytest.mark.timeout(300 + 10 * HISTORIES)
def test_histories(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After each step of any history, the views show what the model expects, and no row is written without a reason."""
    monkeypatch.setattr(client, "PAGES", PAGE_LIMIT)
    monkeypatch.setattr(growth, "UNSTABLE_POINTS", 10**6)  # histories are short, and their lists change all the time
    monkeypatch.setattr(save_queue, "BATCH_SECONDS", 0)
    monkeypatch.setattr(save_queue, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(connection, "LOCK_RETRY_DELAYS", (0.01, 0.02, 0.05))
    environment = Environment(url)
    numbers = itertools.count(1)

    with asyncio.Runner() as runner:
        runner.run(environment.open())

        @settings(
            max_examples=HISTORIES,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        )
        @example(page_size=2, steps=NOT_ABSENT_TWICE_IN_A_ROW)
        @example(page_size=1, steps=CURSOR_THAT_MOVES)
        @given(page_size=st.integers(1, 3), steps=histories)
        def play(page_size: int, steps: list[Step]) -> None:
            history = History(environment, next(numbers))
            runner.run(history.play(page_size, steps))

        try:
            play()
        finally:
            runner.run(environment.close())
    counts = ", ".join(f"{count} {what}" for what, count in environment.counts.items())
    with capsys.disabled():
        print(f"\n{next(numbers) - 1} histories: {counts}")  # noqa: T201  # shown even if the test passes
