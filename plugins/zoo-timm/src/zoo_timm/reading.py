"""Repos that timm or transformers' TimmWrapper published, read into the words of the registry.

A ``config.json`` of strangers may name an architecture of the catalogue, shapes of it (:data:`zoo_timm.arguments`),
an input and labels, and nothing else: no file, no address, no switch of timm's loader is taken from it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from typing import Any

from zoo_registry import BackboneSpec, Foreign, FormatSpec, ImageInput, IntegrityError, PluginError

from zoo_timm.arguments import plain_arguments
from zoo_timm.catalogue import read_catalogue

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
CROP_MODES = ("center", "squash", "border")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What timm takes where a config is silent (``timm.data.constants``)."""
KINDS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel",
    "regression": "regression",
}
WRAPPED = "timm_model."
LARGEST_SIDE, MOST_CHANNELS, MOST_CLASSES = 8192, 1024, 1_000_000


def read(
    spec: FormatSpec, options: Any, *, files: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None
) -> Foreign | None:
    """See :class:`zoo_registry.building.FormatReader`."""
    config = files.get("config.json")
    if not isinstance(config, Mapping) or not isinstance(config.get("architecture"), str):
        return None
    source = config.get("pretrained_cfg", config)  # before timm 0.9 everything stood at the top
    if not isinstance(source, Mapping) or not ({"num_classes", "pretrained_cfg", "input_size"} & set(config)):
        return None
    if shapes and all(name.startswith(WRAPPED) for name in shapes):
        raise IntegrityError(
            f"its tensors are called {WRAPPED}..., as transformers writes a wrapper that was made anew; timm cannot "
            "load them either",
            "in transformers: load it with from_pretrained and push it again",
        )
    row = _row(config["architecture"], source.get("tag"))
    arguments = plain_arguments(_table(config, "model_args"), where="config.json")
    image = _input(row, source, arguments)
    shape = {name: value for name, value in arguments.items() if name not in ("in_chans", "img_size")}
    classes = _number(config.get("num_classes", source.get("num_classes", 0)), "num_classes", 0, MOST_CLASSES)
    labels = _labels(config, source, classes)
    if classes and not labels and shapes is not None:
        labels = _imagenet(config, classes) or tuple(str(number) for number in range(classes))
    return Foreign(
        backbone=row.name,
        options={"model_args": json.dumps(shape, sort_keys=True)} if shape else {},
        input=image,
        kind=_kind(config, classes),
        classes=classes,
        labels=labels if _kind(config, classes) != "regression" else (),
        classifier=_classifier(row, source, shapes) if classes else None,
    )


def _row(architecture: str, tag: Any) -> BackboneSpec:
    """The catalogue's row: that of the tag where there is one, else the architecture's default.

    Raises:
        PluginError: there is none.
    """
    rows = _catalogue().get(architecture, {})
    if not rows:
        raise PluginError(
            f"config.json names the architecture {architecture!r:.60}, which this zoo-timm does not know",
            "pip install -U timm zoo-timm, then: python -m zoo_timm.refresh",
        )
    tagged = rows.get(f"{architecture}.{tag}") if isinstance(tag, str) else None
    plain = rows.get(architecture) or next((spec for spec in rows.values() if architecture in spec.aliases), None)
    return tagged or plain or next(iter(rows.values()))


@functools.cache
def _catalogue() -> dict[str, dict[str, BackboneSpec]]:
    """Architecture -> name -> row."""
    found: dict[str, dict[str, BackboneSpec]] = {}
    for spec in read_catalogue():
        found.setdefault(str(spec.extra["architecture"]), {})[spec.name] = spec
    return found


