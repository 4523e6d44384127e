"""Batches of a phase: a pure function of (seed, phase, epoch, step), whatever was drawn before.

An epoch is one pass over ``train`` in an order keyed by (seed, phase, epoch), or as many draws with replacement where a
sampling strategy weighs the samples. A last batch of a single sample joins the one before it: BatchNorm cannot learn
from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Batch, ZooError
from zoo_registry.strategy import cacheable, overrides

from zoo.data.loader import ViewLoader
from zoo.evaluation.predictions import pick_features
from zoo.features.bank import FeatureBank
from zoo.features.pool import Rows
from zoo.keys import generator
from zoo.training.run import Phase, TrainingRun
from zoo.training.streams import EndlessStream, check_streams, gather, open_loader, open_streams, to_batch


class Feed:
    """The batches of one phase.

    Args:
        run: the run; its model is prepared for the phase.
        phase: the phase.

    Attributes:
        streams: name -> stream, ``train`` first.
        steps_per_epoch: optimiser steps of one pass over ``train``.
        cached: whether features are computed once and the backbone is not run again.
        views: augmented views a sample whose features are computed, through which the epochs cycle; 0: the exact one.
        validation: features of ``val`` and their indices, where they are cached.
        weights: by which the current epoch's samples are drawn, [N]; None where each comes once.
    """

    def __init__(self, run: TrainingRun, phase: Phase) -> None:
        self.run = run
        self.phase = phase
        self.streams = check_streams(phase.specs, run.data)
        self.size = len(run.train)
        self.steps_per_epoch = len(step_plan(self.size, run.options.batch_size, run.options.accumulate))
        learns = any(p.requires_grad for p in run.model.backbone.parameters())
        plain = phase.recipe.augment == "none"
        self.views = 0 if plain else run.options.views
        rests = cacheable(phase.specs) and not learns and run.options.features != "off"
        self.cached = rests and (plain or self.views > 0)
        self.validation: tuple[Any, list[int]] | None = None
        self.weights: Tensor | None = None
        self._kept: list[Rows] = []
        self._loader: ViewLoader | None = None
        self._others: list[EndlessStream] = []

    def open(self) -> None:
        """Compute the features where they may be cached, or start the loaders."""
        bank = self.run.bank
        if self.cached and bank is not None:
            backbone = self.run.model.backbone
            self._kept = self._views(bank) if self.views else [bank.exact(backbone, "train")]
            self.validation = bank.exact(backbone, "val").picked()
            return
        if bank is not None:
            bank.forget()
        self._loader = open_loader(self.run, self.phase, self.streams["train"])
        self._others = open_streams(self.run, self.phase, self.streams)

    def _views(self, bank: FeatureBank) -> list[Rows]:
        """Features of as many augmented views as the phase has epochs for."""
        run, level = self.run, str(self.phase.recipe.augment)
        count = min(self.views, -(-run.total_steps // self.steps_per_epoch))
        transform = run.pipeline.transform("train", augment=level)
        edge = run.short_edge(("train",), level)
        return bank.views(run.model.backbone, transform, count, level=level, short_edge=edge)

    def close(self) -> None:
        """Stop the loaders' workers and forget the features."""
        if self._loader is not None:
            self._loader.close()
        for other in self._others:
            other.close()
        self._loader = self.validation = None
        self._others, self._kept = [], []

    def weigh(self) -> None:
        """Ask for the weights of the epoch that begins.

        Raises:
            ZooError: they are not one non-negative finite number a sample, or all are zero.
        """
        owner = next((s for s in self.phase.strategies if overrides(s, "sample_weights")), None)
        if owner is None:
            return
        weights = torch.as_tensor(owner.sample_weights(self.run.targets, self.run.seen)).detach().cpu().double()
        sound = weights.shape == (self.size,) and bool(weights.isfinite().all()) and bool((weights >= 0).all())
        if not sound or not float(weights.sum()) > 0:
            raise ZooError(
                f"sample weights of shape {tuple(weights.shape)} for {self.size} samples are not usable",
                hint="sample_weights must return one finite number, 0 or more, for each sample, and not all 0",
            )
        self.weights = weights

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[dict[str, Batch]]]:
        """The micro-batches, stream -> batch, of each step of the epoch, from ``first_step`` of it on."""
        order = self._order(epoch)
        whole = step_plan(self.size, self.run.options.batch_size, self.run.options.accumulate)
        before, limits = epoch * self.steps_per_epoch, self.run.limits
        steps = [limits.split(whole[i], self.run.phase, before + i) for i in range(first_step, len(whole))]
        if self.cached:
            for step in steps:
                yield [{"train": self._from_cache(epoch, [order[i] for i in span])} for span in step]
            return
        if self._loader is None:
            raise RuntimeError("the feed is not open")
        flat = [[(order[draw], draw) for draw in span] for step in steps for span in step]
        loaded = self._loader.batches(flat, epoch=(self.run.phase, epoch))
        others = {o.stream.name: o.batches(epoch, steps) for o in self._others}
        for step in steps:
            micros = []
            for span in step:
                batches = {"train": to_batch(self.run, self.run.train, next(loaded), len(span))}
                micros.append(batches | {name: next(batches_of) for name, batches_of in others.items()})
            yield micros

    def _order(self, epoch: int) -> list[int]:
        draw = generator(self.run.seed, self.run.phase, epoch, "order", "train")
        if self.weights is None:
            order: list[int] = torch.randperm(self.size, generator=draw).tolist()
            return order
        # Inverse of the cumulative distribution: a sample of weight 0 covers no interval and is never drawn.
        edges = self.weights.cumsum(0)
        points = torch.rand(self.size, generator=draw, dtype=torch.float64) * edges[-1]
        order = torch.searchsorted(edges, points, right=True).clamp(max=int(self.weights.nonzero()[-1])).tolist()
        return order

    def _from_cache(self, epoch: int, indices: list[int]) -> Batch:
        kept = self._kept[epoch % len(self._kept)]
        good = [index for index in indices if index in kept.places]
        if len(good) == 1 and len(indices) > 1:
            good = []
        rows = torch.tensor([kept.places[index] for index in good], dtype=torch.long, device=self.run.device)
        targets = gather(self.run, self.run.train, good)
        return Batch(views={}, targets=targets, ids=good, features=pick_features(kept.features, rows))


def batch_notes(size: int, batch_size: int) -> list[str]:
    """What is worth a word of how ``size`` samples fall into batches."""
    if batch_size > size:
        return [f"a batch is all of train: {size} samples, fewer than the batch size of {batch_size}"]
    if batch_size > 1 and size > batch_size and size % batch_size == 1:
        return ["the last batch of an epoch would be a single sample, too few for BatchNorm: it joins the one before"]
    return []


def step_plan(size: int, batch_size: int, accumulate: int) -> list[list[range]]:
    """Spans of positions of an epoch's order: steps of up to ``accumulate`` micro-batches of ``batch_size``."""
    starts: Sequence[int] = range(0, size, batch_size)
    spans = [range(start, min(start + batch_size, size)) for start in starts]
    if batch_size > 1 and len(spans) > 1 and len(spans[-1]) == 1:
        spans[-2:] = [range(spans[-2].start, size)]
    return [spans[i : i + accumulate] for i in range(0, len(spans), accumulate)]
