"""``class-balanced`` and ``weighted``: how often a sample is drawn, and where the weights come from."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_zoo
import torch
from tiny_runs import make_run, phase, train_here
from zoo_registry import Column, DataError, Registry, Strategy, UsageError
from zoo_registry.options import parse_options

from zoo.data import open_data

REGISTRY = Registry()
LABEL = Column(name="label", classes=("cat", "dog", "owl"))
TAGS = Column(name="tags", kind="multilabel", classes=("x", "y"))
SIZE = Column(name="size", kind="regression")
CASES = {
    "label": torch.tensor([0, 0, 0, 0, 1, 1, -1, 2]),
    "tags": torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0], [0, 0], [1, 0], [torch.nan] * 2, [0, torch.nan]]),
    "size": torch.arange(8).float(),
}


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


def fake_run(*columns: Column, weights=None) -> SimpleNamespace:
    """What the strategies of role sampling read of a run."""
    counts = {"label": torch.tensor([4, 2, 1]), "tags": torch.tensor([4, 1])}
    targets = {column.name: CASES[column.name] for column in columns}
    return SimpleNamespace(columns=columns, weights=weights, targets=targets, class_counts=counts)


def weights_of(name: str, *columns: Column, given=None, **options) -> list[float]:
    """The weights of the eight samples."""
    _, strategy = part(name, **options)
    run = fake_run(*columns, weights=given)
    strategy.prepare(None, run)
    assert all(isinstance(line, str) for line in strategy.explain(None, run))
    found = strategy.sample_weights(run.targets, run)
    assert found.shape == (8,)
    return found.tolist()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_class_balanced_weighs_by_the_size_of_the_class(power):
    found = weights_of("class-balanced", LABEL, power=power)
    sizes = np.array([4, 4, 4, 4, 2, 2, np.nan, 1.0])
    wanted = sizes**-power
    wanted[6] = np.nanmean(wanted)
    np.testing.assert_allclose(found, wanted)


def test_class_balanced_by_the_effective_number_of_samples():
    found, beta = weights_of("class-balanced", LABEL, beta=0.9), 0.9
    effective = {n: sum(beta**k for k in range(n)) for n in (1, 2, 4)}  # 1 + beta + ... + beta^(n - 1)
    wanted = [1 / effective[n] for n in (4, 4, 4, 4, 2, 2)]
    np.testing.assert_allclose([*found[:6], found[7]], [*wanted, 1.0])
    np.testing.assert_allclose(weights_of("class-balanced", LABEL, beta=0.0)[:6], np.ones(6))  # every class is one


def test_a_multilabel_sample_counts_by_its_rarest_label():
    found = weights_of("class-balanced", TAGS)
    wanted = np.array([1 / 4, 1 / 4, 1, 1 / 3, 1 / 3, 1 / 4, np.nan, 1 / 3])  # three samples have no label
    wanted[6] = np.nanmean(wanted)
    np.testing.assert_allclose(found, wanted)


def test_soft_labels_count_by_their_shares():
    _, strategy = part("class-balanced")
    run = fake_run(LABEL)
    soft = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [torch.nan] * 3, [0, 0, 1.0]])
    strategy.prepare(None, run)
    np.testing.assert_allclose(
        strategy.sample_weights({"label": soft}, run), [1 / 1.5, 0.5 / 1.5 + 0.5 / 0.5, (1 / 1.5 + 4 / 3 + 1) / 3, 1.0]
    )


def test_the_column_is_the_first_with_classes_or_the_one_named():
    both = weights_of("class-balanced", SIZE, TAGS, LABEL)
    assert both == weights_of("class-balanced", LABEL)
    assert weights_of("class-balanced", LABEL, TAGS, column="tags") == weights_of("class-balanced", TAGS)
    with pytest.raises(UsageError, match="no column 'lable' with classes") as caught:
        weights_of("class-balanced", LABEL, TAGS, column="lable")
    assert "label" in caught.value.hint
    with pytest.raises(UsageError, match="no column 'size'"):
        weights_of("class-balanced", LABEL, SIZE, column="size")
    with pytest.raises(UsageError, match="no column of the data has any"):
        weights_of("class-balanced", SIZE)


def test_classes_come_equally_often_in_the_loop():
    drawn = []

    class Watch(Strategy):
        role = "penalty"
        touches = frozenset()

        def penalty(self, model, batches, run):
            drawn.extend(batches["train"].targets["label"].tolist())
            return {}

    data = tiny_zoo.drawn_splits(60)
    data["train"].targets = [0] * 48 + [1] * 9 + [2] * 3
    train_here(make_run([phase(part("class-balanced"), part("linear"), Watch(), epochs=20, augment="none")], data))
    assert len(drawn) == 60 * 20
    shares = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(shares, [1 / 3] * 3, atol=0.04)


# ------------------------------------------------------------------ weighted


def test_weighted_by_class_and_by_sample():
    assert weights_of("weighted", LABEL, classes="dog=0.5, owl=3") == [1, 1, 1, 1, 0.5, 0.5, 8 / 7, 3]
    own = torch.arange(8).double()
    assert weights_of("weighted", LABEL, given=own) == own.tolist()
    found = weights_of("weighted", LABEL, given=own, classes="cat=0")
    np.testing.assert_allclose(found, [0, 0, 0, 0, 4, 5, 6 * 3 / 7, 7])
    assert weights_of("weighted", TAGS, classes=("x=2", "y=5"))[:6] == [2, 2, 5, 1, 1, 2]


@pytest.mark.parametrize(
    ("options", "error", "message", "hint"),
    [
        ({}, UsageError, "'weighted' has no weights", "data.weight_column"),
        ({"classes": "dgo=2"}, UsageError, "column 'label' has no class 'dgo'", "dog"),
        ({"classes": "cat=0,dog=0,owl=0"}, DataError, "every training sample has the weight 0", ""),
        ({"classes": "cat"}, UsageError, "'cat' is not NAME=WEIGHT", ""),
        ({"classes": "cat=-1"}, UsageError, "'cat=-1' is not NAME=WEIGHT", ""),
        ({"classes": "cat=inf"}, UsageError, "'cat=inf' is not NAME=WEIGHT", ""),
        ({"classes": "cat=1,cat=2"}, UsageError, "names 'cat' twice", ""),
    ],
)
def test_wrong_weights_are_one_clear_line(options, error, message, hint):
    with pytest.raises(error, match=message) as caught:
        weights_of("weighted", LABEL, **options)
    assert hint in (caught.value.hint or "")


def write_table(folder, weights, name="table.csv"):
    """A table of nine images with a column of weights."""
    root = tiny_zoo.write_images(folder, 9)
    files = sorted(p.relative_to(root).as_posix() for p in (root / "train").rglob("*.png"))
    with open(root / name, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "trust"])
        writer.writerows((f, f.split("/")[1], w) for f, w in zip(files, weights, strict=True))
    return root / name


def test_a_table_brings_weights(tmp_path):
    path = write_table(tmp_path, [1, 2, 3, 0, 0.5, 4, 1e-3, 7, 8])
    data = open_data(path, weight_column="trust", val_fraction=0.34)
    assert [c.name for c in data.columns] == ["label"]  # the weights are no target
    by_id = dict(zip(data.split("train").ids, data.split("train").weights, strict=True))
    assert len(by_id) < 9
    listed = {row["image"]: float(row["trust"]) for row in csv.DictReader(open(path))}
    assert by_id == {name: listed[name] for name in by_id}
    assert data.split("train").subset([1]).weights.tolist() == [data.split("train").weights[1]]
    plain = open_data(path, label_columns=("label",), val_fraction=0.34)
    assert plain.split("train").weights is None
    assert plain.fingerprint == data.fingerprint  # so that an evaluation knows the data again


@pytest.mark.parametrize(("cell", "said"), [("", "nothing"), ("much", "'much'"), ("-1", "'-1'"), ("nan", "'nan'")])
def test_a_cell_that_is_no_weight_is_named(cell, said, tmp_path):
    path = write_table(tmp_path, [1, 1, cell, 1, 1, 1, 1, 1, 1])
    with pytest.raises(DataError, match=rf"table.csv, line 4: {said} in column 'trust' is no weight"):
        open_data(path, weight_column="trust")


def test_a_weight_column_that_is_not_there(tmp_path):
    path = write_table(tmp_path, [1] * 9)
    with pytest.raises(UsageError, match="no weight column 'truth'") as caught:
        open_data(path, weight_column="truth")
    assert "trust" in caught.value.hint
    with pytest.raises(UsageError, match=r"data.weight_column belongs to a table"):
        open_data(tmp_path, weight_column="trust")
    with pytest.raises(UsageError, match="a torch dataset has no weight column"):
        open_data(tiny_zoo.drawn_splits(), weight_column="trust")


def test_samples_of_weight_zero_are_never_drawn(tmp_path):
    ids = []

    class Watch(Strategy):
        role = "penalty"
        touches = frozenset()

        def penalty(self, model, batches, run):
            ids.extend(batches["train"].ids)
            return {}

    path = write_table(tmp_path, [0, 1, 0, 3, 0, 1, 0, 3, 0])
    data = open_data(path, weight_column="trust", val_fraction=0.34)
    run = make_run([phase(part("weighted"), part("linear"), Watch(), epochs=30, augment="none")], data, batch_size=4)
    train_here(run)
    counts = np.bincount(ids, minlength=len(run.train))
    assert torch.equal(run.weights, torch.from_numpy(data.split("train").weights))
    wanted = run.weights.numpy() / float(run.weights.sum())
    assert (counts[wanted == 0] == 0).all()
    np.testing.assert_allclose(counts / counts.sum(), wanted, atol=0.1)
