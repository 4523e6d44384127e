"""Tables: columns found or named, kinds of targets, encodings, and errors that name line and value."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from data_images import photo, save
from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError

from zoo.data import open_data
from zoo.data.kinds import interpret


@pytest.fixture
def table(tmp_path):
    """Writes a table beside ten images and opens it."""
    for i in range(10):
        save(tmp_path / "images" / f"{i}.png", seed=i)

    def open_table(text, name="data.csv", encoding="utf-8", **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return open_data(path, **options)

    return open_table


def rows(values, header="image,label"):
    return "\n".join([header, *(f"images/{i}.png,{v}" for i, v in enumerate(values))]) + "\n"


AB = ["a", "b"] * 5


def test_two_columns_need_no_names(table):
    data = table(rows(["cat", "dog"] * 5, "picture,animal"))
    assert data.columns == (Column(name="animal", kind="classification", classes=("cat", "dog")),)
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 8, "val": 2}
    assert data.splits["train"].class_counts("animal") == {"cat": 4, "dog": 4}
    assert data.splits["val"].read(0).shape == (12, 16, 3)
    assert data.splits["train"].ids[0] == "images/0.png"


@pytest.mark.parametrize(
    ("name", "encoding", "separator"),
    [
        ("d.csv", "utf-8", ","),
        ("d.csv", "utf-8-sig", ","),
        ("d.csv", "utf-16", ","),
        ("d.csv", "utf-8", ";"),
        ("d.tsv", "utf-8", "\t"),
    ],
)
def test_encodings_and_delimiters(table, name, encoding, separator):
    text = rows(["caf\u00e9", "th\u00e9"] * 5).replace(",", separator).replace("\n", "\r\n")
    assert table(text, name, encoding).columns[0].classes == ("caf\u00e9", "th\u00e9")


def test_names_with_commas_quotes_and_blank_lines(table):
    data = table(
        'image,label\n\nimages/0.png,"a, ""b"""\n\nimages/1.png,"a, ""b"""\nimages/2.png, c \nimages/3.png,c\n'
    )
    assert data.columns[0].classes == ('a, "b"', "c")


def test_class_names_stay_as_written(table):
    data = table(rows(["yes", "no", "1", "01", "yes", "no", "1", "01", "1.0", "1.0"]))
    assert set(data.columns[0].classes) == {"yes", "no", "1", "01", "1.0"}


def test_split_column(table):
    text = "image,label,split\n" + "".join(
        f"images/{i}.png,{'ab'[i % 2]},{s}\n" for i, s in enumerate(["train"] * 6 + ["Valid"] * 2 + ["TEST"] * 2)
    )
    assert {n: len(s) for n, s in table(text).splits.items()} == {"train": 6, "val": 2, "test": 2}
    named = table(text.replace("split", "part"), split_column="part", label_columns=["label"])
    assert {n: len(s) for n, s in named.splits.items()} == {"train": 6, "val": 2, "test": 2}


def test_several_label_columns(table):
    text = "image,kind,size\n" + "".join(f"images/{i}.png,{'xy'[i % 2]},{i / 4}\n" for i in range(10))
    data = table(text, label_columns=["kind", "size"])
    assert [(c.name, c.kind, c.classes) for c in data.columns] == [
        ("kind", "classification", ("x", "y")),
        ("size", "regression", ()),
    ]
    train = data.splits["train"]
    assert train.targets["kind"].dtype == torch.int64
    assert train.targets["size"].dtype == torch.float32
    assert train.targets["size"].tolist() == [int(i[7:-4]) / 4 for i in train.ids]


def test_missing_labels_are_counted(table, caplog):
    lines = [f"images/{i}.png,{'' if i == 3 else 'uv'[i % 2]},{'' if i == 4 else i / 3}" for i in range(10)]
    data = table("\n".join(["image,a,b", *lines]), label_columns=["a", "b"])
    assert "1 of 10 labels missing in 'a' (first at data.csv, line 5)" in caplog.text
    targets = {s.ids[i]: {c: v[i] for c, v in s.targets.items()} for s in data.splits.values() for i in range(len(s))}
    assert targets["images/3.png"]["a"] == -1
    assert torch.isnan(targets["images/4.png"]["b"])
    assert sum(t["a"] == -1 for t in targets.values()) == 1


