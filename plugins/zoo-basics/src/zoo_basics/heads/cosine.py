"""The cosine head: only directions count, not lengths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_registry import Column, HeadSpec

from zoo_basics.heads.columns import ClassificationHead
from zoo_basics.options.heads import CosineOptions


class CosineHead(ClassificationHead):
    """``logit_c = s <f / |f|, w_c / |w_c|>`` and softmax.

    Gidaris and Komodakis, Dynamic Few-Shot Visual Learning without Forgetting, CVPR 2018 (arXiv 1804.09458): cosines
    put old and new classes on one scale. Chen et al., A Closer Look at Few-shot Classification, ICLR 2019 (arXiv
    1904.04232), find the same head strong in plain fine-tuning, as it lowers the variance within classes.

    Args:
        width: D of the features [B, D].
        targets: columns of the kind classification.
        options: ``s`` at the start, and whether it learns.

    Class vectors start in random directions, of length about 1. Features are normalised, so it folds into no linear
    layer and has no ``fold``. Features of length zero give logits of zero.
    """

    def __init__(self, width: int, targets: tuple[Column, ...], options: CosineOptions) -> None:
        super().__init__(targets)
        self.weight = nn.Parameter(torch.randn(sum(self.sizes), width) / width**0.5)
        scale = torch.tensor([options.scale])
        if options.learn_scale:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    def flat(self, features: Tensor) -> Tensor:
        """Logits of all columns, [B, K], within plus and minus the scale."""
        cosines = F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))
        return self.scale * cosines


def build(spec: HeadSpec, options: CosineOptions, *, width: int, targets: tuple[Column, ...]) -> CosineHead:
    """The head ``cosine``."""
    return CosineHead(width, targets, options)
