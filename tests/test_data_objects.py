"""Python objects as data: torch datasets, Hugging Face datasets by their shape, and the digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_images import folder, photo
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset
from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError
from zoo_registry.inputs import ImageInput

from zoo.data import BadSample, open_data
from zoo.data.loader import ViewLoader, in_order
from zoo.data.transforms import image_views


class Pairs:
    """A map-style dataset of (image, label) that counts how often an item is made."""

    def __init__(self, labels, **attributes):
        self.labels = labels
        self.made = 0
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.made += 1
        return Image.fromarray(photo(12, 16, index)), self.labels[index]


def test_torch_dataset_of_indices():
    data = open_data(Pairs([0, 1, 10, 2] * 5))
    assert data.columns[0].classes == ("0", "1", "2", "10")
    train = data.splits["train"]
    assert np.array_equal(train.read(0), photo(12, 16, int(train.ids[0])))
    assert len(train) == 16
    assert data.description["form"] == "torch"


def test_class_names_and_targets_are_used_without_making_items():
    pairs = Pairs([0, 1] * 5, classes=["zebra", "ant"], targets=[0, 1] * 5)
    data = open_data(pairs, split="all")
    assert pairs.made == 0
    assert data.columns[0].classes == ("ant", "zebra")
    assert data.splits["all"].targets["label"].tolist() == [1, 0] * 5
    subset = open_data(Subset(pairs, [1, 3, 4]), split="all")
    assert pairs.made == 0
    assert subset.splits["all"].class_counts("label") == {"ant": 2, "zebra": 1}


def test_torchvision_image_folder(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    root = folder(tmp_path, {"b": 4, "a": 4})
    theirs = open_data(torchvision.datasets.ImageFolder(str(root)), split="all")
    ours = open_data(root, split="all")
    assert theirs.columns == ours.columns
    assert theirs.splits["all"].targets["label"].tolist() == ours.splits["all"].targets["label"].tolist()
    assert np.array_equal(theirs.splits["all"].read(5), ours.splits["all"].read(5))


def test_splits_in_a_mapping():
    data = open_data({"train": Pairs([0, 1] * 4), "validation": Pairs([0, 1]), "test": Pairs([1, 0])})
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 8, "val": 2, "test": 2}
    with pytest.raises(DataError, match="test has the class '2'"):
        open_data({"train": Pairs([0, 1] * 4), "test": Pairs([2, 0])})


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        (torch.tensor([0, 1, -1, 1]), "classification", [0, 1, -1, 1]),
        (["b", None, "a", "a"], "classification", [1, -1, 0, 0]),
        ([0.5, float("nan"), 2.0, 3.0], "regression", [0.5, None, 2.0, 3.0]),
        (torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0]]), "multilabel", [[0, 1], [1, 1], [0, 0], [1, 0]]),
    ],
)
def test_labels_of_any_type(labels, kind, expected):
    data = open_data(Pairs(labels), split="all")
    assert data.columns[0].kind == kind
    got = data.splits["all"].targets["label"].tolist()
    assert [None if g != g else g for g in got] == expected


def test_float_tensors_in_range_are_taken_and_normalised_ones_are_bad():
    images = torch.rand(6, 3, 8, 8)
    data = open_data(TensorDataset(images, torch.tensor([0, 1] * 3)), split="all")
    assert np.abs(data.splits["all"].read(2) / 255 - images[2].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    normalised = open_data(TensorDataset(images * 4 - 2, torch.tensor([0, 1] * 3)), split="all")
    with pytest.raises(BadSample, match="0 to 1"):
        normalised.splits["all"].read(0)


def test_an_item_that_raises_is_a_bad_sample():
    class Broken(Pairs):
        def __getitem__(self, index):
            if index == 2:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    split = open_data(Broken([0, 1] * 3, targets=[0, 1] * 3), split="all").splits["all"]
    (batch,) = ViewLoader(split, {"eval": image_views(ImageInput(size=(8, 8)))["eval"]}).batches(in_order(6, 6))
    assert batch.ids == [0, 1, 3, 4, 5]
    assert batch.bad[0].reason == "disk on fire"


def test_objects_that_are_no_data():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    for wrong in (Stream(), [1, 2], 7, None, {}, {"extra": Pairs([0, 1])}):
        with pytest.raises(UsageError):
            open_data(wrong)
    with pytest.raises(DataError, match="item 0"):
        open_data(TensorDataset(torch.zeros(3, 3, 4, 4)))
    with pytest.raises(DataError, match="only one class"):
        open_data(Pairs([1, 1, 1]))


class ClassLabel:
    def __init__(self, names):
        self.names = names


class Value:
    pass


class Sequence:
    def __init__(self, feature):
        self.feature = feature


Image_ = type("Image", (), {})


class Table:
    """What the zoo uses of a Hugging Face dataset."""

    def __init__(self, features, **columns):
        self.features = features
        self.columns = columns
        self.column_names = list(columns)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        return self.columns[key] if isinstance(key, str) else {n: v[key] for n, v in self.columns.items()}


def pictures(count):
    return [Image.fromarray(photo(12, 16, i)) for i in range(count)]


def test_hugging_face_dataset():
    features = {"img": Image_(), "fine": ClassLabel(["ant", "zebra", "bee"]), "note": Value()}
    make = lambda labels: Table(features, img=pictures(len(labels)), fine=labels, note=["x"] * len(labels))  # noqa: E731
    data = open_data({"train": make([1, 0, 1, 0, -1]), "test": make([0, 1])})
    assert data.columns == (Column(name="fine", classes=("ant", "bee", "zebra")),)
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 3, "val": 2, "test": 2}
    assert data.splits["test"].targets["fine"].tolist() == [0, 2]
    assert np.array_equal(data.splits["test"].read(1), photo(12, 16, 1))
    with pytest.raises(UsageError, match="no column 'fien'"):
        open_data(make([0, 1]), label_columns=["fien"])


def test_hugging_face_multilabel_and_regression():
    features = {"image": Image_(), "tags": Sequence(ClassLabel(["x", "y"])), "size": Value()}
    table = Table(features, image=pictures(4), tags=[[0], [0, 1], [], [1]], size=[0.5, 1.5, None, 2.0])
    data = open_data(table, label_columns=["tags", "size"], split="all")
    assert [(c.name, c.kind) for c in data.columns] == [("tags", "multilabel"), ("size", "regression")]
    assert data.splits["all"].targets["tags"].tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    with pytest.raises(UsageError, match="label columns"):
        open_data(table)


def test_digits():
    data = open_data("digits:")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 989, "val": 269, "test": 539}
    assert data.columns[0].classes == tuple("0123456789")
    assert data.suggested_augment == "light"
    assert len({i for s in data.splits.values() for i in s.ids}) == 1797
    pixels = data.splits["train"].read(0)
    assert pixels.shape == (8, 8, 3)
    assert max(data.splits["train"].read(i).max() for i in range(20)) == 255
    for split in data.splits.values():
        counts = split.class_counts("label").values()
        assert max(counts) - min(counts) <= 6


def test_digits_with_few_labels():
    few = open_data("digits:?labels=5&seed=3")
    assert set(few.splits["train"].class_counts("label").values()) == {5}
    whole = open_data("digits:")
    assert few.splits["test"].ids == whole.splits["test"].ids
    assert few.splits["val"].ids == whole.splits["val"].ids
    assert set(few.splits["train"].ids) < set(whole.splits["train"].ids)
    assert few.splits["train"].ids == open_data("digits:?labels=5", seed=3).splits["train"].ids
    assert few.splits["train"].ids != open_data("digits:?labels=5&seed=4").splits["train"].ids
    assert set(few.splits["train"].ids) < set(open_data("digits:?labels=6&seed=3").splits["train"].ids)


def test_a_subset_of_a_split():
    train = open_data("digits:?labels=5").splits["train"]
    part = train.subset([4, 2])
    assert part.ids == [train.ids[4], train.ids[2]]
    assert part.targets["label"].tolist() == train.targets["label"][[4, 2]].tolist()
    assert np.array_equal(part.read(1), train.read(2))
    assert train[4].targets["label"] == part.targets["label"][0]
    with pytest.raises(UsageError, match="no split 'trian'"):
        open_data("digits:").split("trian")


def test_a_column_of_weights_of_a_huggingface_dataset():
    features = {"image": Image_(), "label": ClassLabel(["x", "y"]), "trust": Value()}
    table = Table(features, image=pictures(4), label=[0, 1, 0, 1], trust=[0.5, 2, 0, 1])
    data = open_data({"train": table, "val": table}, weight_column="trust")
    assert data.split("train").weights.tolist() == [0.5, 2, 0, 1]
    with pytest.raises(UsageError, match="no weight column 'trus'"):
        open_data(table, weight_column="trus")
    table = Table(features, image=pictures(4), label=[0, 1, 0, 1], trust=[0.5, None, 0, 1])
    with pytest.raises(DataError, match="item 1: nothing in column 'trust' is no weight"):
        open_data(table, weight_column="trust")