@pytest.mark.parametrize("separator", [";", "|"])
def test_multilabel_by_separator(table, separator):
    cells = [separator.join(c) for c in (["red", "round"], ["red"], ["round"], ["blue"])] + [separator, ""]
    data = table(rows(cells), split="all", task="multilabel")
    (column,) = data.columns
    assert column == Column(name="label", kind="multilabel", classes=("blue", "red", "round"))
    targets = data.splits["all"].targets["label"]
    assert targets[:5].tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert torch.isnan(targets[5]).all()
    assert data.splits["all"].class_counts("label") == {"blue": 1, "red": 2, "round": 2}
    assert table(rows(cells), split="all").columns == data.columns  # found out without being told


def test_multilabel_by_columns_of_flags(table):
    text = "image,red,round,n 10,n 9\n" + "".join(
        f"images/{i}.png,{i % 2},{'' if i == 2 else int(i > 5)},0,1\n" for i in range(10)
    )
    data = table(text, split="all")
    (column,) = data.columns
    assert (column.name, column.kind, column.classes) == ("labels", "multilabel", ("n 9", "n 10", "red", "round"))
    targets = data.splits["all"].targets["labels"]
    assert targets[7].tolist() == [1, 0, 1, 1]
    assert targets[2].isnan().tolist() == [False, False, False, True]
    apart = table(text, label_columns=["red", "round"], task="classification")
    assert [c.classes for c in apart.columns] == [("0", "1"), ("0", "1")]
    held = table(text, labels=data.columns, split="all")
    assert torch.equal(held.splits["all"].targets["labels"].nan_to_num(9), targets.nan_to_num(9))


def test_kinds_of_columns():
    assert interpret(["1", "2", None])[0] == "classification"
    assert interpret(["1.0", "2.0"])[0] == "classification"
    assert interpret(["1", "2.5", None])[0] == "regression"
    assert interpret(["1", "x", "2.5"])[0] == "classification"
    assert interpret(["1", "2"], "regression")[0] == "regression"
    assert interpret(["a", "a;b"])[1] == [frozenset("a"), frozenset("ab")]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("image,label\nimages/0.png,a\nimages/none.png,b\nx.png,b\n", {},
         r"line 3: no file 'images/none\.png' \(and 1 more\)"),
        ("image,label\nimages/0.png,a\n,b\n", {}, "line 3: no image"),
        ("image,label\nimages,a\n", {}, "line 2: no file 'images'"),
        ("image,label\nimages/0.png,a,b\n", {}, "line 2: 3 cells, where the header has 2"),
        ('image,label\nimages/0.png,"a\n', {}, "line 2: unexpected end"),
        ("image,label\n", {}, "no rows"),
        ("", {}, "no header"),
        ("image,image\nx,y\n", {}, "two columns named 'image'"),
        (b"image,label\nimages/0.png,caf\xe9\n", {}, "line 2: not UTF-8"),
        ("image,label\nimages/0.png,a\n".encode("utf-16-le"), {}, "NUL"),
        ("image\nimages/0.png\n", {}, "no label column"),
        (rows([""] * 4), {}, "column 'label' has no label in train"),
        (rows(["a"] * 4), {}, "only one class: 'a' with 4 samples"),
        (rows(["Cat", "cat"] * 4), {}, "differ only"),
        (rows([1.5, "x", 2.5, 3.5]), {"task": "regression"}, "line 3: 'x' in column 'label' is not a finite number"),
        (rows([1.5, "inf", 2.5, 3.5]), {"task": "regression"}, "line 3: 'inf'"),
        ("image,label,split\nimages/0.png,a,train\nimages/1.png,b,tset\n", {},
         "line 3: 'tset' in column 'split' is no split"),
        ("image,label,split\nimages/0.png,a,train\nimages/1.png,b,\n", {}, "line 3: '' in column 'split'"),
        ("image,label,split\nimages/0.png,a,val\nimages/1.png,b,val\n", {}, "no train split"),
        ("image,label,split\nimages/0.png,a,train\nimages/1.png,b,train\nimages/2.png,c,val\n", {},
         r"val has the class 'c' of column 'label', unknown to train \(first at data.csv, line 4\)"),
        ("image,label\nimages/0.png,a\nimages/1.png,b\nimages/0.png,b\n", {},
         "line 4: 'images/0.png' again, with other labels in 'label' than line 2"),
        ("image,label,split\nimages/0.png,a,train\nimages/1.png,b,train\nimages/0.png,a,val\n", {},
         "another split than line 2"),
        (rows(AB), {"labels": (Column(name="x", classes=("a", "c")),), "split": "all"},
         "class 'b' of column 'x', unknown to the model"),
        (rows(["a;b", "b"]), {"labels": (Column(name="x", classes=("a", "b", "a;b")),), "split": "all"},
         "holds multilabel"),
    ],
)  # fmt: skip
def test_refused_tables(table, text, options, message):
    with pytest.raises(DataError, match=message) as caught:
        table(text, **options)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "options", "hint"),
    [
        (rows(AB), {"image_column": "imge"}, "'image'"),
        (rows(AB), {"label_columns": ["lable"]}, "'label'"),
        (rows(AB), {"split_column": "fold"}, "image, label"),
        (rows(AB), {"task": "clasification"}, "'classification'"),
        ("a,b\nx,y\n", {}, "--image-column"),
        ("image,p,q\nimages/0.png,u,v\n", {}, "--label-column"),
    ],
)
def test_columns_that_are_not_there(table, text, options, hint):
    with pytest.raises(UsageError) as caught:
        table(text, **options)
    assert hint in caught.value.hint


