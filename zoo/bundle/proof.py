"""What a push has proved of a bundle, as ``zoo.json`` and the card tell it.

A number is proved where a fresh process loaded the very files, measured the same samples again and came to it. All
others are as training recorded them, and are called not proved, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo_registry import IntegrityError

if TYPE_CHECKING:
    from zoo.bundle.document import Document

Wrong = Callable[[str], IntegrityError]

TOLERANCE = 0.002
"""A metric may differ by this, or this share of it where it is above 1: other kernels, other devices."""
SAMPLES = 1.5
"""Or by what so many samples of the split count for."""

NOT_NOW = "training recorded them; nothing was published yet"
NOT_ASKED = "they were not measured again"
NO_RUN = "the run is not at hand"
NO_NAME = "a program handed the data to training"
NOT_THERE = "the data is not where training found it"
CHANGED = "the data has changed since training"
NO_SPLIT = "the data has no such split any more"
REASONS = frozenset({NOT_NOW, NOT_ASKED, NO_RUN, NO_NAME, NOT_THERE, CHANGED, NO_SPLIT})


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a fresh process found again.

    Attributes:
        logits: the golden logits.
        metrics: split -> names of the metrics that it came to again.
        why: why others are not proved, one of :data:`REASONS`, or None where there are none.
    """

    logits: bool = True
    metrics: dict[str, tuple[str, ...]] = field(default_factory=dict)
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"logits": self.logits, "metrics": {s: list(n) for s, n in self.metrics.items()}, "why": self.why}


def read_proof(value: Any, wrong: Wrong) -> Proof | None:
    """The value of ``proof`` in ``zoo.json``, checked; ``wrong`` makes the error for what it cannot be."""
    if value is None:
        return None
    metrics = value.get("metrics") if isinstance(value, Mapping) else None
    if not isinstance(metrics, Mapping) or not isinstance(value.get("logits"), bool):
        raise wrong("proof is not as it should be")
    if not all(isinstance(n, list) and all(isinstance(m, str) for m in n) for n in metrics.values()):
        raise wrong("proof is not as it should be")
    if value.get("why") not in (None, *REASONS):
        raise wrong(f"proof.why is {value.get('why')!r:.60}, which it cannot be")
    return Proof(logits=value["logits"], metrics={s: tuple(n) for s, n in metrics.items()}, why=value.get("why"))


def is_proved(document: Document, split: str, metric: str) -> bool:
    """Whether this number was found again."""
    return document.proof is not None and metric in document.proof.metrics.get(split, ())


def proof_lines(document: Document) -> list[str]:
    """What the card says below its table of metrics: of every number whether it is proved."""
    if not document.metrics:
        return []
    why = (document.proof.why if document.proof is not None else None) or NOT_NOW
    lines = []
    for split, metrics in document.metrics.items():
        missing = [name for name in metrics if not is_proved(document, split, name)]
        if not missing:
            lines.append(f"- {split}: proved. A fresh process loaded these files, measured again and found the same.")
        elif len(missing) == len(metrics):
            lines.append(f"- {split}: not proved ({why}).")
        else:
            lines.append(f"- {split}: proved, but for {', '.join(missing)} ({why}).")
    return [*lines, ""]


def differing(recorded: Mapping[str, float], found: Mapping[str, float], samples: int) -> list[str]:
    """Names of the metrics that were not found again, within the tolerance."""
    return [name for name, value in recorded.items() if name in found and not _close(value, found[name], samples)]


def _close(recorded: float, found: float, samples: int) -> bool:
    room = max(TOLERANCE * max(1.0, abs(recorded)), SAMPLES / max(1, samples))
    return abs(recorded - found) <= room  # a NaN is never close
