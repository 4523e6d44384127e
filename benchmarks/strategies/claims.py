"""What should show, and whether it does: each claim is a comparison with a bar that stands here, starter by starter."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from table import CLEAN, SHIFTED, WORST, Table

FEW, MANY = (1, 2, 5), 20
SHIFT_TASK = "digits-10"
PENALTIES = ("l2-sp", "delta", "bss", "distill")
BALANCED = ("class-balanced", "logit-adjustment", "focal")
HALF_POINT = 0.005
POINT = 0.01
TENTH = 0.1


@dataclass(frozen=True)
class Finding:
    """What one starter says of one claim: None where it was not measured."""

    starter: str
    shown: bool | None
    numbers: str


@dataclass(frozen=True)
class Claim:
    """A claim, its bar in words, the row it is about, and what was found."""

    title: str
    bar: str
    way: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """``shown``, ``not shown``, or on which starter."""
        known = [f for f in self.findings if f.shown is not None]
        held = [f.starter for f in known if f.shown]
        if not known:
            return "not measured"
        if len(held) == len(known):
            return "shown" if len(known) > 1 else f"shown (on `starter/{held[0]}`, the only one that can)"
        return f"shown on `starter/{held[0]}` alone" if held else "not shown"


def _gain(table: Table, starter: str) -> Finding:
    parts, held = [], []
    for k in FEW:
        for way in ("linear", "full", "lp-ft"):
            pair = table.pair(f"digits-{k}", way, "scratch-long", starter)
            if pair:
                parts.append(f"{way} at {k}: {pair.text()}")
                held.append(pair.won == pair.draws)
    return Finding(starter, all(held) if held else None, "; ".join(parts))


def _lp_ft(table: Table, starter: str) -> Finding:
    pair = table.pair(SHIFT_TASK, "lp-ft", "full", starter, SHIFTED)
    if pair is None:
        return Finding(starter, None, "")
    return Finding(starter, pair.mean >= 0, f"lp-ft - full, mean over the shifts: {pair.text()}")


def _wise_ft(table: Table, starter: str) -> Finding:
    way, parts, held = "lp-ft+wise-ft", [], []
    for other in ("full", "lp-ft"):
        shifted = table.pair(SHIFT_TASK, way, other, starter, SHIFTED)
        clean = table.pair(SHIFT_TASK, way, other, starter, CLEAN)
        if shifted and clean:
            parts.append(f"{way} - {other}: shifted {shifted.text()}, clean {clean.text()}")
            if other == "full":
                held.append(shifted.mean >= 0 and clean.mean >= -HALF_POINT)
    for alone in ("wise-ft", "wise-ft-half"):
        shifted = table.pair(SHIFT_TASK, alone, "full", starter, SHIFTED)
        clean = table.pair(SHIFT_TASK, alone, "full", starter, CLEAN)
        if shifted and clean:
            parts.append(f"{alone} (from a head that knows nothing yet) - full: {shifted.text()}, {clean.text()}")
    return Finding(starter, all(held) if held else None, "; ".join(parts))


def _penalty(way: str) -> Callable[[Table, str], Finding]:
    def find(table: Table, starter: str) -> Finding:
        few = [(k, table.pair(f"digits-{k}", way, "full", starter)) for k in FEW]
        many = table.pair(f"digits-{MANY}", way, "full", starter)
        measured = [(k, pair) for k, pair in few if pair]
        if not measured or many is None:
            return Finding(starter, None, "")
        helped = statistics.mean(pair.mean for _, pair in measured) > 0
        numbers = ", ".join(f"at {k}: {pair.text()}" for k, pair in measured)
        shown = helped and many.mean >= -POINT
        return Finding(starter, shown, f"{numbers}; at {MANY}: {many.text()}")

    return find


def _lora(table: Table, starter: str) -> Finding:
    shown, numbers = None, []
    for way in ("lora", "lora-8"):
        tasks = [t for t in (*(f"digits-{k}" for k in (5, 10, 20)), "glyphs") if table.pair(t, way, "full", starter)]
        pairs = [pair for t in tasks if (pair := table.pair(t, way, "full", starter))]
        if not pairs:
            continue
        sizes = [table.first(tasks[0], name, starter)["trainable"] for name in (way, "full")]
        share = sizes[0] / sizes[1]
        if way == "lora":
            shown = all(pair.mean >= -POINT for pair in pairs) and share < TENTH
        said = ", ".join(f"{t} {pair.text()}" for t, pair in zip(tasks, pairs))
        numbers.append(f"`{way}` {said}; {100 * share:.1f} % of the trainable parameters")
    return Finding(starter, shown, "; ".join(numbers) or "not possible, it has no linear layers to adapt")


def _balanced(way: str) -> Callable[[Table, str], Finding]:
    def find(table: Table, starter: str) -> Finding:
        worst = table.pair("imbalanced", way, "full", starter, WORST)
        clean = table.pair("imbalanced", way, "full", starter, CLEAN)
        if worst is None or clean is None:
            return Finding(starter, None, "")
        return Finding(starter, worst.mean > 0, f"recall of the worst class {worst.text()}, accuracy {clean.text()}")

    return find


_CLAIMS: tuple[tuple[str, str, str, Callable[[Table, str], Finding]], ...] = (
    ("Transfer gains over training from scratch at few labels",
     "at 1, 2 and 5 labels a class linear, full and lp-ft beat scratch with twice the steps in every draw",
     "full", _gain),
    ("LP-FT is at least full under shift", "mean over four shifts, 10 labels a class: difference 0 or more", "lp-ft",
     _lp_ft),
    ("WiSE-FT is at least full under shift at no loss in distribution",
     "after a probe: shifted difference to full 0 or more, clean not more than half a point below",
     "lp-ft+wise-ft", _wise_ft),
    *((f"The penalty {way} helps at few labels and does no harm at many",
       f"mean difference to full above 0 over 1, 2 and 5 labels; not more than a point below at {MANY}",
       way, _penalty(way))
      for way in PENALTIES),
    ("LoRA is within a point of full at under a tenth of the trainable parameters",
     "digits with 5, 10 and 20 labels and glyphs, each not more than a point below", "lora", _lora),
    *((f"{way} lifts the worst class under imbalance", "mean difference of the worst class's recall above 0",
       way, _balanced(way)) for way in BALANCED),
)  # fmt: skip


def find_claims(table: Table, starters: Iterable[str]) -> list[Claim]:
    """All claims, as far as there are rows."""
    names = tuple(starters)
    return [Claim(title, bar, way, tuple(find(table, s) for s in names)) for title, bar, way, find in _CLAIMS]
