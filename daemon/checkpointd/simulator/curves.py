"""Made-up learning curves: the metrics of one step, named as OpenAI names them.

Losses fall exponentially towards a floor, with noise; the validation loss of some jobs rises again towards the end.
The relation of accuracy and loss follows answers recorded from OpenAI and Azure.
"""

import math
import random
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Curve:
    """The learning curve of one job. Losses are mean negative log-likelihoods per token."""

    start: float
    floor: float
    rate: float
    gap: float
    """The distance of the validation loss from the training loss."""
    overfit: float
    """How far the validation loss has risen again at the end; 0 for a job that does not overfit."""

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """Draw a curve at random."""
        return cls(
            start=rng.uniform(1.2, 2.8),
            floor=rng.uniform(0.02, 0.5),
            rate=rng.uniform(2.5, 5.0),
            gap=rng.uniform(0.02, 0.15),
            overfit=rng.uniform(0.4, 1.5) if rng.random() < 0.4 else 0.0,
        )

    def metrics(self, rng: random.Random, progress: float) -> dict[str, float]:
        """Return the six finite losses and accuracies at a progress from 0 to 1. Accuracies are from 0 to 1, too."""
        train = self.floor + (self.start - self.floor) * math.exp(-self.rate * progress)
        valid = train + self.gap + self.overfit * max(0.0, progress - 0.4) ** 2 / 0.36
        # One batch is noisier than the whole validation file.
        losses = {"train": _noisy(rng, train, 0.08), "valid": _noisy(rng, valid, 0.06)}
        losses["full_valid"] = _noisy(rng, valid, 0.01)
        metrics = {}
        for name, loss in losses.items():
            metrics[f"{name}_loss"] = round(loss, 6)
            metrics[f"{name}_mean_token_accuracy"] = round(math.exp(-0.15 * _noisy(rng, loss, 0.03)), 6)
        return metrics

    def reward(self, rng: random.Random, progress: float) -> float:
        """Return the mean reward, from 0 to 1, at a progress from 0 to 1: it rises, and falls again where losses would.

        Unlike a loss, a higher one is better.
        """
        gained = (1 - math.exp(-self.rate * progress)) * (1 - self.floor)
        return round(max(_noisy(rng, gained - 0.3 * self.overfit * max(0.0, progress - 0.4) ** 2, 0.05), 0.0), 6)


def _noisy(rng: random.Random, loss: float, share: float) -> float:
    return loss * rng.uniform(1 - share, 1 + share)
