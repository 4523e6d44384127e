"""Trackers of a run: chosen by name, told of each row, switched off with a line where one raises."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_registry import PluginError, Registry, RunStoppedError, TrackedRun, Tracker, UsageError, ZooError
from zoo_registry.errors import did_you_mean
from zoo_registry.options import check_options, options_to_dict, parse_options
from zoo_registry.references import one_line

from zoo.files import write_json
from zoo.recipe import Component
from zoo.runs import RunFolder
from zoo.training.log import MetricsLog
from zoo.training.progress import Reporter
from zoo.training.signals import InterruptedRunError


def choose_trackers(
    names: Sequence[str], settings: Mapping[str, str], registry: Registry, errors: list[ZooError]
) -> tuple[Component, ...]:
    """The trackers of these names, with their options.

    Args:
        names: full or short; one that comes twice counts once.
        settings: ``NAME.OPTION`` -> value.
        registry: where they are looked up.
        errors: gets everything that is wrong.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            chosen.setdefault(registry.tracker(name).name, {})
        except ZooError as error:
            errors.append(error)
    for key, value in settings.items():
        name, _, option = key.rpartition(".")
        full = _chosen_name(name, chosen, registry)
        if full is None:
            close = did_you_mean(name or option, [*chosen, *(n.rpartition("/")[2] for n in chosen)])
            errors.append(
                UsageError(f"tracker.{key}: no tracker {name or option!r} is chosen", close or "--track NAME")
            )
        else:
            chosen[full][option] = value
    found = []
    for name, given in chosen.items():
        built, problems = check_options(registry.tracker(name).spec.options, given, where=f"tracker.{name}")
        errors += [UsageError(problem) for problem in problems]
        found.append(Component(name=name, options={} if problems else options_to_dict(built)))
    return tuple(found)


def _chosen_name(name: str, chosen: Mapping[str, Any], registry: Registry) -> str | None:
    try:
        full = registry.tracker(name).name
    except ZooError:
        return None
    return full if full in chosen else None


def build_trackers(chosen: Sequence[Component], registry: Registry) -> list[tuple[str, Tracker]]:
    """Full name and tracker of each.

    Raises:
        PluginError: one cannot be built; nothing has been written yet.
    """
    return [(component.name, _build(component, registry)) for component in chosen]


def rebuild_trackers(
    chosen: Sequence[Component], registry: Registry, note: Callable[[str], None]
) -> list[tuple[str, Tracker]]:
    """As :func:`build_trackers`, for a run that goes on: one that cannot be built is a line, and left out."""
    found = []
    for component in chosen:
        try:
            found.append((component.name, _build(component, registry)))
        except ZooError as error:
            note(f"tracker {component.name} is left out: {error.message}")
    return found


def _build(component: Component, registry: Registry) -> Tracker:
    entry = registry.tracker(component.name)
    factory: Any = entry.factory()
    options = parse_options(entry.spec.options, component.options, where=f"tracker.{component.name}")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            tracker = factory(entry.spec, options)
    except ZooError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise PluginError(f"tracker {component.name} cannot be built: {reason}", hint="leave --track out") from error
    if not isinstance(tracker, Tracker):
        raise PluginError(f"tracker {component.name}: its factory returned {type(tracker).__name__}, not a Tracker")
    return tracker


def write_trackers(path: Path, chosen: Sequence[Component]) -> None:
    """Note the trackers of a run for its resume; no file where there are none."""
    if chosen:
        write_json(path, [{"name": component.name, "options": component.options} for component in chosen])


