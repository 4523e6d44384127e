"""Data: opening it, decoding it, turning it into views, loading it in batches.

Importing this package, and every error about names and labels, costs no torch.
"""

from __future__ import annotations

from zoo.data.bad import BadSamples, write_bad_samples
from zoo.data.dataset import BadSample, Dataset, Sample, Split
from zoo.data.files import open_files
from zoo.data.opening import open_data

__all__ = [
    "BadSample",
    "BadSamples",
    "Dataset",
    "Sample",
    "Split",
    "open_data",
    "open_files",
    "write_bad_samples",
]
