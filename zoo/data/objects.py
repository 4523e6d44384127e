"""Python objects as data: map-style torch datasets of (image, label), and Hugging Face datasets.

Both are known by what they offer, neither library is imported. Labels are read without decoding images where the
object allows it (``targets`` of torchvision's datasets, columns of Hugging Face's); else each item is made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError, did_you_mean

from zoo.data.kinds import check_task, interpret
from zoo.data.names import split_name
from zoo.data.records import Raw, Records, read_weights


@dataclass(frozen=True, eq=False)
class Item:
    """A source that asks a dataset for the image of one item; ``field`` is a column, or 0 for the first of a tuple."""

    dataset: Any
    index: int
    field: Any

    def __call__(self) -> Any:
        """The image as the dataset makes it."""
        return self.dataset[self.index][self.field]


def read_object(
    data: Any,
    *,
    task: str | None = None,
    labels: tuple[Column, ...] | None = None,
    image_column: str | None = None,
    label_columns: Sequence[str] = (),
    weight_column: str | None = None,
) -> Records:
    """List the samples of an object, or of a mapping from split names to objects.

    Raises:
        UsageError: not a dataset of a known kind, or columns that must be named, or that it cannot have.
        DataError: items that are not (image, label).
    """
    check_task(task)
    parts = _parts(data)
    huggingface = [_is_huggingface(d) for d in parts.values()]
    if any(huggingface) and not all(huggingface):
        raise UsageError("splits of different kinds of dataset", hint="give torch or Hugging Face datasets, not both")
    merged = Records(
        form="datasets" if all(huggingface) else "torch", name=type(next(iter(parts.values()))).__name__,
        ids=[], sources=[], sizes=[], splits=None if isinstance(next(iter(parts)), type(None)) else [], values={},
    )  # fmt: skip
    if weight_column and not all(huggingface):
        raise UsageError("a torch dataset has no weight column", hint="give a table or a Hugging Face dataset")
    cells: dict[str, list[Any]] = {}
    weights: list[float] = []
    image: str | int
    for split, dataset in parts.items():
        if all(huggingface):
            image, found = _huggingface(dataset, image_column, label_columns, merged)
            if weight_column:
                weights += _weights(dataset, weight_column)
        else:
            image, found = 0, {"label": _torch_labels(dataset, merged)}
        if cells and cells.keys() != found.keys():
            raise DataError(f"the splits have different columns: {', '.join(cells)} and {', '.join(found)}")
        for name, values in found.items():
            cells.setdefault(name, []).extend(values)
        prefix = f"{split}/" if split else ""
        merged.ids += [f"{prefix}{i:07d}" for i in range(len(dataset))]  # type: ignore[operator]
        merged.sources += [Item(dataset, i, image) for i in range(len(dataset))]  # type: ignore[operator]
        if split:
            merged.splits += [split] * len(dataset)  # type: ignore[operator]
    merged.weights = weights if weight_column else None
    merged.sizes = [0] * len(merged.ids)
    model = {c.name: c.kind for c in labels or ()}
    for name, values in cells.items():
        merged.kinds[name], merged.values[name] = _settle(values, model.get(name, task))
    return merged


def _parts(data: Any) -> dict[str | None, Any]:
    parts: dict[str | None, Any] = {}
    if not isinstance(data, Mapping):
        parts[None] = data
    else:
        for name, dataset in data.items():
            split = split_name(str(name))
            if split is None or split in parts:
                raise UsageError(f"{name!r} is no split, or one given twice", hint="use train, val and test")
            parts[split] = dataset
    for dataset in parts.values():
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or isinstance(dataset, (list, bytes)):
            raise UsageError(
                f"a {type(dataset).__name__} is no data that the zoo reads",
                hint="give a folder, a table, digits:, a map-style torch dataset or a Hugging Face dataset",
            )
    if not parts:
        raise UsageError("no splits in the data", hint="give at least 'train'")
    return parts


def _is_huggingface(dataset: Any) -> bool:
    return hasattr(dataset, "features") and hasattr(dataset, "column_names")


def _settle(values: list[Any], task: str | None) -> tuple[str, Sequence[Raw]]:
    """Kind and labels of a column of Python values."""
    present = [v for v in values if v is not None]
    if any(isinstance(v, (frozenset, dict)) for v in present):
        return "multilabel", values
    if task is None and present and all(isinstance(v, float) for v in present):
        return "regression", values
    # No separators are looked for: an object can say several names without them.
    return interpret([None if v is None else str(v) for v in values], task or "classification")


def _torch_labels(dataset: Any, records: Records) -> list[Any]:
    """The labels of a torch dataset, class indices replaced by names where it has ``classes``."""
    raw, classes = _targets(dataset)
    if raw is None:
        raw = [_label(dataset, i) for i in range(len(dataset))]
    if classes:
        records.classes["label"] = tuple(dict.fromkeys([*records.classes.get("label", ()), *classes]))
    return [_plain(value, classes) for value in raw]


def _targets(dataset: Any) -> tuple[Sequence[Any] | None, Sequence[str]]:
    """``targets`` and ``classes``, looked for through ``Subset`` too; None and empty where there are none."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        raw, classes = _targets(dataset.dataset)
        return (None if raw is None else [raw[i] for i in dataset.indices]), classes
    classes = getattr(dataset, "classes", None) or ()
    targets = getattr(dataset, "targets", None)
    # A target transform would change what the items carry.
    usable = targets is not None and len(targets) == len(dataset) and not getattr(dataset, "target_transform", None)
    return (targets if usable else None), tuple(map(str, classes))


