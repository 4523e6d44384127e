"""From a plan to a preview."""

from __future__ import annotations

from typing import Any

import torch
from zoo_registry import BackboneSpec, DataError, Entry, HubError, Registry, ZooError

from zoo.assembly.assemble import count_parameters
from zoo.assembly.weights import weights_at_hand, weights_in_words
from zoo.compute.allocator import pages_kept
from zoo.compute.choose import BACKWARD, outlook
from zoo.compute.path import check_path
from zoo.data.bad import BadRow
from zoo.data.supply import core_count, worker_count
from zoo.determinism import reproducible
from zoo.devices import resolve_device
from zoo.finetuning import build_phases, check_head_methods
from zoo.origins import licence_of
from zoo.planning import Plan
from zoo.preview.classes import data_json, imbalance_notes
from zoo.preview.estimate import busy_notes, device_name, final_seconds
from zoo.preview.measure import PassCost, time_pass
from zoo.preview.memory import free_bytes
from zoo.preview.phases import PhasePreview
from zoo.preview.report import PhaseView, Preview
from zoo.preview.throwaway import NotHereError, PreviewRun, ThrowAway
from zoo.preview.words import eval_words, input_json, normalise_words
from zoo.recipe.resolve import merge_errors, run_checks
from zoo.recipe.toml import recipe_to_dict
from zoo.training.run import Phase
from zoo.training.streams import check_streams

BATCHES = 3
"""Steps that are timed in each phase."""


def preview(
    plan: Plan,
    registry: Registry,
    *,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    batches: int = BATCHES,
) -> Preview:
    """Look at what a run of the plan would do. Nothing is downloaded or written.

    The model is assembled with random weights of the same shapes; each phase is prepared on a plain copy of it, as
    the loop would, looked at epoch by epoch, and a few of its steps are taken on real batches.

    Args:
        plan: checked, with its data open.
        registry: where names are looked up.
        device: what to measure on.
        hub, offline: as for the run; they say whether the weights are at hand.
        batches: steps timed in each phase; 0 measures nothing.

    Raises:
        ZooError: the recipe is wrong: everything that is, at once.
    """
    where = resolve_device(device)
    recipe, data = plan.recipe, plan.data
    check_path(recipe.train, where)
    with pages_kept(), reproducible(recipe.train.deterministic, recipe.train.threads):
        phases = build_phases(recipe, registry)
        run_checks([lambda p=phase: check_streams(p.specs, data) for phase in phases])  # type: ignore[misc]
        looked = _Looked(plan, registry, where, hub, batches)
        looked.look(phases)
        return looked.result(offline)


