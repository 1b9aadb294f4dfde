"""An unstable job: how the score of instability moves, and what counts as news."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpointd.domain.checkpoint import Checkpoint
from checkpointd.domain.diff import StoredCheckpoint
from checkpointd.domain.growth import (
    RECOVERY_LISTINGS,
    UNSTABLE_POINTS,
    UNSTEADY_POINTS,
    find_news,
    is_unstable,
    next_score,
)
from checkpointd.domain.listing import Listing
from support.examples import tries


def stored(**ids: tuple[int, str]) -> dict[str, StoredCheckpoint]:
    """Return stored checkpoints: id = (step, model)."""
    return {
        name: StoredCheckpoint(
            {"step_number": step, "created_at": 1, "fine_tuned_model_checkpoint": model, "train_loss": 0.5},
            {},
            missing=False,
        )
        for name, (step, model) in ids.items()
    }


def listed(checkpoint_id: str, step: int, model: str, **metrics: float | None) -> Checkpoint:
    """Return a listed checkpoint."""
    return Checkpoint(checkpoint_id, step, 2, model, {"train_loss": 0.7, **metrics}, "{}")


def news(known: dict[str, StoredCheckpoint], *items: Checkpoint, **more: Any) -> tuple[list[str], list[str], list[int]]:
    """Return the ids that are new, the ids that are updated, and the unconfirmed steps."""
    diff = find_news(known, Listing(list(items), [], None), **more)
    assert len(diff.changes) >= len(diff.new) + len(diff.updated)
    return [item.id for item in diff.new], [item.id for item in diff.updated], diff.unconfirmed_steps


@given(st.lists(st.booleans(), max_size=300))
@settings(max_examples=tries(200), deadline=None)
def test_the_score_is_bounded(unsteady: list[bool]) -> None:
    """The score stays in its bounds; a job is unstable after 5 unsteady listings, and stable after 20 steady ones."""
    score = 0
    for is_unsteady in unsteady:
        score = next_score(score, unsteady=is_unsteady)
        assert 0 <= score < UNSTABLE_POINTS + RECOVERY_LISTINGS
    for _ in range(UNSTABLE_POINTS // UNSTEADY_POINTS):
        score = next_score(score, unsteady=True)
    assert is_unstable(score)
    for _ in range(RECOVERY_LISTINGS - 1):
        score = next_score(score, unsteady=False)
    assert is_unstable(score)
    score = next_score(score, unsteady=False)
    assert not is_unstable(score)
    assert not is_unstable(next_score(score, unsteady=True))


@pytest.mark.parametrize("rare", [49, 30, 2])
def test_rare_contradictions_add_up(rare: int) -> None:
    """A job of which one in less than 50 listings is unsteady is unstable at last; with more between them it is not."""
    scores = dict.fromkeys((rare, 52), 0)
    found = set()
    for turn in range(1, 500 * 52):
        for period, score in scores.items():
            scores[period] = next_score(score, unsteady=turn % period == 0)
            found |= {period} if is_unstable(scores[period]) else set()
    assert {rare} == found


def test_what_is_news() -> None:
    """News are larger steps, confirmed steps and first values. A known step under another id or model is none."""
    known = stored(a=(10, "m"), b=(10, "n"), c=(20, "m"))
    assert ([], [], []) == news(known, listed("x", 10, "n"), listed("y", 20, "other"), listed("z", 10, "q"))
    assert ([], [], [20]) == news(known, listed("c", 20, "m"), listed("x", 20, "other"))
    assert (["x"], [], []) == news(known, listed("x", 30, "m"))
    assert ([], [], [15]) == news(known, listed("x", 15, "m"))
    assert (["x"], [], []) == news(known, listed("x", 15, "m"), unconfirmed_before=[15])
    assert ([], ["b"], []) == news(known, listed("x", 10, "n", valid_loss=1))
    both = news(known, listed("x", 10, "q", valid_loss=1), listed("y", 10, "m", valid_loss=2))
    assert ([], {"a", "b"}, []) == (both[0], set(both[1]), both[2])


def test_a_first_value_changes_nothing_else() -> None:
    """A late metric is added to the stored checkpoint, whose other values stay."""
    diff = find_news(stored(a=(10, "m")), Listing([listed("x", 10, "m", valid_loss=1, reward=None)], [], None))
    (updated,) = diff.updated
    assert ("a", 10, 1, "m", {"valid_loss": 1}) == (
        updated.id,
        updated.step_number,
        updated.created_at,
        updated.fine_tuned_model_checkpoint,
        updated.metrics,
    )
    assert [("changed", "a", "valid_loss", None, "1")] == [tuple(change) for change in diff.changes]


def test_times_stand_for_steps() -> None:
    """Of a provider without steps, checkpoints are recognised and ordered by their times."""
    values = {"step_number": None, "created_at": 100, "fine_tuned_model_checkpoint": None}
    known = {"a": StoredCheckpoint(values, {}, missing=False)}
    x, later, earlier = (Checkpoint(name, None, at, None, {}, "{}") for name, at in (("x", 100), ("y", 200), ("z", 50)))
    assert ([], [], []) == news(known, x)
    assert (["y"], [], [50]) == news(known, x, later, earlier)
    assert (["z"], [], []) == news(known, x, earlier, unconfirmed_before=[50])