def _input(row: BackboneSpec, source: Mapping[str, Any], arguments: Mapping[str, Any]) -> ImageInput:
    """The evaluation transform as timm's ``resolve_data_config`` reads it."""
    native = row.input
    assert isinstance(native, ImageInput)  # timm has no others
    size = source.get("input_size", [native.channels, *native.size])
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise _wrong("input_size", size)
    channels = _number(arguments.get("in_chans", size[0]), "in_chans", 1, MOST_CHANNELS)
    sides = arguments.get("img_size", size[1:])
    sides = [sides, sides] if isinstance(sides, int) else sides
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise _wrong("img_size", sides)
    height, width = (_number(side, "input_size", 1, LARGEST_SIDE) for side in sides)
    return ImageInput(
        size=(height, width),
        channels=channels,
        mean=_statistics(source, "mean", IMAGENET_MEAN, channels),
        std=_statistics(source, "std", IMAGENET_STD, channels),
        interpolation=_word(source, "interpolation", INTERPOLATIONS, "bicubic"),
        crop_pct=_share(source.get("crop_pct")),
        crop_mode=_word(source, "crop_mode", CROP_MODES, "center"),
        fixed_size=native.fixed_size,
    )


def _statistics(source: Mapping[str, Any], name: str, usual: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One value a channel; of a repo with other channels than its statistics the mean of them, as the zoo spreads."""
    values = source.get(name) or usual
    if not isinstance(values, list | tuple) or not all(_finite(v) for v in values):
        raise _wrong(name, values)
    if name == "std" and not all(value > 0 for value in values):
        raise _wrong(name, values)
    if len(values) != channels:
        values = [sum(values) / len(values)] * channels
    return tuple(float(value) for value in values)


def _labels(config: Mapping[str, Any], source: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """``label_names``, a list or a mapping of numbers to names; empty where there are none."""
    named = config.get("label_names") or source.get("label_names")
    if not named or not classes:
        return ()
    if isinstance(named, Mapping):
        named = [named.get(str(number)) for number in range(len(named))]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise _wrong("label_names", named)
    if len(named) != classes or len(set(named)) != len(named):
        raise IntegrityError(f"config.json has {classes} classes and {len(set(named))} different names for them")
    return tuple(named)


def _imagenet(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names that timm and transformers show for a model of ImageNet; synset numbers where two of them are equal."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes, "pretrained_cfg": {"tag": _tag(config)}})
    if not subset:
        return ()
    info = ImageNetInfo(subset)
    synsets = [str(name) for name in info.label_names()]
    described: Any = info.label_descriptions(as_dict=True)
    names = [str(described.get(synset, synset)) for synset in synsets]
    if len(synsets) != classes:
        return ()
    return tuple(names if len(set(names)) == classes else synsets)


def _tag(config: Mapping[str, Any]) -> str:
    source = config.get("pretrained_cfg")
    tag = source.get("tag") if isinstance(source, Mapping) else None
    return tag if isinstance(tag, str) else ""


def _classifier(
    row: BackboneSpec, source: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[str, str] | None:
    """Names of the classifier's tensors, where the architecture's classifier is one linear layer."""
    named = source.get("classifier")
    if "classifier" not in row.capabilities:
        return None
    if not isinstance(named, str) and shapes is not None:
        import timm

        known = timm.get_pretrained_cfg(str(row.extra["architecture"]))
        named = known.classifier if known is not None else None
    if not isinstance(named, str) or not all(part.isidentifier() or part.isdigit() for part in named.split(".")):
        return None
    return f"{named}.weight", f"{named}.bias"


def _kind(config: Mapping[str, Any], classes: int) -> str:
    stated = config.get("problem_type")
    kind = KINDS.get(stated, "classification") if isinstance(stated, str) else "classification"
    return kind if kind != "regression" or classes == 1 else "classification"


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise _wrong(name, value)
    return value


def _number(value: Any, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(name, value)
    return value


def _share(value: Any) -> float:
    if value is None or value == 0:  # timm's default
        return 0.875
    if not _finite(value) or not 0 < value <= 4:
        raise _wrong("crop_pct", value)
    return float(value)


def _word(source: Mapping[str, Any], name: str, known: tuple[str, ...], usual: str) -> str:
    value = source.get(name) or usual
    if value not in known:
        raise _wrong(name, value)
    return str(value)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, value: Any) -> IntegrityError:
    return IntegrityError(f"config.json: {name} is {value!r:.60}, which it cannot be")
