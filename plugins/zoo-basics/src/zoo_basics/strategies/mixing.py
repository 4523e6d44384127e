"""What ``mixup`` and ``cutmix`` share: whose turn it is, partners and shares, and what becomes of the labels."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Batch, Run, Strategy, UsageError

MIXERS = ("basics/mixup", "basics/cutmix")


class Mixing(Strategy):
    """Every sample of a batch gets a share of another one: inputs here, by ``mix``, and labels by ``batch.mix``.

    The share of a sample's own is ``lambda``, from a beta distribution; partners are a permutation of the batch. All
    views of the batch are mixed alike. Where both mixers stand in a phase each batch goes to one of them, by a fair
    coin, as in timm's ``Mixup``; ``prob`` is then the probability within its own batches.

    Args:
        name: full name.
        alpha: both parameters of the beta distribution.
        prob: probability that a batch (with ``per=sample`` a sample) is mixed.
        per: whether there is one share for the ``batch`` or one for each ``sample``.
    """

    def __init__(self, name: str, alpha: float, prob: float, per: str) -> None:
        self.name, self.alpha, self.prob, self.per = name, alpha, prob, per

    def mix(
        self, views: dict[str, Tensor], order: Tensor, shares: Tensor, run: Run
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The mixed views, and the shares that the samples really kept.

        Args:
            views: floating tensors [B, ...].
            order: partners, [B].
            shares: of the sample's own, [B] or [1].
        """
        raise NotImplementedError

    def alter(self, batch: Batch, run: Run) -> Batch:
        """Mix inputs and labels.

        Raises:
            UsageError: the input is not of a kind that can be mixed.
        """
        local = self.name.rpartition("/")[2]
        views = self._mixable(batch.views, local)
        if len(batch) < 2 or not self._turn(run):
            return batch
        draw = run.generator(local)
        drawn = self._shares(len(batch), draw)
        if drawn is None:
            return batch
        order = torch.randperm(len(batch), generator=draw)
        device = next(iter(views.values())).device
        order, shares = order.to(device), torch.tensor(drawn, device=device)
        batch.views, kept = self.mix(views, order, shares, run)
        mix_labels(batch, order, kept.expand(len(batch)))
        return batch

    def _turn(self, run: Run) -> bool:
        """Whether this batch is for this mixer."""
        present = [name for name in MIXERS if name in run.strategies]
        if len(present) < 2:
            return True
        coin = torch.randint(len(present), (), generator=run.generator("mixer"))
        return present[int(coin)] == self.name

    def _shares(self, count: int, draw: torch.Generator) -> list[float] | None:
        """``count`` shares, or one for all; None where nothing is mixed."""
        # Python's generator has a beta distribution that takes a seed; torch's has none.
        numbers = random.Random(int(torch.randint(2**62, (), generator=draw)))
        shares = [
            numbers.betavariate(self.alpha, self.alpha) if numbers.random() < self.prob else 1.0
            for _ in range(count if self.per == "sample" else 1)
        ]
        return None if all(share == 1.0 for share in shares) else shares

    def _mixable(self, views: Mapping[str, Any], local: str) -> dict[str, Tensor]:
        """The views as tensors.

        Raises:
            UsageError: they are not what this mixer takes.
        """
        for view in views.values():
            if not isinstance(view, Tensor) or not view.is_floating_point():
                raise UsageError(
                    f"strategy {local!r} mixes inputs that are numbers, and this backbone's are not",
                    hint="leave it out, or take a backbone for images",
                )
        return dict(views)


def mix_labels(batch: Batch, order: Tensor, shares: Tensor) -> None:
    """Set ``batch.mix``: the targets so far count by ``shares`` [B], those of the partners ``order`` [B] by the rest.

    Per-sample weights go along with the labels that they belong to; missing labels stay missing on either side.
    """
    if batch.targets is None:
        return
    parts = [(targets, torch.ones_like(shares) if w is None else w) for targets, w in batch.parts()]
    own = [(targets, w * shares) for targets, w in parts]
    others = [({c: t[order] for c, t in targets.items()}, w[order] * (1 - shares)) for targets, w in parts]
    batch.mix, batch.weights = [*own, *others], None
