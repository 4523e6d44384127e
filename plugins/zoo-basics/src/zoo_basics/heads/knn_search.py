"""Exact nearest neighbours by brute force: matrix products find them, differences measure them."""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = 2**24
"""Distances computed at once: 64 MB in single precision."""


def nearest(
    query: Tensor, store: Tensor, k: int, *, allowed: Tensor | None = None, itself: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of ``store`` for each row of ``query``, nearest first.

    Args:
        query: [B, D].
        store: [M, D].
        k: at most the number of rows allowed (less one with ``itself``).
        allowed: bool [M], which rows may be neighbours; None for all.
        itself: [B], the row of the store that is the query itself and so no neighbour of its own.

    Returns:
        Squared Euclidean distances [B, k] and rows of the store [B, k]. The distances are sums over differences, so
        they are exact to rounding even for near duplicates; gradients reach ``query`` through them.
    """
    centre = store.mean(dim=0)
    moved, norms = store - centre, (store - centre).square().sum(dim=1)
    found = []
    with torch.no_grad():
        for rows in torch.arange(len(query), device=query.device).split(max(1, CELLS // len(store))):
            distances = norms - 2 * (query[rows] - centre) @ moved.T
            if allowed is not None:
                distances[:, ~allowed] = torch.inf
            if itself is not None:
                distances.scatter_(1, itself[rows, None], torch.inf)
            found.append(distances.topk(k, dim=1, largest=False).indices)
    index = torch.cat(found)
    exact = torch.cat([_squared(part, store, place) for part, place in zip(*_chunked(query, index), strict=True)])
    order = exact.detach().argsort(dim=1, stable=True)
    return exact.gather(1, order), index.gather(1, order)


def _chunked(query: Tensor, index: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    size = max(1, CELLS // (index.shape[1] * query.shape[1]))
    return query.split(size), index.split(size)


def _squared(query: Tensor, store: Tensor, index: Tensor) -> Tensor:
    return (query[:, None] - store[index]).square().sum(dim=2)