def test_a_row_that_comes_twice_is_kept_and_said(table, caplog):
    data = table(rows(AB) + "images/0.png,a\n", split="all")
    assert len(data.splits["all"]) == 11
    assert len(set(data.splits["all"].ids)) == 11
    assert "1 images stand in more than one row: 'images/0.png'" in caplog.text


def test_a_class_that_a_split_lacks_is_a_note(table, caplog):
    table("image,label,split\nimages/0.png,a,train\nimages/1.png,b,train\nimages/2.png,a,val\n")
    assert "val has no class 'b'" in caplog.text


def test_the_order_of_rows_does_not_matter(table):
    lines = rows(AB).splitlines()
    one, two = table("\n".join(lines)), table("\n".join([lines[0], *reversed(lines[1:])]))
    assert one.fingerprint == two.fingerprint
    assert {n: s.ids for n, s in one.splits.items()} == {n: s.ids for n, s in two.splits.items()}
    changed = table(rows(["b", "a"] * 5))
    assert changed.fingerprint != one.fingerprint


def test_a_models_column_may_have_another_name(table):
    model = (Column(name="label", classes=("a", "b")),)
    data = table(rows(AB, "image,species"), labels=model, split="all")
    assert data.columns == model
    assert data.splits["all"].targets["label"].tolist() == [0, 1] * 5
    two = (*model, Column(name="size", kind="regression"))
    with pytest.raises(DataError, match="no column 'size'"):
        table(rows(AB), labels=two, split="all")


def test_regression_model_takes_whole_numbers(table):
    data = table(rows(range(10)), labels=(Column(name="label", kind="regression"),), split="all")
    assert data.splits["all"].targets["label"].tolist() == list(range(10))


def test_parquet(table, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def open_parquet(columns, **options):
        parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")
        return open_data(tmp_path / "data.parquet", **options)

    paths = [f"images/{i}.png" for i in range(10)]
    text = table(rows(AB))
    assert open_parquet({"image": paths, "label": AB}).splits["train"].ids == text.splits["train"].ids
    numbers = open_parquet({"image": paths, "label": [0.5, None, float("nan"), *np.linspace(0, 1, 7)]}, split="all")
    assert numbers.columns[0].kind == "regression"
    assert numbers.splits["all"].targets["label"].isnan().sum() == 2
    lists = open_parquet({"image": paths, "label": [["x", "y"], ["x"], [], None, *[["y"]] * 6]}, split="all")
    assert lists.splits["all"].targets["label"][:3].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert lists.splits["all"].targets["label"][3].isnan().all()
    inside = [{"bytes": (tmp_path / p).read_bytes(), "path": p} for p in paths]
    data = open_parquet({"image": inside, "label": [0, 1] * 5}, split="all")
    assert np.array_equal(data.splits["all"].read(3), photo(12, 16, 3))
    (tmp_path / "data.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match="no parquet file"):
        open_data(tmp_path / "data.parquet")


def test_parquet_without_pyarrow(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="needs pyarrow") as caught:
        table(b"PAR1", "data.parquet")
    assert "pip install pyarrow" in caught.value.hint
