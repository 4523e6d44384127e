"""From the losses of a ramp to a learning rate. Plain numbers, no torch.

The range test of Smith (2015, Cyclical Learning Rates for Training Neural Networks, arXiv 1506.01186): the rate grows
from step to step, the loss falls while the rate is useful, and rises once it is too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BETA = 0.9
"""Of the running mean by which a ramp is stopped."""
DIVERGED = 3.0
"""A ramp stops where its running mean lies so many times the best one above the best one: four times it."""
WIDTH = 0.03
"""Standard deviation of the smoothing kernel, as a share of the ramp's steps."""
FALL = 0.05
"""Share of the first loss by which the smoothed loss must fall for a suggestion."""
NOISE = 2.0
"""And so many standard deviations of the losses around it."""


@dataclass(frozen=True)
class Suggestion:
    """What the losses say.

    Attributes:
        smoothed: the losses without their noise, one a step.
        steepest: rate at which the smoothed loss falls fastest per decade; this is the one to take. None where the
            loss does not fall.
        valley: rate two thirds along (in decades) the longest way on which the smoothed loss falls without a break.
        lowest: rate of the lowest smoothed loss; beyond it training gets worse.
    """

    smoothed: tuple[float, ...]
    steepest: float | None = None
    valley: float | None = None
    lowest: float | None = None


def ramp_rates(low: float, high: float, steps: int) -> list[float]:
    """Rates from ``low`` to ``high``, equal factors apart."""
    if steps == 1:
        return [low]
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


class Divergence:
    """Says of each loss whether the ramp should end: its running mean (corrected for its start) is far above its best.

    ``best`` is that of the running mean; the first tenth of the steps does not count.
    """

    def __init__(self, steps: int) -> None:
        self.patience = max(1, steps // 10)
        self.mean = 0.0
        self.count = 0
        self.best = math.inf

    def __call__(self, loss: float) -> bool:
        """Whether it diverges."""
        self.count += 1
        self.mean = BETA * self.mean + (1 - BETA) * loss
        now = self.mean / (1 - BETA**self.count)
        self.best = min(self.best, now)
        return self.count > self.patience and now - self.best > DIVERGED * abs(self.best)


def smooth(losses: Sequence[float], width: float) -> list[float]:
    """A mean weighted by a Gaussian around each step, of standard deviation ``width`` steps; it does not lag.

    At the ends only one side is there, so the mean of a slope would bend: a line is fitted in place of a constant.
    """
    found = []
    reach = max(1, math.ceil(3 * width))
    for centre in range(len(losses)):
        near = range(max(0, centre - reach), min(len(losses), centre + reach + 1))
        weights = [math.exp(-0.5 * ((i - centre) / max(width, 1e-9)) ** 2) for i in near]
        total = sum(weights)
        mean_x = sum(w * (i - centre) for w, i in zip(weights, near, strict=True)) / total
        mean_y = sum(w * losses[i] for w, i in zip(weights, near, strict=True)) / total
        spread = sum(w * (i - centre - mean_x) ** 2 for w, i in zip(weights, near, strict=True))
        slope = (
            sum(w * (i - centre - mean_x) * (losses[i] - mean_y) for w, i in zip(weights, near, strict=True)) / spread
            if spread > 0
            else 0.0
        )
        found.append(mean_y - slope * mean_x)
    return found


def suggest(rates: Sequence[float], losses: Sequence[float], *, steps: int | None = None) -> Suggestion:
    """The suggestion of a ramp.

    Args:
        rates: ascending, equal factors apart, one a loss.
        losses: finite.
        steps: that the whole ramp would have had, where it ended early; they decide how much is smoothed.
    """
    if len(losses) < 5:
        return Suggestion(tuple(losses))
    smoothed = smooth(losses, WIDTH * (steps or len(losses)))
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    top = max(smoothed[: lowest + 1])
    spread = math.sqrt(sum((a - b) ** 2 for a, b in zip(losses[: lowest + 1], smoothed, strict=False)) / (lowest + 1))
    if lowest == 0 or top - smoothed[lowest] <= max(FALL * abs(top), NOISE * spread):
        return Suggestion(tuple(smoothed))
    slopes = [smoothed[min(i + 1, lowest)] - smoothed[max(i - 1, 0)] for i in range(lowest)]
    slopes[0] *= 2  # its neighbours are one step apart, not two
    steepest = min(range(lowest), key=slopes.__getitem__)
    return Suggestion(tuple(smoothed), rates[steepest], _valley(rates, smoothed), rates[lowest])


def _valley(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    best, begin = (0, 0), 0
    for i in range(1, len(smoothed)):
        if smoothed[i] >= smoothed[i - 1]:
            begin = i
        elif i - begin > best[1] - best[0]:
            best = (begin, i)
    share = 2 / 3
    return rates[best[0]] * (rates[best[1]] / rates[best[0]]) ** share


def rounded(rate: float) -> float:
    """Two digits: the test is no finer."""
    return float(f"{rate:.1e}")
