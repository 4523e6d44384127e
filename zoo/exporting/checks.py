"""Whether an exported file says what the model says: at three batch sizes, within the tolerance of golden logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from zoo_registry import ImageInput, IntegrityError

from zoo.assembly.model import TransferModel
from zoo.bundle.golden import ATOL, RTOL, golden_inputs
from zoo.data.transforms import normalise
from zoo.exporting.program import Deployed, Form

Run = Callable[[Tensor], Mapping[str, np.ndarray]]
"""A file at work: an input [B, C, H, W] -> ``{output name: values}``."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found.

    Attributes:
        by: what ran the file.
        batches: batch sizes.
        difference: the largest difference of any output.
    """

    by: str
    batches: tuple[int, ...]
    difference: float


def check_inputs(input: ImageInput, form: Form) -> list[Tensor]:
    """Inputs of batch size 2 (the golden ones), 1 and 5 (with mirrored ones); as uint8 where the form has pixels.

    Golden inputs lie in [-2, 2]; as pixels ``round((x + 2) / 4 * 255)``.
    """
    golden = golden_inputs(input)
    if form.pixels:
        golden = ((golden + 2) / 4 * 255).round().clamp(0, 255).to(torch.uint8)
    mixed = torch.cat([golden.flip(3), golden[:1], golden.flip(2)])
    return [golden, golden[:1].clone(), mixed]


@torch.no_grad()
def expected_outputs(model: TransferModel, module: Deployed, x: Tensor, input: ImageInput) -> dict[str, np.ndarray]:
    """Output name -> what the model itself says: its own head, not the one that was traced."""
    outputs = model.predict(normalise(x, input) if module.form.pixels else x)
    if module.form.probabilities:
        outputs = model.head.decode(outputs)  # type: ignore[operator]
    return {name: outputs[column].numpy() for column, name in module.names.items()}


def check_file(run: Run, by: str, model: TransferModel, module: Deployed, input: ImageInput, *, where: str) -> Checked:
    """Hold a file to the model: ``|a - b| <= ATOL + RTOL * max|b|`` for every output.

    Args:
        run: the file at work.
        by: what runs it.
        model: the model itself.
        module: what was traced.
        input: what the model is fed.
        where: what messages call the file.

    Raises:
        IntegrityError: outputs are missing, of another shape, or differ; says which, by how much, at which batch size.
    """
    inputs = check_inputs(input, module.form)
    largest = 0.0
    for x in inputs:
        found, wanted = run(x), expected_outputs(model, module, x, input)
        if list(found) != list(wanted):
            raise IntegrityError(f"{where} has the outputs {list(found)}, not {list(wanted)}")
        for name, want in wanted.items():
            largest = max(largest, _difference(found[name], want, f"{where}: output {name!r}, batch of {len(x)}"))
    return Checked(by=by, batches=tuple(len(x) for x in inputs), difference=largest)


def _difference(found: np.ndarray, wanted: np.ndarray, what: str) -> float:
    if found.shape != wanted.shape:
        raise IntegrityError(f"{what}: the shape is {found.shape}, not {wanted.shape}")
    difference = float(np.abs(found.astype(np.float64) - wanted).max())
    if not difference <= ATOL + RTOL * float(np.abs(wanted).max()):  # so that NaN is no agreement
        raise IntegrityError(
            f"{what}: off by {difference:.3g} from the model, so nothing was written",
            hint="the converter computes something else; another version of it may not",
        )
    return difference
