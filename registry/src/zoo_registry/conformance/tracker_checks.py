"""Checks of a tracker; they need no torch of their own."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo_registry.building import TrackerFactory
from zoo_registry.conformance.spec_checks import require
from zoo_registry.options import parse_options
from zoo_registry.registry import Entry
from zoo_registry.specs import TrackerSpec
from zoo_registry.tracking import ENDS, TrackedRun, Tracker

TrackerEntry = Entry[TrackerSpec]

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f00010101"
    "00b138f6140000000049454e44ae426082"
)
"""The smallest PNG."""


def applicable(entry: TrackerEntry) -> Iterator[Callable[[TrackerEntry], None]]:
    """The checks of this module."""
    yield builds_a_tracker
    yield follows_a_run_from_begin_to_end
    yield goes_on_after_a_kill
    yield ends_however_the_run_ends
    yield leaves_the_run_alone


def _build(entry: TrackerEntry) -> Tracker:
    factory: TrackerFactory = entry.factory()  # type: ignore[assignment]
    return factory(entry.spec, parse_options(entry.spec.options, entry.spec.example, where=entry.spec.name))


def _run(folder: Path, step: int = 0) -> TrackedRun:
    return TrackedRun(folder=folder, recipe={"seed": 0, "phase": [{"epochs": 2}]}, step=step, resumed=step > 0)


def _log(tracker: Tracker, steps: range) -> None:
    for step in steps:
        tracker.log(step, {"step/loss": 1.0 / (step + 1), "step/rate": 1e-3})
    tracker.log(steps[-1], {"train/loss": 0.5, "val/accuracy": 0.25, "machine/samples_per_second": 10.0})


def builds_a_tracker(entry: TrackerEntry) -> None:
    """The factory returns a ``Tracker``."""
    built = _build(entry)
    require(isinstance(built, Tracker), f"the factory returned {type(built).__name__}, not a Tracker")


def follows_a_run_from_begin_to_end(entry: TrackerEntry) -> None:
    """Numbers of steps and epochs, a figure, the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "curves.png").write_bytes(PIXEL)
        tracker = _build(entry)
        tracker.begin(_run(folder))
        _log(tracker, range(1, 4))
        tracker.figure("curves", folder / "curves.png")
        tracker.end("finished")


def goes_on_after_a_kill(entry: TrackerEntry) -> None:
    """The process of the first tracker is gone without ``end``; another one goes on from an earlier step."""
    with tempfile.TemporaryDirectory() as name:
        first = _build(entry)
        first.begin(_run(Path(name)))
        _log(first, range(1, 6))
        then = _build(entry)
        then.begin(_run(Path(name), step=3))
        _log(then, range(3, 8))
        then.end("finished")


def ends_however_the_run_ends(entry: TrackerEntry) -> None:
    """Each of the ends, also of a run that logged nothing."""
    for status in ENDS:
        with tempfile.TemporaryDirectory() as name:
            tracker = _build(entry)
            tracker.begin(_run(Path(name)))
            tracker.end(status)


def leaves_the_run_alone(entry: TrackerEntry) -> None:
    """What else lies in the run folder keeps its bytes, and Python's random numbers go on as they would have."""
    with tempfile.TemporaryDirectory() as name:
        files = {Path(name) / n: n.encode() for n in ("recipe.toml", "metrics.jsonl", "run.json")}
        for path, content in files.items():
            path.write_bytes(content)
        state = random.getstate()
        tracker = _build(entry)
        tracker.begin(_run(Path(name)))
        _log(tracker, range(1, 3))
        tracker.end("finished")
        changed = [path.name for path, content in files.items() if path.read_bytes() != content]
        require(not changed, f"changed {', '.join(changed)} of the run")
        require(random.getstate() == state, "took random numbers from Python's global generator")
