"""The transformer learns from the convolutional network beside its own task: too few pictures teach it alone.

Hints in the way of FitNets (Romero et al. 2015, arXiv 1412.6550): linear maps of the student's tokens after two blocks
and of its pooled features shall equal the teacher's map of the same 8 x 8 grid and its pooled features, each
standardised over the batch. Only drawings are shown; the maps are thrown away in the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHT = 3.0
STUDENT_BLOCK = 1
TEACHER_STAGE = 2


class Teacher(nn.Module):
    """A frozen network with the linear maps from student to teacher (those do learn)."""

    def __init__(self, network: Any, weights: Path, student: Any) -> None:
        super().__init__()
        network.load_state_dict(load_file(weights))
        self.network = network.eval().requires_grad_(False)
        self.pooled = nn.Linear(student.num_features, network.num_features)
        self.grid = nn.Linear(student.embed_dim, network.feature_info[TEACHER_STAGE]["num_chs"])

    def loss(self, student: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The student's outputs for ``pictures``, and the sum of both weighted mean squared errors."""
        with torch.no_grad():
            last, (grid,) = self.network.forward_intermediates(pictures, indices=[TEACHER_STAGE])
            pooled = _standard(self.network.forward_head(last))
            grid = _standard(grid).permute(0, 2, 3, 1)
        tokens, (early,) = student.forward_intermediates(pictures, indices=[STUDENT_BLOCK])
        outputs = student.forward_head(tokens)
        far = F.mse_loss(self.pooled(student.forward_head(tokens, pre_logits=True)), pooled)
        return outputs, WEIGHT * (far + F.mse_loss(self.grid(early.permute(0, 2, 3, 1)), grid))


def _standard(x: Tensor) -> Tensor:
    """Each channel with mean 0 and variance 1 over the batch."""
    return F.batch_norm(x, None, None, training=True)
