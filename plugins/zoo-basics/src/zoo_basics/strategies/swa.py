"""SWA: the plain average of the weights along the last part of a phase."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_registry import Run, StrategySpec, TransferModel

from zoo_basics.options.averaging import SwaOptions
from zoo_basics.strategies.averages import WeightAverage


class Swa(WeightAverage):
    """``mean = (w_1 + ... + w_n) / n`` of the weights at the ends of epochs (or steps) from ``start`` of the phase on.

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018 (arXiv 1803.05407).
    From then on validation sees the mean, with averaged BatchNorm statistics; at the end the phase takes it, whichever
    epoch was best, and statistics are computed anew on ``train``.

    The paper keeps the rate high, constant or cyclic, while it averages. That is not done here: the rate follows the
    recipe's schedule, which ends at zero unless ``train.schedule`` is ``constant``.

    Args:
        options: ``start``, a share of the phase's steps; ``every``, ``epoch`` or ``step``.
    """

    result_is_average = True

    def __init__(self, options: SwaOptions) -> None:
        super().__init__()
        self.start, self.every = options.start, options.every

    def after_step(self, model: TransferModel, run: Run) -> None:
        """Take the weights in where it is time; always after the last step."""
        done = run.step + 1
        last = done == run.total_steps
        due = self.every == "step" or done % run.steps_per_epoch == 0
        if last or (due and done >= self.start * run.total_steps):
            self.update(model, run, 1 / (self.count + 1))

    def finish(self, model: TransferModel, run: Run) -> None:
        """BatchNorm statistics of the averaged weights; those of a single set of weights are its own already."""
        if self.count > 1:
            run.recalibrate(model)

    def findings(self) -> Mapping[str, float | str]:
        """``averaged``: how many sets of weights."""
        return {"averaged": self.count}

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """From when on."""
        first = max(1, round(self.start * run.total_steps))
        return (f"averages the weights after each {self.every} from step {first} of {run.total_steps} on",)


def build(spec: StrategySpec, options: SwaOptions) -> Swa:
    """The strategy ``swa``."""
    return Swa(options)
