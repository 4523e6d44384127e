"""WiSE-FT: weights between those at the phase's start and those it came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from zoo_registry import Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.averaging import WiseFtOptions

ALPHAS = tuple(step / 10 for step in range(1, 11))
"""What ``auto`` tries. 0, which would undo the phase, is not among them."""


class WiseFt(Strategy):
    """``w = (1 - alpha) w_start + alpha w_end`` when the phase ends, for parameters and buffers alike.

    Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022 (arXiv 2109.01903): between the two lie weights
    that are about as good on data like ``train`` and better on data that is not. ``w_end`` is what the phase would
    have ended with, the average of ``ema`` too. BatchNorm statistics are interpolated like the weights. Computed anew
    on ``train`` (``statistics=recalibrated``) they suit weights that are far apart; of few images they forget what the
    start's knew of other data: on digits with ten labels a class that cost ten points under shift.

    ``alpha=auto`` tries 0.1, 0.2 ... 1 on validation and takes the smallest that is within ``tolerance`` of the best:
    validation cannot see the shift against which a smaller alpha helps. It costs ten validations, and as many passes
    over ``train`` where statistics are computed anew.

    A head that is still as it was drawn when the phase starts means nothing, so it is not interpolated: it keeps what
    it learned. The method then does less than it can; a linear phase before it (``linear:3,full+wise-ft:10``) gives
    it a head to start from.

    Args:
        options: ``alpha``, ``tolerance``, ``statistics``.
    """

    def __init__(self, options: WiseFtOptions) -> None:
        self.alpha, self.tolerance = options.alpha, options.tolerance
        self.recalibrates = options.statistics == "recalibrated"
        self._found: dict[str, float | str] = {}

    def finish(self, model: TransferModel, run: Run) -> None:
        """Choose alpha, put the weights in, recalibrate where asked to."""
        module = cast(nn.Module, model)
        end = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        start = self._start(model, run, end)
        alpha = self._choose(module, run, start, end) if isinstance(self.alpha, str) else self.alpha
        self._put(module, run, start, end, alpha)
        self._found["alpha"] = alpha

    def _start(self, model: TransferModel, run: Run, end: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors to interpolate, as they were at the phase's start: floating, moved, not of a random head."""
        kept = "head." if head_is_as_drawn(model, run) else "auxiliary."
        return {
            name: run.start[name].to(tensor.device)
            for name, tensor in end.items()
            if name in run.start and run.start[name].shape == tensor.shape and not name.startswith(kept)
            if tensor.is_floating_point()
        }

    def _put(
        self, module: nn.Module, run: Run, start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float
    ) -> None:
        module.load_state_dict(
            {n: torch.lerp(start[n].to(t.dtype), t, alpha) if n in start else t for n, t in end.items()}
        )
        if self.recalibrates and alpha < 1:
            run.recalibrate(cast(TransferModel, module))

    def _choose(self, module: nn.Module, run: Run, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> float:
        """The smallest alpha within ``tolerance`` of the best; 0.5, as in the paper, where validation says nothing."""
        scores = {}
        for alpha in ALPHAS:
            self._put(module, run, start, end, alpha)
            scores[alpha] = run.score(cast(TransferModel, module))
        known = {alpha: score for alpha, score in scores.items() if not math.isnan(score)}
        best = max(known.values(), default=math.nan)
        chosen = min((a for a, score in known.items() if score >= best - self.tolerance), default=0.5)
        self._found |= {"best": best, "score": scores[chosen]}
        return chosen

    def findings(self) -> Mapping[str, float | str]:
        """``alpha``; with ``auto`` the best validation score and that of the alpha taken."""
        return dict(self._found)

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """What is interpolated, and whether the head is."""
        share = self.alpha if isinstance(self.alpha, str) else f"{self.alpha:g}"
        lines = [f"ends between the weights at its start and those it comes to, alpha {share}"]
        if head_is_as_drawn(model, run):
            lines.append("the head is random at the start and keeps what it learns; better: linear:3,full+wise-ft:10")
        return tuple(lines)


def head_is_as_drawn(model: TransferModel, run: Run) -> bool:
    """Whether the head's parameters are still the random ones of assembly at the phase's start.

    Those that a head makes itself at assembly (``initialise``: zero-shot) are not random.
    """
    names = [f"head.{name}" for name, _ in model.head.named_parameters()]
    if not names or hasattr(model.head, "initialise"):
        return False
    return all(n in run.base and n in run.start and torch.equal(run.base[n], run.start[n]) for n in names)


def build(spec: StrategySpec, options: WiseFtOptions) -> WiseFt:
    """The strategy ``wise-ft``."""
    return WiseFt(options)
