"""The machine and the versions, in words, for result files."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe_machine() -> str:
    """``2 cores, AMD EPYC, Linux, Python 3.11.7``."""
    return f"{os.cpu_count()} cores, {_processor()}, {platform.system()}, Python {platform.python_version()}"


def describe_versions(*names: str) -> str:
    """``torch 2.15.0, timm 1.0.31``."""
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(named, platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return model + (" with AVX512-BF16" if "avx512_bf16" in flags else "")