def _label(dataset: Any, index: int) -> Any:
    item = dataset[index]
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise DataError(f"item {index} of the dataset is a {type(item).__name__}", hint="items must be (image, label)")
    return item[1]


def _plain(value: Any, classes: Sequence[str]) -> Raw:
    """A label as name, float, or name -> flag; negative class indices are missing labels."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        names = classes if len(classes) == len(value) else [str(i) for i in range(len(value))]
        return {name: None if v != v else float(v) for name, v in zip(names, value)}
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int):
        if value < 0:
            return None
        if classes and value >= len(classes):
            raise DataError(f"label {value} is out of range", hint=f"the dataset has {len(classes)} classes")
        return classes[value] if classes else str(value)
    if isinstance(value, float):
        return None if value != value else value
    return None if value is None else str(value)


def _huggingface(
    dataset: Any, image_column: str | None, label_columns: Sequence[str], records: Records
) -> tuple[str, dict[str, list[Any]]]:
    """The image column, and the labels by column."""
    features = dataset.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    for name in [*label_columns, *([image_column] if image_column else [])]:
        if name not in features:
            raise UsageError(
                f"the dataset has no column {name!r}", hint=did_you_mean(name, features) or str([*features])
            )
    images = [image_column] if image_column else [n for n, kind in kinds.items() if kind == "Image"]
    found = list(label_columns) or [n for n, kind in kinds.items() if kind == "ClassLabel"] or [
        n for n in features if n.lower() in ("label", "labels", "class", "target")
    ]  # fmt: skip
    if len(images) != 1 or not found:
        missing = "label columns" if len(images) == 1 else "image column"
        raise UsageError(
            f"which is the {missing}? The dataset has {', '.join(features)}", hint="name image_column, label_columns"
        )
    return images[0], {name: _feature_labels(dataset, name, features[name], records) for name in found}


def _weights(dataset: Any, column: str) -> list[float]:
    if column not in dataset.features:
        hint = did_you_mean(column, dataset.features) or f"it has {', '.join(dataset.features)}"
        raise UsageError(f"the dataset has no weight column {column!r}", hint=hint)
    return read_weights(list(dataset[column]), column, lambda index: f"item {index}")


def _feature_labels(dataset: Any, name: str, feature: Any, records: Records) -> list[Any]:
    inner = feature if hasattr(feature, "names") else getattr(feature, "feature", None)
    names: Sequence[str] = tuple(getattr(inner, "names", None) or ())
    if names:
        records.classes[name] = tuple(names)
    values = list(dataset[name])
    if not hasattr(feature, "names") and any(isinstance(v, (list, tuple)) for v in values):
        return [None if v is None else frozenset(names[i] if names else str(i) for i in v) for v in values]
    return [_plain(v, names) for v in values]
