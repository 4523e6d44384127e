"""Class folders: layouts, splits, one label map, links, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata

import pytest
from data_images import folder, save
from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError

from zoo.data import open_data, open_files


def ids(dataset):
    return {name: list(split.ids) for name, split in dataset.splits.items()}


def test_classes_in_natural_order_and_a_drawn_validation_split(tmp_path):
    data = open_data(folder(tmp_path / "pets", {"class 10": 5, "class 2": 10, "Zebra": 2}))
    (column,) = data.columns
    assert column == Column(name="label", kind="classification", classes=("Zebra", "class 2", "class 10"))
    train, val = data.splits["train"], data.splits["val"]
    assert val.class_counts("label") == {"Zebra": 0, "class 2": 2, "class 10": 1}
    assert train.class_counts("label") == {"Zebra": 2, "class 2": 8, "class 10": 4}
    assert set(train.ids).isdisjoint(val.ids)
    assert len(train) + len(val) == 17
    names = [column.classes[t] for t in train.targets["label"].tolist()]
    assert names == [i.split("/")[0] for i in train.ids]
    assert train.read(0).shape == (12, 16, 3)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_given_splits_under_any_of_their_names(tmp_path, val):
    data = open_data(
        folder(tmp_path, {"train/a": 3, "train/b": 2, f"{val}/a": 1, f"{val}/b": 1, "test/a": 1, "test/b": 2})
    )
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 5, "val": 2, "test": 3}
    assert data.evaluation.name == "test"
    assert open_data(tmp_path, split="val").splits["val"].ids == data.splits["val"].ids
    assert list(open_data(tmp_path, split="all").splits) == ["all"]
    assert len(open_data(tmp_path, split="all").splits["all"]) == 10


def test_a_test_split_without_validation_draws_it_from_train(tmp_path):
    data = open_data(folder(tmp_path, {"train/a": 5, "train/b": 5, "test/a": 1, "test/b": 1}))
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert all(i.startswith("train/") for i in data.splits["val"].ids)


def test_a_class_called_train_is_a_class(tmp_path):
    data = open_data(folder(tmp_path, {"car": 5, "train": 5, "bus": 5}))
    assert data.columns[0].classes == ("bus", "car", "train")


def test_nested_folders_belong_to_the_first_level(tmp_path):
    data = open_data(folder(tmp_path, {"a/cat": 3, "b/cat": 3, "b/dog/old": 2}))
    assert data.columns[0].classes == ("a", "b")
    assert data.splits["train"].class_counts("label") == {"a": 2, "b": 4}


def test_the_draw_depends_on_seed_and_names_alone(tmp_path):
    counts = {"a": 20, "b": 30}
    one = open_data(folder(tmp_path / "one", counts))
    two = tmp_path / "two"
    for name in sorted((str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*.png")), reverse=True):
        (two / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "one" / name, two / name)
    again = open_data(two)
    assert ids(one) == ids(again)
    assert one.fingerprint == again.fingerprint
    assert one.splits["train"].fingerprint == again.splits["train"].fingerprint
    other = open_data(two, seed=1)
    assert ids(other) != ids(one)
    assert other.fingerprint == one.fingerprint
    save(two / "a" / "new.png")
    assert open_data(two).fingerprint != one.fingerprint


def test_labels_per_class(tmp_path):
    data = open_data(folder(tmp_path, {"a": 20, "b": 3}), labels_per_class=4)
    assert data.splits["train"].class_counts("label") == {"a": 4, "b": 2}
    assert open_data(tmp_path).splits["val"].ids == data.splits["val"].ids


def test_description_is_json_and_names_no_path(tmp_path):
    data = open_data(folder(tmp_path / "secret-user" / "pets", {"a": 5, "b": 5}))
    text = json.dumps(data.description)
    assert "secret-user" not in text
    assert data.description["samples"] == {"train": 8, "val": 2}
    assert data.description["val_seed"] == 0


def test_other_files_are_counted_by_suffix(tmp_path, caplog):
    root = folder(tmp_path, {"a": 5, "b": 5})
    for name in ("a/x.heic", "a/y.HEIC", "b/notes.txt", "b/.DS_Store", "top.md", "a/plain"):
        (root / name).write_text("x")
    save(root / "stray.png")
    data = open_data(root)
    assert data.ignored == {
        ".heic": 2,
        ".md": 1,
        ".txt": 1,
        "hidden": 1,
        "image outside of class folders": 1,
        "no suffix": 1,
    }
    assert "2 .heic" in caplog.text
    assert "hidden" not in data.notes[0]


def test_unbalanced_classes_are_a_note(tmp_path):
    root = folder(tmp_path, {"common": 50, "rare": 2})
    (note,) = open_data(root).notes
    assert "40 samples of 'common', 2 of 'rare'" in note
    assert not open_data(root, labels_per_class=5).notes


def test_links_are_followed_inside_and_counted_outside(tmp_path):
    root = folder(tmp_path / "data", {"a": 5, "b": 5})
    outside = folder(tmp_path / "outside", {"more": 2})
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "other").symlink_to(root / "b")  # and b leads back to a
    (root / "b" / "other").symlink_to(root / "a")
    (root / "a" / "out").symlink_to(outside)
    (root / "a" / "gone.png").symlink_to(root / "none.png")
    (root / "b" / "again.png").symlink_to(root / "a" / "0.png")
    data = open_data(root, split="all", check_leaks=False)
    assert data.ignored["link out of the folder"] >= 1
    assert data.ignored["broken link"] >= 1
    assert data.ignored["link in a circle"] >= 2
    assert "b/again.png" in data.splits["all"].ids
    assert "a/out/more/0.png" not in data.splits["all"].ids
    assert "a/out/more/0.png" in open_data(root, split="all", follow_links=True).splits["all"].ids


def test_only_links_to_outside_says_so(tmp_path):
    outside = folder(tmp_path / "outside", {"a": 2, "b": 2})
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / name).symlink_to(outside / name)
    with pytest.raises(DataError, match="2 links that lead out") as caught:
        open_data(tmp_path / "data")
    assert "follow_links" in caught.value.hint
    assert len(open_data(tmp_path / "data", follow_links=True).splits["train"]) == 2


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"only": 3}, "only one class: 'only' with 3 samples"),
        ({"a": 3, "b": 3, "empty": 0}, "'empty' has no sample"),
        ({"Cat": 3, "cat": 3}, "differ only by case"),
        ({unicodedata.normalize("NFC", "caf\u00e9"): 3, unicodedata.normalize("NFD", "caf\u00e9"): 3}, "Unicode"),
        ({"train/a": 3, "train/b": 3, "val/a": 1}, "val has no class 'b'"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1, "val/c": 1}, "val has the class 'c'"),
        ({"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1, "test/c": 0}, "test has the class 'c'"),
        ({"val/a": 3, "val/b": 3}, "no train split"),
        ({"val/a": 3, "valid/a": 3, "train/a": 1}, "are all val splits"),
        ({"a": 1, "b": 1}, "single one"),
        ({}, "has no images"),
    ],
)
def test_refused_folders(tmp_path, counts, message):
    folder(tmp_path, counts)
    with pytest.raises(DataError, match=message) as caught:
        open_data(tmp_path)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_an_empty_validation_folder_leaves_a_class_out(tmp_path):
    data = open_data(folder(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 0}))
    assert data.splits["val"].class_counts("label") == {"a": 1, "b": 0}


def test_images_without_class_folders(tmp_path):
    save(tmp_path / "x.png")
    (tmp_path / "labels.csv").write_text("image,label\n")
    with pytest.raises(DataError, match="1 images directly in it") as caught:
        open_data(tmp_path)
    assert "labels.csv" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "options", "hint"),
    [
        ("pts", {}, "did you mean 'pets'"),
        ("file.bin", {}, "folder or .csv"),
        ("pets.csv", {"label_columns": ["x"]}, "did you mean 'pets'"),
        ("digits:", {"image_column": "x"}, "leave it out"),
        ("digits:", {"task": "regression"}, "table"),
        ("bad\0name", {}, "give a folder"),
        ("nowhere:thing", {}, "digits:"),
        ("digit:", {}, "did you mean 'digits'"),
        ("digits:?labels=x", {}, "digits:?labels=5"),
        ("digits:?lables=5", {}, "'labels'"),
        ("pets", {"label_columns": ["x"]}, "leave it out"),
        ("pets", {"task": "regression"}, "table"),
        ("pets", {"val_fraction": 1.5}, "between 0 and 1"),
        ("pets", {"split": "tset"}, "test"),
        ("pets", {"split": "test"}, "all"),
        ("pets", {"labels_per_class": 0}, "1 or more"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, data, options, hint):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "pets", {"a": 5, "b": 5})
    (tmp_path / "file.bin").write_text("x")
    with pytest.raises(UsageError) as caught:
        open_data(data, **options)
    assert caught.value.exit_code == 2
    assert hint in caught.value.hint


def test_no_permission(tmp_path, monkeypatch):
    folder(tmp_path, {"a": 2, "b": 2})
    scandir = os.scandir

    def refuse(path):  # root may read everything, so the mode of the folder would not do
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="'b' cannot be read"):
        open_data(tmp_path)


def test_a_trained_model_holds_data_to_its_label_map(tmp_path):
    model = (Column(name="label", classes=("a", "b", "c")),)
    data = open_data(folder(tmp_path / "fine", {"a": 2, "b": 2, "c": 2}), labels=model, split="all")
    assert data.columns == model
    with pytest.raises(DataError, match="no class 'b', 'c' of column 'label', which the model has"):
        open_data(folder(tmp_path / "less", {"a": 2}), labels=model, split="all")
    with pytest.raises(DataError, match="class 'd' of column 'label', unknown to the model"):
        open_data(folder(tmp_path / "more", {"a": 2, "b": 2, "c": 2, "d": 1}), labels=model, split="all")
    only_test = open_data(folder(tmp_path / "test-only", {"test/a": 1, "test/b": 1, "test/c": 1}), labels=model)
    assert list(only_test.splits) == ["test"]


def test_new_data_without_splits_is_evaluated_whole(tmp_path):
    seen = open_data(folder(tmp_path / "seen", {"a": 10, "b": 10}))
    options = {"labels": seen.columns, "trained_on": seen.fingerprint}
    assert open_data(tmp_path / "seen", **options).evaluation.ids == seen.splits["val"].ids
    new = open_data(folder(tmp_path / "new", {"a": 4, "b": 5}), **options)
    assert list(new.splits) == ["all"]
    assert len(new.evaluation) == 9
    assert new.description["samples"] == {"all": 9}
    split = open_data(folder(tmp_path / "split", {"train/a": 5, "train/b": 5, "val/a": 1, "val/b": 1}), **options)
    assert len(split.evaluation) == 2


def test_equal_files_in_train_and_val_are_a_warning(tmp_path, caplog):
    root = folder(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    shutil.copy(root / "train/a/1.png", root / "val/b/copy.png")
    data = open_data(root)
    assert "1 of 5 val samples are in train too: 'val/b/copy.png = train/a/1.png'" in caplog.text
    assert any("in train too" in note for note in data.notes)
    assert not open_data(root, check_leaks=False).notes


def test_names_and_labels_cost_no_torch(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    code = (
        "import sys; from zoo.data import open_data\n"
        f"d = open_data({str(tmp_path)!r}); d.splits['train'].class_counts('label'); d.splits['train'].fingerprint\n"
        "try: open_data('/nowhere/at/all')\n"
        "except Exception as e: assert e.exit_code == 2\n"
        "sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loose_files_in_natural_order(tmp_path):
    root = folder(tmp_path / "data", {"a": 11})
    single = save(tmp_path / "one.png")
    odd = tmp_path / "picture.dat"
    odd.write_bytes(single.read_bytes())
    (root / "a" / "notes.txt").write_text("x")
    files = open_files([single, root, odd, single])
    assert len(files) == 13
    assert files.ids[0] == str(single)
    assert files.ids[2].endswith("a/1.png")
    assert files.ids[11].endswith("a/10.png")
    assert files.read(12).shape == (12, 16, 3)
    assert files.targets == {}
    with pytest.raises(UsageError, match="no file or folder") as caught:
        open_files([tmp_path / "on.png"])
    assert "one.png" in caught.value.hint
    with pytest.raises(DataError, match="no images"):
        open_files([])
