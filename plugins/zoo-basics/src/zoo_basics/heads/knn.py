"""The k-NN head: the training samples themselves are the model, and what lies far from all of them is not predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_registry import Column, DataError, HeadSpec

from zoo_basics.heads.columns import ClassificationHead
from zoo_basics.heads.knn_search import nearest
from zoo_basics.heads.losses import at_least_float32
from zoo_basics.options.heads import KnnOptions

LEAST = 1e-6
"""Probability of a class that no neighbour has, so that its logarithm is finite."""

ABSTAINS = 50.0
"""The logits of a sample that is not predicted are all lower by this: their softmax, and so the loss, is the same."""

COSINE, EUCLIDEAN = 0.07, 0.1
"""Temperatures where none is given: that of Wu et al., and what did best on handwritten digits with few labels."""

MOST_QUERIES = 4096
"""The radius is estimated on at most so many training samples, evenly spaced."""


class KnnHead(ClassificationHead):
    """``p(c | f) = sum of w_i over the neighbours of class c / sum of w_i`` over the k nearest training features.

    Weights, with ``d`` the distance: ``uniform`` 1; ``distance`` ``1 / d``, or 1 for exact hits alone where there are
    any; ``softmax`` ``exp(cosine / T)``, as Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, CVPR 2018 (arXiv 1805.01978). For the Euclidean metric softmax is the Gaussian kernel
    ``exp(-d^2 / (2 T s^2))``, ``s^2`` the mean squared distance of a training sample to its k-th neighbour.

    A sample whose k-th neighbour is further away than ``radius`` is not predicted: ``decode`` gives a row of zeros. The
    radius is a quantile of the same distance of the training samples, each left out (Sun et al., Out-of-Distribution
    Detection with Deep Nearest Neighbors, ICML 2022, arXiv 2204.06507).

    Args:
        width: D of the features [B, D].
        targets: columns of the kind classification; a column's neighbours are the samples that have a label for it.
        options: k, metric, weights, temperature, quantile, radius.

    ``features`` [N, D] and ``labels`` [N, columns] are buffers, empty until :meth:`fit`, and :attr:`data_sized`. Before
    that all classes are equally likely. With fewer than k + 1 labelled samples k is all but one of them.
    """

    abstains = True
    data_sized = ("features", "labels")
    """Entries of the state whose first dimension is the number of training samples."""

    features: Tensor
    labels: Tensor
    radius: Tensor
    spread: Tensor

    def __init__(self, width: int, targets: tuple[Column, ...], options: KnnOptions) -> None:
        super().__init__(targets)
        self.options = options
        self.register_buffer("features", torch.zeros(0, width))
        self.register_buffer("labels", torch.zeros(0, len(targets), dtype=torch.long))
        self.register_buffer("radius", torch.full((len(targets),), torch.finfo(torch.float32).max))
        self.register_buffer("spread", torch.ones(len(targets)))
        self.register_load_state_dict_pre_hook(_take_sizes)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: log p [B, C]}``, lower by :data:`ABSTAINS` where the sample is not predicted."""
        query = self._directions(features)
        return {column.name: self._column(place, query) for place, column in enumerate(self.columns)}

    def _directions(self, features: Tensor) -> Tensor:
        features = at_least_float32(features)
        return F.normalize(features, dim=1) if self.options.metric == "cosine" else features

    def _column(self, place: int, query: Tensor) -> Tensor:
        labels = self.labels[:, place]
        known = labels >= 0
        if not known.any():
            return query.new_zeros(len(query), self.columns[place].size)
        squared, index = nearest(query, self.features, self._k(known), allowed=None if known.all() else known)
        return self._logits(squared, labels[index], place, self.radius[place], self.spread[place])

    def _logits(self, squared: Tensor, labels: Tensor, place: int, radius: Any, spread: Any) -> Tensor:
        """``log p`` [B, C] of the neighbours' squared distances [B, k] and labels [B, k], in any order."""
        shares = self._shares(squared, spread)
        votes = squared.new_zeros(squared.shape[0], self.columns[place].size).scatter_add(1, labels, shares)
        distant = self._distance(squared.detach().amax(dim=1)) > radius
        return votes.clamp(min=LEAST).log() - ABSTAINS * distant[:, None]

    def _k(self, known: Tensor) -> int:
        return max(1, min(self.options.k, int(known.sum()) - 1))

    def _distance(self, squared: Tensor) -> Tensor:
        """Cosine distance ``1 - cosine`` (half the squared distance of unit vectors), or the Euclidean one."""
        return squared / 2 if self.options.metric == "cosine" else squared.sqrt()

    def _shares(self, squared: Tensor, spread: Any) -> Tensor:
        """The weights [B, k], adding up to 1 in each row."""
        kind, temperature = self.options.weights, self.options.temperature
        if kind == "softmax":
            cosine = self.options.metric == "cosine"
            unit = 2.0 if cosine else 2 * spread
            return (-squared / (unit * (temperature or (COSINE if cosine else EUCLIDEAN)))).softmax(dim=1)
        if kind == "uniform":
            return torch.full_like(squared, 1 / squared.shape[1])
        distance = self._distance(squared)
        hit = distance == 0
        weights = torch.where(hit.any(dim=1, keepdim=True), hit.to(distance), 1 / distance.masked_fill(hit, 1.0))
        return weights / weights.sum(dim=1, keepdim=True)

    def traceable(self) -> TraceableKnn:
        """The same outputs from what is known now, with nothing decided by values or by the size of the batch."""
        return TraceableKnn(self)

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Keep the training samples, and find the radius of each column.

        Args:
            features: [N, D].
            targets: ``{column: integer [N], negative where missing}``; soft ones [N, C] must be one-hot.

        Raises:
            DataError: a column has no label, or soft ones; the head stays as it was.
        """
        device = self.radius.device
        labels = torch.stack([_hard(targets[c.name], c).to(device) for c in self.columns], dim=1)
        self.labels = labels
        self.features = self._directions(features.detach().to(device)).to(self.features.dtype).contiguous()
        for place in range(len(self.columns)):
            self._find_radius(place)

    def _find_radius(self, place: int) -> None:
        known = self.labels[:, place] >= 0
        self.radius[place], self.spread[place] = torch.finfo(torch.float32).max, 1.0
        if int(known.sum()) > 1:
            rows = known.nonzero().flatten()
            rows = rows[:: -(-len(rows) // MOST_QUERIES)]
            squared, _ = nearest(self.features[rows], self.features, self._k(known), allowed=known, itself=rows)
            last = squared[:, -1].double()
            self.spread[place] = last.mean() if last.mean() > 0 else 1.0
            if self.options.quantile is not None:
                self.radius[place] = torch.quantile(self._distance(last), self.options.quantile)
        if self.options.radius is not None:
            self.radius[place] = self.options.radius

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Class probabilities, ``{column: [B, C]}``, or a row of zeros where the head abstains."""
        decoded = {}
        for name, probabilities in super().decode(outputs).items():
            answered = at_least_float32(outputs[name]).logsumexp(dim=1, keepdim=True) > -ABSTAINS / 2
            decoded[name] = torch.where(answered, probabilities, 0.0)
        return decoded


