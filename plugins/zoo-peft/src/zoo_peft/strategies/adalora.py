"""AdaLoRA: low-rank updates whose ranks move to where they matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import Batch, Delta, Losses, Run, StrategySpec, TransferModel

from zoo_peft.adapter import import_peft
from zoo_peft.options import AdaloraOptions
from zoo_peft.strategies.base import PeftStrategy
from zoo_peft.targets import exact_pattern

AVERAGES = {"sensitivity": "exp_avg_ipt", "uncertainty": "exp_avg_unc"}
"""What a resume needs of peft's rank allocator: our word -> its attribute, parameter name -> tensor."""


class AdaLora(PeftStrategy):
    """The update of each linear layer's weight ``W`` [out, in] has singular values, and the least important go.

    Zhang et al., AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, ICLR 2023 (arXiv
    2303.10512)::

        W' = W + alpha / r0 * B diag(E) A          A [r0, in], B [out, r0] small and random; E [r0], from zero

    After each step the importance of every weight w is smoothed: ``I = beta1 I + (1 - beta1) |w dL/dw|`` and its
    uncertainty ``U = beta2 U + (1 - beta2) | |w dL/dw| - I |``; a triplet (row of A, value of E, column of B) scores
    the value's ``I U`` plus the means of its two vectors'. Those with the lowest score in the whole backbone have their
    value set to zero, such that of r0 ranks per layer ``rank`` are left on average: the budget falls with the cube of
    the steps left, from ``start`` to ``1 - settle`` of the phase; from then on the ranks are final.

    ``penalty`` keeps A and B near orthogonal: ``orthogonal`` times the mean of ``|A A^T - 1|`` and ``|B^T B - 1|`` over
    all layers, with the Frobenius norm, as in the peft library (the paper squares it).

    Args:
        options: ranks, alpha, dropout, the schedule, and which layers.
    """

    method = "adalora"

    def __init__(self, options: AdaloraOptions) -> None:
        super().__init__(options.blocks, options.layers)
        self.options = options

    def make_config(self, host: nn.Module, layers: Sequence[str], total_steps: int) -> Any:
        """A ``peft.AdaLoraConfig`` whose schedule fits the phase."""
        options, steps = self.options, max(1, total_steps)
        return import_peft().AdaLoraConfig(
            init_r=options.initial_rank,
            target_r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            tinit=int(options.start * steps),
            tfinal=int(options.settle * steps),
            deltaT=options.every,
            beta1=options.beta1,
            beta2=options.beta2,
            orth_reg_weight=options.orthogonal,
            total_step=steps,
            target_modules=exact_pattern(host, layers),
        )

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The layers, and the steps between which ranks shrink."""
        config = self._injected().config
        last = config.total_step - config.tfinal
        ranks = f"from {config.init_r} a layer to {config.target_r} on average"
        return (*super().explain(model, run), f"ranks shrink {ranks}, steps {config.tinit} to {last}")

    def penalty(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """``orthogonal``: how far the factors are from orthogonal."""
        if not self.options.orthogonal:
            return {}
        gaps = [_gap(factor) for factor in self._factors()]
        return {"orthogonal": self.options.orthogonal * torch.stack(gaps).mean()}

    def after_step(self, model: TransferModel, run: Run) -> None:
        """Update the importances, and allocate the ranks where it is time.

        A step without a readable sample has no gradients and is passed over, whichever it is; a phase in which nothing
        was measured before ranks are final keeps them all.
        """
        if any(value.grad is None for value in self._values().values()):
            return
        tuner, config, done = self._injected().tuner, self._injected().config, run.step + 1
        last = config.total_step - config.tfinal
        if done < last or (done > last and config.rank_pattern and not tuner.rankallocator.ipt):
            tuner.update_and_allocate(done)
        elif tuner.rankallocator.ipt:  # measured, and not yet final
            tuner.update_and_allocate(last)

    def delta(self, model: TransferModel) -> Delta:
        """The adapter in peft's own layout, less the ranks whose value is zero."""
        pattern = {name: (value != 0).view(-1).tolist() for name, value in self._values().items()}
        self._injected().config.rank_pattern = pattern
        return super().delta(model)

    def state_dict(self) -> dict[str, Any]:
        """Importances, uncertainties and the final ranks, by the names of peft's parameters."""
        if self.adapter is None:
            return {}
        allocator = self.adapter.tuner.rankallocator
        state = {
            f"{word}.{name}": tensor
            for word, attribute in AVERAGES.items()
            for name, tensor in getattr(allocator, attribute).items()
        }
        pattern = self.adapter.config.rank_pattern or {}
        return state | {f"ranks.{name}": torch.tensor(kept) for name, kept in pattern.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The opposite of :meth:`state_dict`; the adapter must be in the model."""
        adapter = self._injected()
        allocator = adapter.tuner.rankallocator
        places = dict(adapter.tuner.model.named_parameters())
        allocator.reset_ipt()
        adapter.config.rank_pattern = None
        for key, tensor in state.items():
            word, _, name = key.partition(".")
            if name not in places or word not in (*AVERAGES, "ranks"):
                raise ValueError(f"AdaLoRA has no state {key!r}")
            if word == "ranks":
                adapter.config.rank_pattern = {**(adapter.config.rank_pattern or {}), name: tensor.tolist()}
                continue
            moved = tensor.to(places[name].device).clone()
            getattr(allocator, AVERAGES[word])[name] = moved
            allocator.ipt[name] = torch.zeros_like(moved)  # computed anew at each step; that it is there counts

    def _values(self) -> dict[str, nn.Parameter]:
        """Name in the tuner -> singular values [r0, 1] of a layer."""
        return {n: p for n, p in self._injected().tuner.model.named_parameters() if ".lora_E." in n}

    def _factors(self) -> list[Tensor]:
        """All A [r0, in], and all B transposed [r0, out]."""
        named = list(self._injected().tuner.model.named_parameters())
        rows = [p for n, p in named if ".lora_A." in n]
        return rows + [p.T for n, p in named if ".lora_B." in n]


def _gap(rows: Tensor) -> Tensor:
    """Frobenius norm of ``rows rows^T - 1`` for rows [r0, width]."""
    return torch.linalg.norm(rows @ rows.T - torch.eye(len(rows), device=rows.device, dtype=rows.dtype))


def build(spec: StrategySpec, options: AdaloraOptions) -> AdaLora:
    """The strategy ``adalora``."""
    return AdaLora(options)
