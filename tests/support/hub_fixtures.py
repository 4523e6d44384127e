"""Fixtures and helpers for tests of the hubs: bundles to push, loopback hubs, client processes.

``pytest_plugins = ["hub_fixtures"]`` in a conftest makes the fixtures known.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from loopback_hub import LoopbackHub
from safetensors.numpy import save_file
from zoo_registry.errors import ZooError

TOKEN = "hf_canaryOfMe1234"
READER = "hf_readerOnly5678"
CARD = "---\ntags:\n- zoo\n- timm\nlicense: apache-2.0\nbase_model: timm/test_resnet.r160_in1k\n---\n# A model\n"


def write_manifest(folder: Path) -> None:
    """``manifest.json`` of all files of a folder."""
    rows = {}
    for spot in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
        data = spot.read_bytes()
        rows[spot.relative_to(folder).as_posix()] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / "manifest.json").write_text(json.dumps({"files": rows}))


def write_bundle(folder: Path, seed: int = 0, *, size: int = 5000, files: dict[str, str] | None = None) -> Path:
    """A folder that looks like a bundle: weights, config, card, a subfolder, manifest; ``files`` are extra texts."""
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    save_file({"fc.weight": weights}, folder / "model.safetensors")
    texts = {"config.json": json.dumps({"architecture": "test_resnet", "seed": seed}), "README.md": CARD}
    for path, text in {**texts, "adapter/adapter_config.json": "{}", **(files or {})}.items():
        (folder / path).write_text(text)
    write_manifest(folder)
    return folder


def contents(folder: Path, paths: tuple[str, ...] | None = None) -> dict[str, bytes]:
    """Path -> bytes of a folder's files, or of those named."""
    names = paths or tuple(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name: (folder / name).read_bytes() for name in sorted(names)}


def flip(spot: Path, at: int = -10) -> None:
    """Turn one byte of a file, whatever its mode."""
    data = bytearray(spot.read_bytes())
    data[at] ^= 0xFF
    mode = spot.stat().st_mode
    spot.chmod(0o644)
    spot.write_bytes(bytes(data))
    spot.chmod(mode)


def client_env(hub: LoopbackHub | None, home: Path, **more: str) -> dict[str, str]:
    """The environment of a client process that knows this hub and nothing of the machine's own settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "ZOO_", "TRANSFORMERS"))}
    env |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"OMP_NUM_THREADS": "1"}
    if hub is not None:
        env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        if hub.store.cas is None:
            env["HF_HUB_DISABLE_XET"] = "1"
    return env | more


def start_python(code: str, *args: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A Python process that runs the code; its arguments are in ``sys.argv[1:]``."""
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_python(code: str, *args: object, env: dict[str, str] | None = None) -> str:
    """Run the code in a process of its own; its standard output, or a failed test with its standard error."""
    process = start_python(code, *args, env=env)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    return out


def one_line(error: ZooError) -> str:
    """The error as a user sees it; one line, no token in it."""
    text = f"{error.message} | {error.hint}"
    assert "\n" not in text
    assert TOKEN not in text
    assert READER not in text
    return text


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LoopbackHub]]:
    """Starts loopback hubs, ``loopback(cdn=True)``; users ``me`` (TOKEN) and ``bob`` (READER), organisation ``lab``.

    In this process huggingface_hub sends plain transfers and no telemetry; xet needs a process of its own.
    """
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    running: list[LoopbackHub] = []

    def start(**options: object) -> LoopbackHub:
        options = {"tokens": [TOKEN, f"bob={READER}:read"], "orgs": ["lab"], **options}
        running.append(LoopbackHub(tmp_path / f"loopback{len(running)}", **options).start())
        return running[-1]

    yield start
    for hub in running:
        hub.stop()


def send_from_here(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries are noted in what is returned, not slept; a push sends from this process."""
    from zoo.hub import hf_errors, hf_push, hf_send

    waits: list[float] = []
    monkeypatch.setattr(hf_errors, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr("zoo.deadline.sleep", waits.append)
    monkeypatch.setattr(hf_push, "send", lambda hub, order, until, on: hf_send.transfer(order, on, hub.api))
    return waits


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """``connect(server, token)``: an HfHub with a cache of its own; waits between tries are noted, not slept.

    It sends from this process, where a push otherwise starts one of its own (``tests/test_push_processes.py``).
    """
    from zoo.hub.huggingface import HfHub

    waits = send_from_here(monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def open_it(server, token=TOKEN, cache="cache", **options):
        hub = HfHub(getattr(server, "url", server), token=token, cache_dir=tmp_path / cache, **options)
        hub.waits = waits
        return hub

    return open_it