def read_trackers(path: Path) -> tuple[Component, ...]:
    """The trackers that a run was started with; none where the file is missing or damaged."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Component(name=str(row["name"]), options=dict(row["options"])) for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def join_trackers(known: Sequence[Component], said: Sequence[Component]) -> tuple[Component, ...]:
    """Those of the run and those that are asked for now, which go before."""
    return tuple({component.name: component for component in (*known, *said)}.values())


class Fan(Reporter):
    """Tells several reporters, in order."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def note(self, text: str) -> None:
        """Hand on."""
        for reporter in self.reporters:
            reporter.note(text)

    def doing(self, text: str) -> None:
        """Hand on."""
        for reporter in self.reporters:
            reporter.doing(text)

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """Hand on."""
        for reporter in self.reporters:
            reporter.begin_phase(index, count, label, total_steps)

    def step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        """Hand on."""
        for reporter in self.reporters:
            reporter.step(step, epoch, loss, samples)

    def step_row(self, row: Mapping[str, Any]) -> None:
        """Hand on."""
        for reporter in self.reporters:
            reporter.step_row(row)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Hand on."""
        for reporter in self.reporters:
            reporter.epoch(row)

    def end_phase(self, index: int, record: Mapping[str, Any]) -> None:
        """Hand on."""
        for reporter in self.reporters:
            reporter.end_phase(index, record)


class Tracking(Reporter):
    """Tells the trackers of a run what goes to its log.

    Args:
        trackers: full name and tracker of each.
        folder: the run folder.
        recipe: the resolved recipe, plain values.
        log: the run's; it says how far an interrupted run was logged.
        resumed: whether the run goes on.
        note: gets the line about a tracker that is switched off.
    """

    def __init__(
        self,
        trackers: Sequence[tuple[str, Tracker]],
        *,
        folder: Path,
        recipe: Mapping[str, Any],
        log: MetricsLog,
        resumed: bool,
        note: Callable[[str], None],
    ) -> None:
        self.trackers = list(trackers)
        self.folder, self.recipe, self.log, self.resumed, self.say = folder, recipe, log, resumed, note
        self.begun = False
        self.before = 0

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """Begin with the first one: only now the log of a resumed run is cut back to its checkpoint."""
        self.before = sum(row["steps"] for row in self.log.content if row["event"] == "phase" and row["phase"] < index)
        if not self.begun:
            self.begun = True
            run = TrackedRun(folder=self.folder, recipe=self.recipe, step=self._unlogged(), resumed=self.resumed)
            self._tell("begin", run)

    def _unlogged(self) -> int:
        """The first step of the run that the log does not have."""
        before, last = 0, -1
        for row in self.log.content:
            if row["event"] == "phase":
                before += row["steps"]
            elif row["event"] in ("step", "epoch"):
                last = before + row["step"]
        return last + 1

    def step_row(self, row: Mapping[str, Any]) -> None:
        """Loss, rate and gradient norm of a step."""
        values = {"step/loss": row["loss"], **_progress("step", row)}
        self._tell("log", self.before + row["step"], finite(values))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Everything of an epoch."""
        losses = row["losses"] if len(row["losses"]) > 1 else {}
        values = {"train/loss": row["train_loss"], **_progress("train", row)}
        values |= {f"train/{name}": value for name, value in losses.items()}
        values |= {f"val/{name}": value for name, value in row.get("val", {}).items()}
        machine = row.get("machine", {})
        values |= {f"machine/{name}": machine[name] for name in MACHINE if name in machine}
        self._tell("log", self.before + row["step"], finite(values))

    def final(self, metrics: Mapping[str, Any]) -> None:
        """The metrics of the finished model."""
        step = sum(row["steps"] for row in self.log.content if row["event"] == "phase")
        self._tell("log", step, finite({f"final/{name}": value for name, value in metrics.items()}))

    def figures(self, paths: Mapping[str, Path]) -> None:
        """Name -> PNG, of those that exist."""
        for name, path in paths.items():
            if path.is_file():
                self._tell("figure", name, path)

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """However the run ends, the trackers that began are told."""
        status = "failed"
        try:
            yield
            status = "finished"
        except (RunStoppedError, KeyboardInterrupt):
            status = "stopped"
            raise
        finally:
            if self.begun:
                self._tell("end", status)

    def _tell(self, method: str, *arguments: Any) -> None:
        """Call all; one that raises is switched off. What it prints goes to stderr."""
        for pair in list(self.trackers):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    getattr(pair[1], method)(*arguments)
            except (InterruptedRunError, KeyboardInterrupt):  # a signal that struck in the midst of it
                raise
            except BaseException as error:
                self.trackers.remove(pair)
                reason = f"{type(error).__name__}: {one_line(error)}"
                self.say(f"tracker {pair[0]} is switched off, {method}() failed: {reason}")


MACHINE = ("samples_per_second", "wait_share", "rss_peak_bytes", "cuda_peak_bytes")
"""What trackers are told of ``machine.jsonl``."""


def _progress(part: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Rate and gradient norm; where rates differ, the least one too."""
    rates = row["learning_rates"]
    values = {f"{part}/gradient_norm": row["gradient_norm"]}
    values |= {f"{part}/rate": rates[0]} if rates else {}
    return values | ({f"{part}/rate_least": rates[-1]} if len(rates) > 1 else {})


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers."""
    return {n: float(v) for n, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def open_tracking(
    chosen: Sequence[Component],
    built: Sequence[tuple[str, Tracker]] | None,
    registry: Registry,
    folder: RunFolder,
    facts: Mapping[str, Any],
    log: MetricsLog,
    reporter: Reporter,
) -> Tracking:
    """The trackers of a run that begins, with those that were built before it; of one that goes on, where none were.

    Which they are is noted in the run folder.
    """
    resumed = built is None
    trackers = built if built is not None else rebuild_trackers(chosen, registry, reporter.note)
    write_trackers(folder.trackers, chosen)
    return Tracking(trackers, folder=folder.path, recipe=facts, log=log, resumed=resumed, note=reporter.note)
