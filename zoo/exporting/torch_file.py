"""``model.pt2``: an ``ExportedProgram`` in torch's own archive, run after reloading.

torch reads such an archive with code that trusts it, so only a file written here a moment ago is ever loaded, never
one that came from elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from zoo.exporting.checks import Run
from zoo.exporting.program import Deployed, quietly

NAME = "model.pt2"
RECORD = "export.json"
"""Name of the record within the archive: ``torch.export.load(path, extra_files={"export.json": ""})``."""


def needs() -> tuple[str, ...]:
    """Packages beyond torch: none."""
    return ()


def versions() -> dict[str, str]:
    """What a record says of the format: the torch that wrote it."""
    return {"torch": torch.__version__}


def write(folder: Path, program: ExportedProgram, module: Deployed, record: str, where: str) -> tuple[Run, str]:
    """Write the archive with the record in it, load it again, and give it at work and what runs it.

    Args:
        folder: where it goes.
        program: what was traced.
        module: what it was traced from.
        record: JSON text for the archive.
        where: what messages call the model.
    """
    with quietly():
        torch.export.save(program, folder / NAME, extra_files={RECORD: record})
        loaded = torch.export.load(folder / NAME).module()

    @torch.no_grad()
    def run(x: Tensor) -> dict[str, np.ndarray]:
        return {name: values.numpy() for name, values in loaded(x).items()}

    return run, f"torch {torch.__version__}"
