"""What the finder found, as data and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.files import write_json
from zoo.rates.suggest import Suggestion, rounded
from zoo.recipe import Recipe
from zoo.runs import FOUND_RATES

LATER = "tried from the weights that the run starts with, not from those that the phases before leave"


@dataclass(frozen=True, kw_only=True)
class PhaseRates:
    """The ramp of one phase.

    Attributes:
        phase, label: index from 0; the strategies as on the command line.
        rate: the recipe's peak rate.
        relative: the distinct rates of the parameter groups, over the phase's, greatest first.
        rates, losses: of each step taken.
        found: what they suggest.
        end: ``diverged``, ``not finite`` or ``complete``.
    """

    phase: int
    label: str
    rate: float
    relative: tuple[float, ...]
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    found: Suggestion
    end: str

    @property
    def suggestion(self) -> float | None:
        """The peak rate to take, of two digits; None where the loss does not fall."""
        return None if self.found.steepest is None else rounded(self.found.steepest)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = self.found
        return {
            "phase": self.phase,
            "label": self.label,
            "rate": self.rate,
            "relative_rates": list(self.relative),
            "suggestion": self.suggestion,
            "steepest": found.steepest,
            "valley": found.valley,
            "lowest": found.lowest,
            "end": self.end,
            "rates": list(self.rates),
            "losses": list(self.losses),
            "smoothed": list(found.smoothed),
        }


@dataclass(frozen=True, kw_only=True)
class RateFinding:
    """The ramps of a recipe's phases.

    Attributes:
        recipe: resolved; it is as it was.
        phases: those that were tried.
        notes: lines for a person.
        low, high, steps: of each ramp.
    """

    recipe: Recipe
    phases: tuple[PhaseRates, ...]
    notes: tuple[str, ...]
    low: float
    high: float
    steps: int

    @property
    def options(self) -> list[str]:
        """The command-line options that take the suggestions; none where there is none."""
        known = [phase for phase in self.phases if phase.suggestion is not None]
        if len(self.recipe.phases) == 1:
            return ["--lr", f"{known[0].suggestion:g}"] if known else []
        return [word for p in known for word in ("--set", f"strategy.{p.phase + 1}.rate={p.suggestion:g}")]

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same in every run of one recipe."""
        return {
            "format": 1,
            "strategy": self.recipe.label(),
            "seed": self.recipe.seed,
            "batch_size": self.recipe.train.batch_size,
            "low": self.low,
            "high": self.high,
            "steps": self.steps,
            "phases": [phase.to_json() for phase in self.phases],
            "options": self.options,
            "notes": list(self.notes),
        }

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``find-lr.json`` and ``find-lr.png`` into the folder."""
        from zoo.evaluation.rate_figure import rate_figure

        folder.mkdir(parents=True, exist_ok=True)
        data, figure = (folder / name for name in FOUND_RATES)
        write_json(data, self.to_json())
        return data, rate_figure(self.to_json()["phases"], figure)