class _Looked:
    """The parts of a preview as they come."""

    def __init__(self, plan: Plan, registry: Registry, device: torch.device, hub: str | None, batches: int) -> None:
        self.plan, self.registry, self.device, self.hub, self.batches = plan, registry, device, hub, batches
        self.views: list[PhaseView] = []
        self.roles: set[str] = set()
        self.missing: list[str] = [] if batches else ["time and memory: not asked for"]
        self.unreadable: dict[tuple[str, str], BadRow] = {}
        self.made: ThrowAway | None = None
        self.evaluation: PassCost | None = None

    def look(self, phases: list[Phase]) -> None:
        """All phases; what is wrong in any is said at once."""
        self.roles = {spec.role for phase in phases for spec in phase.specs}
        try:
            made = self.made = ThrowAway.build(self.plan, self.registry, self.device, self.hub)
        except HubError as error:
            self.missing = [f"phases, time and memory: the model cannot be built here ({error.message})"]
            return
        check_head_methods(made.assembled, phases)
        if self.batches:
            self.evaluation = self._evaluation(made, phases)
        errors: list[ZooError] = []
        for index, phase in enumerate(phases):
            try:
                self.views.append(self._phase(made, phases, index))
            except ZooError as error:
                errors.append(type(error)(f"phase {index + 1}: {error.message}", hint=error.hint))
            except Exception as error:
                reason = f"phase {index + 1} ({phase.recipe.label()}): {type(error).__name__}: {error}"
                raise ZooError(reason, hint="run it again with --debug for the traceback") from error
        if errors:
            raise merge_errors(errors)

    def _evaluation(self, made: ThrowAway, phases: list[Phase]) -> PassCost | None:
        run = made.run(0, phases)
        try:
            return time_pass(run, self.batches)
        except (NotHereError, DataError) as error:
            self.missing.append(f"time and memory: {error.message}")
        except (MemoryError, torch.OutOfMemoryError):
            self.missing.append("time and memory: a pass over the smallest batch is out of memory")
        finally:
            self._note_unreadable(run)
        return None

    def _workers(self) -> int:
        """As the recipe says, or as a run would choose by what the evaluation of ``val`` costs."""
        train, size = self.plan.recipe.train, len(self.plan.data.split("train"))
        if isinstance(train.workers, int) or self.evaluation is None:
            return train.workers if isinstance(train.workers, int) else 0
        each = min(size, train.batch_size * train.accumulate)
        samples = sum((p.epochs or 0) * size + (p.steps or 0) * each for p in self.plan.recipe.phases)
        load, step = self.evaluation.load.cold, BACKWARD * self.evaluation.compute
        return worker_count(load, step, samples, device=self.device.type, cores=core_count())

    def _note_unreadable(self, run: PreviewRun) -> None:
        self.unreadable |= {(row.split, row.id): row for row in run.bad.rows}

    def _phase(self, made: ThrowAway, phases: list[Phase], index: int) -> PhaseView:
        run = made.run(index, phases)
        looking = PhasePreview(
            run,
            phases[index],
            evaluation=self.evaluation,
            batches=self.batches,
            workers=self._workers(),
        )
        view = looking.look(warm=index > 0)
        if view.not_measured:
            self.missing.append(f"phase {index + 1}: {view.not_measured}")
        self._note_unreadable(run)
        return view

    def result(self, offline: bool) -> Preview:
        """The preview."""
        plan, recipe = self.plan, self.plan.recipe
        entry = self.registry.backbone(recipe.backbone.name)
        here = weights_at_hand(entry, pinned=recipe.weights, hub=self.hub) if recipe.pretrained else None
        data = data_json(plan.data)
        seconds, peak = self._totals()
        free = free_bytes(self.device)
        busy = busy_notes(self.device) if seconds is not None else []
        notes = [*_weights_notes(entry, here, offline), *imbalance_notes(data["columns"], self.registry, self.roles)]
        notes += _memory_notes(peak, free, self.device) + _bad_notes(list(self.unreadable.values())) + busy
        return Preview(
            recipe=recipe_to_dict(recipe),
            backbone=_backbone_json(entry, self.made, licence_of(entry.spec, recipe.weights)),
            head={
                "name": recipe.head.name,
                "parameters": count_parameters(self.made.assembled.model.head) if self.made else None,
            },
            weights=weights_in_words(entry.spec, recipe.weights) if recipe.pretrained else "none (random)",
            weights_cached=here,
            data=data,
            device=device_name(self.device),
            transforms=_transforms(entry, self.made),
            phases=tuple(self.views),
            compute=self._compute(),
            seconds=seconds,
            peak_bytes=peak,
            available_bytes=free,
            notes=tuple(notes),
            not_measured=tuple(self.missing),
        )

    def _compute(self) -> str:
        """The compute path, or that it will be measured; the estimates are of the path that the recipe names."""
        running = [view for view in self.views if view.steps and not view.cached]
        costs = [view.estimate.seconds - view.estimate.extraction_seconds for view in running if view.estimate]
        known = self.made is not None and len(costs) == len(running)
        steps = bool(running) or self.made is None
        return outlook(self.plan.recipe.train, self.device, sum(costs) if known else None, steps=steps)

    def _totals(self) -> tuple[float | None, int | None]:
        estimates = [view.estimate for view in self.views]
        if self.evaluation is None or not estimates or any(estimate is None for estimate in estimates):
            return None, None
        known = [estimate for estimate in estimates if estimate is not None]
        final = final_seconds(self.plan.data, self.evaluation, self._workers())
        return final + sum(e.seconds for e in known), max(e.memory.peak for e in known)


def _backbone_json(entry: Entry[BackboneSpec], made: ThrowAway | None, licence: str | None) -> dict[str, Any]:
    features = None
    if made is not None:
        kind = made.assembled.features
        features = {"kind": kind, "width": entry.spec.features[kind]}
    return {
        "name": entry.name,
        "parameters": entry.spec.parameters,
        "license": licence,
        "features": features,
    }


def _transforms(entry: Entry[BackboneSpec], made: ThrowAway | None) -> dict[str, Any]:
    given = made.assembled.input if made is not None else entry.spec.input
    return {"eval": eval_words(given), "normalise": normalise_words(given), "input": input_json(given)}


def _weights_notes(entry: Entry[BackboneSpec], here: bool | None, offline: bool) -> list[str]:
    if here is not False:
        return []
    weights = entry.spec.weights
    size = f", {weights.size / 1e6:.0f} MB" if weights and weights.size else ""
    end = "and --offline forbids to get them: the run would fail" if offline else "the run would download them"
    return [f"the weights of {entry.name} are not on this machine{size}: {end}"]


def _memory_notes(peak: int | None, free: int | None, device: torch.device) -> list[str]:
    if peak is None or free is None or peak <= free:
        return []
    return [
        f"about {peak / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free on {device}: "
        "a smaller --batch-size, and --set train.accumulate=2 for the same effective batch"
    ]


def _bad_notes(rows: list[BadRow]) -> list[str]:
    if not rows:
        return []
    count = f"{len(rows)} of the samples that were tried" if len(rows) > 1 else "one of the samples that were tried"
    return [f"{count} cannot be read; the first is {rows[0].id!r}: {rows[0].reason}"]
