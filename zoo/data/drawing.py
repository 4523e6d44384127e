"""Drawing a validation split, or a few labels a class: by seed and sample id alone.

Each sample has a rank, a hash of (seed, purpose, id); the lowest ranks of each class are drawn. So the draw does not
depend on the order in which files are found, and adding a sample changes it little.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from zoo_registry.errors import DataError

from zoo.data.names import nfc
from zoo.keys import key


def strata(indices: Iterable[int], group: Callable[[int], Hashable]) -> dict[Hashable, list[int]]:
    """The indices by group."""
    found: dict[Hashable, list[int]] = {}
    for index in indices:
        found.setdefault(group(index), []).append(index)
    return found


def ranked(indices: Iterable[int], ids: Sequence[str], seed: int, purpose: str) -> list[int]:
    """The indices in the random order of (seed, purpose)."""
    return sorted(indices, key=lambda i: (key(seed, purpose, nfc(ids[i])), ids[i]))


def draw_share(
    groups: Iterable[list[int]], ids: Sequence[str], share: float, seed: int, purpose: str = "val"
) -> set[int]:
    """About ``share`` of each group (rounded half up), never all of a group.

    Where every group is too small to give one, each group of two or more gives one.

    Raises:
        DataError: every group has one sample.
    """
    rows = [ranked(g, ids, seed, purpose) for g in groups]
    drawn = {i for r in rows for i in r[: min(len(r) - 1, int(share * len(r) + 0.5))]}
    if not drawn:
        drawn = {r[0] for r in rows if len(r) > 1}
    if not drawn:
        raise DataError(
            "no validation samples can be drawn, every class has a single one", hint="add samples, or a val split"
        )
    return drawn


def draw_count(
    groups: Iterable[list[int]], ids: Sequence[str], count: int, seed: int, purpose: str = "labels"
) -> set[int]:
    """``count`` of each group, or the whole group where it is smaller."""
    return {i for g in groups for i in ranked(g, ids, seed, purpose)[:count]}
