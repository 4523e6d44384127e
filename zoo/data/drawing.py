"""Drawing a validation split, or a few labels a class: by seed and sample id alone.

Each sample has a rank, a hash of (seed, purpose, id); the lowest ranks of each class are drawn. So the draw does not
depend on the order in which files are found, and adding a sample changes it little.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence

from zoo_registry.errors import DataError

from zoo.data.names import nfc
from zoo.keys import key


def strata(indices: Iterable[int], group: Callable[[int], Hashable]) -> dict[Hashable, Sequence[int]]:
    """The indices by group."""
    found: dict[Hashable, array[int]] = {}
    for index in indices:
        found.setdefault(group(index), array("q")).append(index)
    return dict(found)


def ranked(indices: Iterable[int], ids: Sequence[str], seed: int, purpose: str) -> list[int]:
    """The indices in the random order of (seed, purpose)."""
    return sorted(indices, key=lambda i: (key(seed, purpose, nfc(ids[i])), ids[i]))


def draw_share(
    groups: Iterable[Sequence[int]], ids: Sequence[str], share: float, seed: int, purpose: str = "val"
) -> set[int]:
    """About ``share`` of each group (rounded half up), never all of a group.

    Where every group is too small to give one, each group of two or more gives one.

    Raises:
        DataError: every group has one sample.
    """
    drawn: set[int] = set()
    firsts: set[int] = set()
    for group in groups:
        rows = ranked(group, ids, seed, purpose)
        drawn.update(rows[: min(len(rows) - 1, int(share * len(rows) + 0.5))])
        firsts.update(rows[: len(rows) > 1])
    drawn = drawn or firsts
    if not drawn:
        raise DataError(
            "no validation samples can be drawn, every class has a single one", hint="add samples, or a val split"
        )
    return drawn


def draw_count(
    groups: Iterable[Sequence[int]], ids: Sequence[str], count: int, seed: int, purpose: str = "labels"
) -> set[int]:
    """``count`` of each group, or the whole group where it is smaller."""
    return {i for g in groups for i in ranked(g, ids, seed, purpose)[:count]}