class TraceableKnn(nn.Module):
    """A fitted :class:`KnnHead` for ``torch.export``: the samples of each column are laid out once, and a batch is
    compared with all of them at once (B x M distances in memory, where the head goes piece by piece).

    Args:
        head: it is not changed, and its tensors are not among this module's.
    """

    def __init__(self, head: KnnHead) -> None:
        super().__init__()
        self._head = [head]
        self.ks: list[int] = []
        for place in range(len(head.columns)):
            known = head.labels[:, place] >= 0
            store = at_least_float32(head.features[known])
            centre = head.features.mean(dim=0)
            parts = {"store": store, "labels": head.labels[known, place], "centre": centre}
            parts |= {"norms": (store - centre).square().sum(dim=1)}
            for name, values in parts.items():
                self.register_buffer(f"{name}{place}", values.detach().clone())
            self.ks.append(head._k(known) if bool(known.any()) else 0)
        self.limits = list(zip(head.radius.tolist(), head.spread.tolist(), strict=True))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """As :meth:`KnnHead.forward`."""
        query = self._head[0]._directions(features)
        return {column.name: self._column(place, query) for place, column in enumerate(self._head[0].columns)}

    def _column(self, place: int, query: Tensor) -> Tensor:
        if not self.ks[place]:
            return query.new_zeros(query.shape[0], self._head[0].columns[place].size)
        store, labels, centre, norms = (getattr(self, f"{n}{place}") for n in ("store", "labels", "centre", "norms"))
        distances = norms - 2 * (query - centre) @ (store - centre).T
        index = distances.topk(self.ks[place], dim=1, largest=False).indices
        squared = (query[:, None] - store[index]).square().sum(dim=2)
        return self._head[0]._logits(squared, labels[index], place, *self.limits[place])


def _hard(targets: Tensor, column: Column) -> Tensor:
    """Class numbers [N], -1 where the label is missing."""
    if targets.is_floating_point():
        top = targets.nan_to_num(nan=-1.0).max(dim=1)
        if bool(((top.values > 0) & (top.values < 1)).any()):
            raise DataError(
                f"column {column.name!r} has soft labels, and head knn keeps one class a sample",
                hint="take head 'ridge' or 'prototype'",
            )
        targets = torch.where(top.values == 1, top.indices, -1)
    if not bool((targets >= 0).any()):
        raise DataError(f"column {column.name!r} has no label in train", hint="leave the column out")
    return targets.long().clamp(min=-1)


def _take_sizes(
    head: nn.Module, state: Mapping[str, Any], prefix: str, metadata: Any, strict: bool, *lists: list[str]
) -> None:
    """Before a state is loaded: make room for as many samples as it has, and refuse labels that are none."""
    assert isinstance(head, KnnHead)
    features, labels = (state.get(prefix + name) for name in head.data_sized)
    if features is None or labels is None:
        return
    sizes = [column.size for column in head.columns]
    sound = features.ndim == 2 and labels.shape == (len(features), len(sizes)) and not labels.is_floating_point()
    if not sound or bool((labels >= torch.tensor(sizes, device=labels.device)).any()) or bool((labels < -1).any()):
        lists[-1].append(f"{prefix}labels do not fit {prefix}features and the columns")
        return
    head.features = head.features.new_empty(len(features), head.features.shape[1])
    head.labels = head.labels.new_empty(labels.shape)


def build(spec: HeadSpec, options: KnnOptions, *, width: int, targets: tuple[Column, ...]) -> KnnHead:
    """The head ``knn``."""
    return KnnHead(width, targets, options)
