"""Properties of drawn splits and of natural order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_registry.errors import DataError

from zoo.data.drawing import draw_count, draw_share, strata
from zoo.data.names import natural_key, natural_sorted, refuse_twins, split_name

groups = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def samples(counts):
    labels = [g for g, n in enumerate(counts) for _ in range(n)]
    return labels, [f"{g}/{i}.jpg" for i, g in enumerate(labels)]


@settings(deadline=None)
@given(groups.filter(lambda c: max(c) > 1), st.floats(0.01, 0.99), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_drawn_share_is_stratified_deterministic_and_free_of_order(counts, share, seed, shuffler):
    labels, ids = samples(counts)
    drawn = draw_share(strata(range(len(ids)), labels.__getitem__).values(), ids, share, seed)
    assert drawn
    for group, count in enumerate(counts):
        mine = sum(labels[i] == group for i in drawn)
        assert mine < count or count == 0
        assert mine <= share * count + 0.5 or mine == 1
    order = list(range(len(ids)))
    shuffler.shuffle(order)
    shuffled = [ids[i] for i in order]
    again = draw_share(strata(range(len(ids)), lambda i: labels[order[i]]).values(), shuffled, share, seed)
    assert {shuffled[i] for i in again} == {ids[i] for i in drawn}


@settings(deadline=None)
@given(groups, st.integers(1, 10), st.integers(0, 3))
def test_a_drawn_count_is_nested(counts, count, seed):
    labels, ids = samples(counts)
    rows = strata(range(len(ids)), labels.__getitem__).values()
    few, more = draw_count(rows, ids, count, seed), draw_count(rows, ids, count + 1, seed)
    assert few <= more
    assert [sum(labels[i] == g for i in few) for g in range(len(counts))] == [min(count, c) for c in counts]


def test_shares_follow_the_fraction_and_seeds_differ():
    labels, ids = samples([100, 50])
    rows = list(strata(range(150), labels.__getitem__).values())
    drawn = draw_share(rows, ids, 0.2, 0)
    assert [sum(labels[i] == g for i in drawn) for g in (0, 1)] == [20, 10]
    assert drawn != draw_share(rows, ids, 0.2, 1)
    assert not draw_share(rows, ids, 0.2, 0, "other") == drawn
    with pytest.raises(DataError, match="single one"):
        draw_share([[0], [1]], ids, 0.2, 0)


def test_one_more_sample_changes_a_draw_little():
    _, ids = samples([100])
    before = {ids[i] for i in draw_share([list(range(100))], ids, 0.2, 0)}
    ids.append("0/new.jpg")
    after = {ids[i] for i in draw_share([list(range(101))], ids, 0.2, 0)}
    assert len(before ^ after) <= 2


@given(st.lists(st.text(max_size=8), max_size=12))
def test_natural_order_is_total(names):
    shuffled = list(names)
    random.Random(0).shuffle(shuffled)
    assert natural_sorted(names) == natural_sorted(shuffled)
    assert len({natural_key(n) for n in names}) == len(set(names))


def test_natural_order():
    assert natural_sorted(["10", "9", "class 10", "class 2", "01", "1", "b", "a10b2", "a2", "", "a"]) == [
        "", "01", "1", "9", "10", "a", "a2", "a10b2", "b", "class 2", "class 10",
    ]  # fmt: skip


def test_twins():
    refuse_twins(["cat", "dog", "cat", "cats"])
    for twins in (["Cat", "cat"], ["stra\u00dfe", "STRASSE"], ["\u00e9", "e\u0301"]):
        with pytest.raises(DataError, match="differ only"):
            refuse_twins(twins)


def test_split_names():
    assert [split_name(n) for n in ("Train", " valid ", "DEV", "testing", "extra", "")] == [
        "train",
        "val",
        "val",
        "test",
        None,
        None,
    ]
