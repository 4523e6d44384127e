"""The zoo: pick a pretrained backbone, put a head on it, choose how it learns, prove it, publish it."""

from __future__ import annotations
