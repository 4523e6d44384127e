"""The ordinal head: classes with an order, so that being off by one is a smaller mistake than being off by five."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_registry import Column, HeadSpec

from zoo_basics.heads.class_order import class_order
from zoo_basics.heads.columns import INIT_STD, ClassificationHead, class_shares
from zoo_basics.heads.losses import at_least_float32
from zoo_basics.options.heads import OrdinalOptions

LEAST_GAP = 1e-4
"""Thresholds of ``coral`` are at least so far apart, so that no class has probability zero."""


class OrdinalHead(ClassificationHead):
    """Class probabilities from the C - 1 questions "is the rank above k?".

    ``coral``: ``P(y > k) = sigmoid(w f + a_k)`` with one ``w`` for all k and falling ``a_k``; the loss is the sum of
    the questions' binary cross-entropies (Cao, Mirjalili and Raschka, Rank consistent ordinal regression for neural
    networks, 2020, arXiv 1901.07884). There the ``a_k`` are free and proven to end up in order; here they are in order
    by construction, so that the differences are probabilities from the first step.

    ``corn``: ``P(y > k | y >= k) = sigmoid(w_k f + b_k)``, each question with its own ``w_k`` and asked only of samples
    that got so far (Shi, Cao and Raschka, 2021, arXiv 2111.08851). Summed over the questions asked of a sample, the
    loss is ``-log p(y)``. It is the default: on frozen features, where one direction has to do, ``coral`` fell behind.

    Args:
        width: D of the features [B, D].
        targets: columns of the kind classification.
        options: method; the order of the classes; dropout on the features.

    Raises:
        UsageError: the order of the classes is not known, see :func:`~zoo_basics.heads.class_order.class_order`.

    Outputs are ``log p`` [B, C] in the order of the label map, so the head mixes with all that works on logits. At the
    start all classes are about equally likely.
    """

    def __init__(self, width: int, targets: tuple[Column, ...], options: OrdinalOptions) -> None:
        super().__init__(targets)
        self.method = options.method
        self.orders = [class_order(column, options.order) for column in targets]
        self.dropout = nn.Dropout(options.dropout)
        questions = [1 if self.method == "coral" else column.size - 1 for column in targets]
        self.questions = questions
        self.layer = nn.Linear(width, sum(questions), bias=self.method == "corn")
        nn.init.normal_(self.layer.weight, std=INIT_STD)
        if self.method == "corn":
            with torch.no_grad():
                self.layer.bias.copy_(torch.cat([_even_steps(column.size) for column in targets]))
        else:
            self.first = nn.ParameterList(_even_levels(column.size)[:1] for column in targets)
            self.gaps = nn.ParameterList(_inverse_gaps(_even_levels(column.size)) for column in targets)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: log p [B, C]}``."""
        parts = at_least_float32(self.layer(self.dropout(features))).split(self.questions, dim=1)
        outputs = {}
        for place, (column, part) in enumerate(zip(self.columns, parts, strict=True)):
            ranked = self._coral(part, place) if self.method == "coral" else _corn(part)
            outputs[column.name] = ranked[:, _inverse(self.orders[place])]
        return outputs

    def _coral(self, score: Tensor, place: int) -> Tensor:
        """``log(sigmoid(z_(k-1)) - sigmoid(z_k))`` [B, C] of scores [B, 1], without cancellation."""
        gaps = F.softplus(self.gaps[place]) + LEAST_GAP
        above = score + self.first[place] - F.pad(gaps.cumsum(0), (1, 0))
        between = F.pad((-torch.expm1(-gaps)).log(), (1, 1))
        return F.pad(F.logsigmoid(above), (1, 0)) + F.pad(F.logsigmoid(-above), (0, 1)) + between

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: [B]}``, NaN where the label is missing."""
        if self.method == "corn":
            return super().loss(outputs, targets)
        orders = {column.name: order for column, order in zip(self.columns, self.orders, strict=True)}
        return {name: _coral_loss(logits, targets[name], orders[name]) for name, logits in outputs.items()}

    def metrics(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """``rank_mae``, how many ranks the likeliest class is off, ``{column: {name: [B]}}``; NaN where missing."""
        found = {}
        for column, order in zip(self.columns, self.orders, strict=True):
            ranks = torch.tensor(_inverse(order), device=outputs[column.name].device)
            off = (ranks[outputs[column.name].argmax(dim=1)][:, None] - ranks).abs()
            shares = class_shares(targets[column.name], column.size).float()
            missing = shares.sum(dim=1) == 0
            found[column.name] = {"rank_mae": (off * shares).sum(dim=1).masked_fill(missing, torch.nan)}
        return found


def _corn(conditional: Tensor) -> Tensor:
    """``log p`` [B, C] of logits [B, C - 1] of going on to the next rank."""
    return F.pad(F.logsigmoid(conditional).cumsum(dim=1), (1, 0)) + F.pad(F.logsigmoid(-conditional), (0, 1))


def _coral_loss(logits: Tensor, targets: Tensor, order: list[int]) -> Tensor:
    """``-sum_k [Q_k log P(y > k) + (1 - Q_k) log P(y <= k)]`` [B], ``Q_k`` the share of the label above rank k.

    Args:
        logits: [B, C], in the order of the label map.
        targets: integer [B] or soft [B, C].
        order: class numbers, lowest first.
    """
    logs = logits[:, order].log_softmax(dim=1)
    shares = class_shares(targets, len(order)).to(logs.dtype)[:, order]
    missing = shares.sum(dim=1) == 0
    loss = torch.zeros_like(logs[:, 0])
    for k in range(1, len(order)):
        share = shares[:, k:].sum(dim=1)
        loss = loss - share * logs[:, k:].logsumexp(dim=1) - (1 - share) * logs[:, :k].logsumexp(dim=1)
    return loss.masked_fill(missing, torch.nan)


def _inverse(order: list[int]) -> list[int]:
    """The rank of each class."""
    ranks = [0] * len(order)
    for rank, place in enumerate(order):
        ranks[place] = rank
    return ranks


def _even_levels(classes: int) -> Tensor:
    """``a_k`` for which the classes are equally likely at score 0: the logit of ``P(y > k) = (C - 1 - k) / C``."""
    return torch.logit(torch.arange(classes - 1, 0, -1) / classes)


def _even_steps(classes: int) -> Tensor:
    """The logits of ``P(y > k | y >= k) = (C - 1 - k) / (C - k)``, which does the same for ``corn``."""
    left = torch.arange(classes, 1, -1)
    return torch.logit((left - 1) / left)


def _inverse_gaps(levels: Tensor) -> Tensor:
    """What softplus turns into the distances of the levels."""
    gaps = levels[:-1] - levels[1:] - LEAST_GAP
    return torch.log(torch.expm1(gaps))


def build(spec: HeadSpec, options: OrdinalOptions, *, width: int, targets: tuple[Column, ...]) -> OrdinalHead:
    """The head ``ordinal``."""
    return OrdinalHead(width, targets, options)
