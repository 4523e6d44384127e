"""EMA: an exponential moving average of the weights."""

from __future__ import annotations

from zoo_registry import Run, StrategySpec, TransferModel

from zoo_basics.options.averaging import EmaOptions
from zoo_basics.strategies.averages import WeightAverage

POWER = 2 / 3
"""How fast the decay warms up: the average looks back over about ``t^POWER`` steps at step t."""


class Ema(WeightAverage):
    """``mean <- d_t mean + (1 - d_t) weights`` after each step t = 1, 2...; the phase ends with the mean.

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 30(4), 1992;
    exponential as in Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (arXiv 1703.01780).

    With ``warmup`` the decay is ``d_t = min(decay, 1 - t^(-2/3))``: 0 at the first step, 0.95 after 100, 0.99 after
    1,000; so a short run is not stuck at its start. Without it ``d_t = decay``, and the mean begins at the weights of
    the phase's start.

    Which tensors are averaged, BatchNorm statistics among them: see :class:`WeightAverage`.

    Args:
        options: ``decay``, ``warmup``.
    """

    def __init__(self, options: EmaOptions) -> None:
        super().__init__()
        self.decay, self.warmup = options.decay, options.warmup

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Begin at the weights as they are, injected ones too."""
        self.track(model, run)
        self._epoch = -1  # what was injected may yet move to the device

    def decay_at(self, step: int) -> float:
        """``d_t`` of step t, from 1."""
        return min(self.decay, 1 - step**-POWER) if self.warmup else self.decay

    def after_step(self, model: TransferModel, run: Run) -> None:
        """Take the new weights into the mean."""
        self.update(model, run, 1 - self.decay_at(self.count + 1))

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The decay that the phase ends with."""
        last = self.decay_at(max(1, run.total_steps))
        return (f"validates and ends with an average over about the last {round(1 / (1 - last))} steps",)


def build(spec: StrategySpec, options: EmaOptions) -> Ema:
    """The strategy ``ema``."""
    return Ema(options)
