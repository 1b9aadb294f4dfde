"""The table of jobs side by side."""

from datetime import UTC, datetime
from typing import Any

from checkpointd.web.differences import properties

COLUMNS = (
    "model", "method", "training_file", "validation_file", "seed", "hyperparameters", "best_rule", "best_direction",
    "duration_seconds", "status", "created_at", "finished_at", "trained_tokens", "best_value", "best_step",
    "best_covered", "best_candidates", "last_step", "last_train_loss", "last_valid_loss", "last_full_valid_loss",
    "valid_gap", "full_valid_gap", "fine_tuned_model",
)  # fmt: skip


def _job(**values: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | values


def test_what_differs_is_first() -> None:
    """Properties that differ are first, the others keep their order, and what no job has is left out."""
    jobs = [
        _job(model="m", status="failed", best_value=0.5, hyperparameters='{"n_epochs": "auto", "x": {"y": 1}}'),
        _job(model="m", status="failed", best_value=0.25, hyperparameters='{"n_epochs": 3}', duration_seconds=7200.0),
    ]
    assert [
        ("n epochs", ["auto", "3"]),
        ("x", ['{"y": 1}', ""]),
        ("duration", ["", "2 h"]),
        ("best value", ["0.5000", "0.2500"]),
        ("base model", ["m", "m"]),
        ("status", ["failed", "failed"]),
    ] == [(found.name, found.values) for found in properties(jobs, [None, None])]


def test_values_as_text() -> None:
    """Numbers, times and objectives are shown as on the other pages."""
    job = _job(
        trained_tokens=1234567,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        best_rule="valid_loss",
        best_direction="minimize",
        best_covered=2,
        best_candidates=1000,
        hyperparameters="[]",
    )
    best = {"step_number": 1234, "metric": "reward", "direction": "maximize", "value": 0.5}
    shown = {found.name: found.values for found in properties([job], [best])}
    assert {
        "objective": ["smallest valid_loss"],
        "checkpoints with its metric": ["2 of 1,000"],
        "best step of the curve": ["1,234: largest reward, 0.5000"],
        "created": ["2026-01-02 00:00:00 UTC"],
        "checkpoints": ["1,000"],
        "trained tokens": ["1,234,567"],
    } == shown


def test_many_hyperparameters() -> None:
    """Of many hyperparameters, the first ones are compared."""
    job = _job(hyperparameters=str({f"h{n}": n for n in range(99)}).replace("'", '"'))
    assert 30 == len(properties([job], [None]))
