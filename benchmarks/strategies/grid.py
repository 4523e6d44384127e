"""Which way is measured on which task, and what it is compared with."""

from __future__ import annotations

from tasks import LABELS, TASKS
from ways import WAYS

STEPS = 100
"""Optimiser steps of every row but those that say otherwise; batches of 16."""
SEEDS = (0, 1, 2, 3, 4)
STARTERS = ("cnn", "vit")

ANCHORS = ("scratch", "linear", "full", "lp-ft")
LONG = ("digits-1", "digits-2", "digits-5")
"""Where training from scratch is also given more steps."""
PENALTIES = ("l2-sp", "delta", "bss", "distill")
HEADS = ("prototype", "ridge", "knn")
ROWS: dict[str, tuple[str, ...]] = {
    **{f"digits-{k}": (*ANCHORS, *PENALTIES, "lora", *HEADS) for k in LABELS},
    "digits-10": tuple(WAYS),
    "glyphs": (*ANCHORS, "partial", "llrd", "gradual", "bitfit", "norm", "lora", "lora-8", "dora", "ia3", "adalora",
               "l2-sp", "wise-ft-half", "lp-ft+wise-ft", *HEADS),
    "imbalanced": (*ANCHORS, "class-balanced", "weighted", "logit-adjustment", "focal", "label-smoothing", *HEADS),
}  # fmt: skip
BALANCED = ("class-balanced", "weighted", "logit-adjustment", "focal")
"""Ways that do nothing where all classes are equally frequent (focal excepted): measured under imbalance alone."""
ROWS |= {task: ("scratch-long", *ROWS[task]) for task in LONG}
ROWS["digits-10"] = tuple(way for way in ROWS["digits-10"] if way not in (*BALANCED, "scratch-long"))


ONE = {"lp-ft+wise-ft-recal": "cnn"}
"""Rows that differ on one starter alone: the other has no BatchNorm."""


def cells(
    tasks: tuple[str, ...] = TASKS, ways: tuple[str, ...] = tuple(WAYS), starters: tuple[str, ...] = STARTERS
) -> list[tuple[str, str, str]]:
    """(task, way, starter) of the table, as far as they are asked for."""
    return [
        (t, w, s)
        for t in TASKS
        if t in tasks
        for w in WAYS
        if w in ways and w in ROWS[t]
        for s in starters
        if ONE.get(w, s) == s
    ]
