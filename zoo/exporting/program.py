"""Backbone and head as one program: traced once, for any batch size, with names that the file keeps."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from zoo_registry import ImageInput, ZooError

from zoo.assembly.model import TransferModel
from zoo.data.transforms import normalise

BATCH = "batch"
KEPT = ("val", "tensor_meta")
"""What a node keeps of its making. The rest (stack traces, modules) names files of this machine."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What goes in and what comes out.

    Attributes:
        pixels: the input is uint8 and normalised within; else it is normalised float32.
        probabilities: outputs are what the head's ``decode`` makes of its outputs; else those themselves.
    """

    pixels: bool = False
    probabilities: bool = False

    @property
    def input_name(self) -> str:
        """Name of the one input."""
        return "pixels" if self.pixels else "input"


class Deployed(nn.Module):
    """A model as it is exported: one tensor in, ``{output name: tensor}`` out, in the order of the columns.

    Args:
        model: in evaluation mode, on the CPU. A head that has ``traceable()`` is replaced by what that gives.
        input: what the model is fed.
        form: what goes in and what comes out.
    """

    def __init__(self, model: TransferModel, input: ImageInput, form: Form) -> None:
        super().__init__()
        self.backbone = model.backbone
        traceable = getattr(model.head, "traceable", None)
        self.head: nn.Module = traceable() if traceable is not None else model.head
        self.names = output_names([column.name for column in model.columns], form.input_name)
        self.form = form
        self._input = input
        self._origin = [model.head]  # for decode, which needs none of its tensors; in a list, so that they stay out

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Outputs of ``x`` [B, C, H, W], uint8 with ``form.pixels``."""
        if self.form.pixels:
            x = normalise(x, self._input)
        outputs: Mapping[str, Tensor] = self.head(self.backbone(x))
        if self.form.probabilities:
            outputs = self._origin[0].decode(outputs)  # type: ignore[operator]
        return {name: outputs[column] for column, name in self.names.items()}


def output_names(columns: list[str], taken: str) -> dict[str, str]:
    """Column -> name of its output: the column's own, but for one that is called like the input or has no name."""
    names: dict[str, str] = {}
    for column in columns:
        name = column or "output"
        while name == taken or name in names.values() or (name != column and name in columns):
            name += "_output"
        names[column] = name
    return names


def trace(module: Deployed, example: Tensor, *, where: str) -> ExportedProgram:
    """The program of a module, its first dimension free.

    Args:
        module: backbone and head.
        example: an input, [2, C, H, W]; sizes 0 and 1 would be taken for constants.
        where: what messages call the model.

    Raises:
        ZooError: it cannot be traced; names the part that is the reason, and why.
    """
    try:
        with quietly():
            program = _export(module, example)
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ZooError(
            f"{where} cannot be exported: torch.export cannot trace its {_culprit(module, example)}: {reason}",
            hint="what it computes depends on values, not only on shapes; a head may offer traceable()",
        ) from error
    return _without_traces(program)


@torch.no_grad()
def _export(module: nn.Module, example: Tensor) -> ExportedProgram:
    return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: Dim(BATCH, min=1)},), strict=False)


def _culprit(module: Deployed, example: Tensor) -> str:
    """``backbone`` or ``head``."""
    plain = normalise(example, module._input) if module.form.pixels else example
    try:
        with quietly():
            _export(module.backbone, plain)
    except Exception:
        return "backbone"
    return "head"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What torch and its converter say meanwhile is not for the user: what counts is checked afterwards."""
    before, said = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _without_traces(program: ExportedProgram) -> ExportedProgram:
    """The program without where it was made: neither files of this machine nor the example input."""
    graphs: list[Any] = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.graph.nodes):
        node.meta = {key: value for key, value in node.meta.items() if key in KEPT}
    program._example_inputs = None  # the public setter wants inputs; without any, no pickle is written
    return program
