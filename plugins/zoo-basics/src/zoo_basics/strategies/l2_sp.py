"""L2-SP: the backbone is pulled to where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from zoo_registry import Batch, Losses, Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.losses import L2SpOptions
from zoo_basics.strategies.parts import backbone_parameters


class L2Sp(Strategy):
    """``alpha/2 |w - w0|^2`` over the backbone's trainable parameters, ``beta/2 |w|^2`` over those of the head.

    Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional Networks, ICML 2018 (arXiv 1802.01483).
    ``w0`` are the pretrained weights, or with ``anchor=start`` those at the phase's start. What another strategy
    injected (LoRA's factors) is in neither; it is pulled to where it began, which is where it changes nothing.

    It takes the place of weight decay, which pulls the backbone to zero: its spec's default decay of the phase is 0.
    AdamW divides gradients by their size, this term's too, so ``alpha`` counts relative to the loss, not to the rate.

    Args:
        options: ``alpha``, ``beta``, ``anchor``.
    """

    def __init__(self, options: L2SpOptions) -> None:
        self.alpha, self.beta, self.anchor = options.alpha, options.beta, options.anchor
        self._injected: dict[str, Tensor] = {}

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Note where injected parameters begin; a resumed run prepares the same."""
        anchors = self._anchors(run)
        self._injected = {n: p.detach().clone() for n, p in backbone_parameters(model) if n not in anchors}

    def penalty(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """``backbone`` and ``head``, scalars; 0 where nothing of it learns."""
        far = [(p - w0.to(p.device)).square().sum() for p, w0 in self._pulled(model, run)]
        large = [p.square().sum() for p in model.head.parameters() if p.requires_grad]
        return {"backbone": self.alpha / 2 * total(far), "head": self.beta / 2 * total(large)}

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The anchor and the strengths."""
        where = "pretrained weights" if self.anchor == "base" else "weights at the phase's start"
        return (
            f"pulls what learns of the backbone to its {where} (alpha {self.alpha:g}) and the head to zero "
            f"(beta {self.beta:g})",
        )

    def _anchors(self, run: Run) -> Mapping[str, Tensor]:
        return run.base if self.anchor == "base" else run.start

    def _pulled(self, model: TransferModel, run: Run) -> Iterator[tuple[nn.Parameter, Tensor]]:
        anchors = self._anchors(run)
        for name, parameter in backbone_parameters(model):
            if parameter.requires_grad:
                yield parameter, anchors[name] if name in anchors else self._injected[name]


def total(terms: list[Tensor]) -> Tensor:
    """Their sum in float32, 0 where there are none."""
    return torch.stack([term.float() for term in terms]).sum() if terms else torch.zeros(())


def build(spec: StrategySpec, options: L2SpOptions) -> L2Sp:
    """The strategy ``l2-sp``."""
    return L2Sp(options)
