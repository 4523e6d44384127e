"""Runs on the tiny zoo, killed and resumed, and what is compared of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import tiny_zoo
from zoo_registry import Registry

from zoo import finetuning
from zoo.planning import Request

SETTINGS = ("train.batch_size=8", "train.threads=1", "train.checkpoint_every=1e-9")


def request(data=None, strategy="freeze:2,whole:2", backbone="norm", *settings: str, **more) -> Request:
    """A request of a run that takes a second."""
    source = tiny_zoo.drawn_splits() if data is None else data
    more.setdefault("train", {"augment": "light"})
    return Request(
        data=source, backbone=f"tiny/{backbone}", head="tiny/head", strategy=strategy,
        settings=(*SETTINGS, *settings), pretrained=False, **more,
    )  # fmt: skip


def start(out: Path, asked: Request, registry: Registry | None = None, **arguments):
    """Run it here."""
    return finetuning.start(asked, registry or tiny_zoo.registry(), out=out, device="cpu", **arguments)


def resume(out: Path, asked: Request, registry: Registry | None = None, **arguments):
    """Go on with it here."""
    return finetuning.resume(registry or tiny_zoo.registry(), out=out, data=asked.data, device="cpu", **arguments)


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; its exit status, negative for a signal. Errors of the zoo give their code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except BaseException as error:
            code = getattr(error, "exit_code", 99)
            if code == 99:
                import traceback

                traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def die(*_args, **_kwargs) -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(function: Callable, number: int, act: Callable[[], object], after: bool = False) -> Callable:
    """``function``, but its ``number``-th call (from 1) does ``act`` before (or after) its own work."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number and not after:
            act()
        result = function(*args, **kwargs)
        if calls == number and after:
            act()
        return result

    return wrapped


def outcome(out: Path) -> dict[str, object]:
    """What two equal runs must agree in, byte by byte; the recipe's workers are left out."""
    files = [p for p in sorted((out / "model").iterdir()) if p.suffix == ".safetensors"]
    found: dict[str, object] = {p.name: p.read_bytes() for p in files}
    found["metrics"] = (out / "metrics.jsonl").read_bytes()
    found["report"] = json.loads((out / "report.json").read_text())
    golden = json.loads((out / "model" / "zoo.json").read_text())
    found["golden"] = golden.get("golden")
    assert len(files) > 0
    return found
