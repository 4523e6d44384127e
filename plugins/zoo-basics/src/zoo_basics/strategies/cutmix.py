"""CutMix: a rectangle of every image comes from another one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Run, StrategySpec, TransferModel, UsageError

from zoo_basics.options.data import CutmixOptions
from zoo_basics.strategies.mixing import Mixing

KINDS = ("classification", "multilabel", "regression")


class Cutmix(Mixing):
    """A box of ``1 - lambda`` of the area is cut out and filled from the partner; labels count by the areas left.

    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019
    (arXiv 1905.04899). ``lambda ~ Beta(alpha, alpha)``; the box has the image's shape, its centre is uniform, what
    leaves the image is cut off, and ``lambda`` becomes the share that was really kept.

    Args:
        options: ``alpha``, ``prob``, ``per``.
    """

    def __init__(self, options: CutmixOptions) -> None:
        super().__init__("basics/cutmix", options.alpha, options.prob, options.per)

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Check the columns.

        Raises:
            UsageError: targets that lie in the image itself would have to be cut too.
        """
        for column in run.columns:
            if column.kind not in KINDS:
                raise UsageError(
                    f"strategy 'cutmix' cannot mix the {column.kind} column {column.name!r}",
                    hint=f"it mixes {', '.join(KINDS)}; leave it out",
                )

    def _mixable(self, views: Mapping[str, Any], local: str) -> dict[str, Tensor]:
        found = super()._mixable(views, local)
        for view in found.values():
            if view.ndim != 4:
                raise UsageError(
                    f"strategy 'cutmix' cuts images [B, C, H, W], this input has the shape {list(view.shape)}",
                    hint="'mixup' blends any input of numbers",
                )
        return found

    def mix(
        self, views: dict[str, Tensor], order: Tensor, shares: Tensor, run: Run
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Cut the same boxes, relative to the size, into every view."""
        centres = torch.rand(len(shares), 2, generator=run.generator("cutmix box")).tolist()
        mixed, kept = {}, shares
        for name, view in views.items():
            boxes = [box(view.shape[2:], float(s), c) for s, c in zip(shares, centres, strict=True)]
            mixed[name] = paste(view, order, boxes)
            kept = torch.tensor([left_over(view.shape[2:], b) for b in boxes], device=view.device)
        return mixed, kept


Box = tuple[int, int, int, int]
"""Top, bottom, left and right; bottom and right are outside."""


def box(size: Any, share: float, centre: tuple[float, float]) -> Box:
    """A box of ``1 - share`` of the area of an image of ``size`` (H, W) around ``centre`` (0..1), cut off at edges."""
    bounds: list[int] = []
    for edge, place in zip(size, centre, strict=True):
        length, middle = int(edge * math.sqrt(1 - share)), int(edge * place)
        bounds += [max(0, middle - length // 2), min(edge, middle + (length + 1) // 2)]
    return bounds[0], bounds[1], bounds[2], bounds[3]


def left_over(size: Any, cut: Box) -> float:
    """The share of the area outside of the box."""
    top, bottom, left, right = cut
    return 1 - (bottom - top) * (right - left) / (size[0] * size[1])


def paste(view: Tensor, order: Tensor, boxes: list[Box]) -> Tensor:
    """Images [B, C, H, W] with the boxes (one a sample, or one for all) filled from ``view[order]``."""
    edges = torch.tensor(boxes, device=view.device)[:, :, None]  # [B or 1, 4, 1]
    rows = torch.arange(view.shape[2], device=view.device)
    columns = torch.arange(view.shape[3], device=view.device)
    down = (rows >= edges[:, 0]) & (rows < edges[:, 1])
    across = (columns >= edges[:, 2]) & (columns < edges[:, 3])
    inside = down[:, None, :, None] & across[:, None, None, :]
    return torch.where(inside, view[order], view)


def build(spec: StrategySpec, options: CutmixOptions) -> Cutmix:
    """The strategy ``cutmix``."""
    return Cutmix(options)
