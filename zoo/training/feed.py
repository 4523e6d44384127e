"""Batches of the stream ``train``: a pure function of (seed, phase, epoch, step), whatever was drawn before.

An epoch is one pass over ``train`` in an order keyed by (seed, phase, epoch), or as many draws with replacement where a
sampling strategy weighs the samples. A last batch of a single sample joins the one before it: BatchNorm cannot learn
from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Batch, UsageError
from zoo_registry.strategy import cacheable, merge_streams, overrides

from zoo.data.loader import ViewLoader
from zoo.training.run import Phase, TrainingRun


class Feed:
    """The batches of one phase.

    Args:
        run: the run; its model is prepared for the phase.
        phase: the phase.

    Attributes:
        steps_per_epoch: optimiser steps of one pass over ``train``.
        cached: whether features are computed once and the backbone is not run again.
    """

    def __init__(self, run: TrainingRun, phase: Phase) -> None:
        self.run = run
        self.phase = phase
        foreign = [name for name in merge_streams(phase.specs) if name != "train" and name not in run.data.splits]
        if foreign:
            raise UsageError(
                f"the recipe needs data of the stream {foreign[0]!r}, which {run.data.description.get('form', 'the data')}"
                " does not have",
                hint="leave the strategy out, or bring data that has it",
            )
        self.size = len(run.train)
        self.steps_per_epoch = len(step_plan(self.size, run.options.batch_size, run.options.accumulate))
        learns = any(p.requires_grad for p in run.model.backbone.parameters())
        self.cached = cacheable(phase.specs) and phase.recipe.augment == "none" and not learns
        self._features: Tensor | None = None
        self._rows: dict[int, int] = {}
        self.validation: tuple[Tensor, list[int]] | None = None
        self._loader: ViewLoader | None = None

    def open(self) -> None:
        """Compute the features where they may be cached, or start the loader."""
        if self.cached:
            features, found = self.run.extract_rows(self.run.model)
            self._features, self._rows = features, {index: row for row, index in enumerate(found)}
            self.validation = self.run.extract_rows(self.run.model, "val")
            return
        transform = self.run.pipeline.transform(
            "train", augment=str(self.phase.recipe.augment), strategies=self.phase.strategies
        )
        self._loader = ViewLoader(
            self.run.train,
            {"train": transform},
            seed=self.run.seed,
            stream="train",
            workers=self.run.options.workers,
            **self.run.pipeline.loader_options,
        )

    def close(self) -> None:
        """Stop the loader's workers and forget the features."""
        if self._loader is not None:
            self._loader.close()
        self._loader = self._features = self.validation = None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, list[Batch]]]:
        """``(samples planned, micro-batches)`` of each step of the epoch, from ``first_step`` of it on."""
        order = self._order(epoch).tolist()
        plan = step_plan(self.size, self.run.options.batch_size, self.run.options.accumulate)[first_step:]
        if self.cached:
            for step in plan:
                yield _planned(step), [self._from_cache([order[i] for i in span]) for span in step]
            return
        assert self._loader is not None
        flat = [[(order[draw], draw) for draw in span] for step in plan for span in step]
        loaded = self._loader.batches(flat, epoch=(self.run.phase, epoch))
        for step in plan:
            batches = []
            for _ in step:
                found = next(loaded)
                self.run.bad.add(found.bad)
                views = {name: self.run.pipeline.feed(view) for name, view in found.views.items()} if found.ids else {}
                batches.append(Batch(views=views, targets=self._targets(found.ids), ids=found.ids))
            yield _planned(step), batches

    def _order(self, epoch: int) -> Tensor:
        from zoo.keys import generator

        draw = generator(self.run.seed, self.run.phase, epoch, "order", "train")
        owner = next((s for s in self.phase.strategies if overrides(s, "sample_weights")), None)
        if owner is None:
            return torch.randperm(self.size, generator=draw)
        weights = owner.sample_weights(self.run.targets, self.run)
        return torch.multinomial(weights, self.size, replacement=True, generator=draw)

    def _targets(self, indices: Sequence[int]) -> dict[str, Tensor]:
        chosen = torch.as_tensor(list(indices), dtype=torch.long)
        return {name: values[chosen].to(self.run.device) for name, values in self.run.targets.items()}

    def _from_cache(self, indices: list[int]) -> Batch:
        assert self._features is not None
        good = [index for index in indices if index in self._rows]
        rows = torch.as_tensor([self._rows[index] for index in good], dtype=torch.long, device=self._features.device)
        return Batch(views={}, targets=self._targets(good), ids=good, features=self._features[rows])


def step_plan(size: int, batch_size: int, accumulate: int) -> list[list[range]]:
    """Spans of positions of an epoch's order: steps of up to ``accumulate`` micro-batches of ``batch_size``."""
    starts = list(range(0, size, batch_size))
    spans = [range(start, min(start + batch_size, size)) for start in starts]
    if len(spans) > 1 and len(spans[-1]) == 1:
        spans[-2:] = [range(spans[-2].start, size)]
    return [spans[i : i + accumulate] for i in range(0, len(spans), accumulate)]


def _planned(step: Sequence[range]) -> int:
    return sum(len(span) for span in step)


