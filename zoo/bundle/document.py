"""``zoo.json``: what a bundle says of itself. Read strictly: it may name registered plugins and typed values only."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_registry import AudioInput, Column, ImageInput, Input, IntegrityError, TextInput, ZooError
from zoo_registry.building import TASKS
from zoo_registry.options import parse_options
from zoo_registry.specs import FEATURE_KINDS

from zoo.bundle.measured import Comparison, read_comparisons, read_samples
from zoo.bundle.proof import Proof, read_proof
from zoo.bundle.small import DISTRIBUTION, FULL_NAME, AdapterRecord, DeltaRecord, read_adapter, read_delta
from zoo.hub.files import read_json

DOCUMENT = "zoo.json"
FORMAT = 2
"""The newest format; 1 is still written for what a reader of 1 understands: weights that are the whole model."""
INPUTS: dict[str, type[Any]] = {"image": ImageInput, "text": TextInput, "audio": AudioInput}
HEAD_FORMS = ("folded", "module")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
CROP_MODES = ("center", "squash", "border")
MOST_VALUES = 2**28
"""Largest number of values of one input: a document cannot ask for more memory than a model could want."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]*")


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """A plugin that the model needs, and the distribution to install for it."""

    namespace: str
    distribution: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """The content of ``zoo.json``.

    Attributes:
        backbone, head: full names; ``backbone_options``, ``head_options`` their options.
        input: what the model is fed: the evaluation transform really used.
        features: kind of features between backbone and head.
        head_form: ``folded`` (the classifier of ``model.safetensors``) or ``module`` (``head.safetensors``).
        classifier: names of the classifier's weight and bias in ``model.safetensors``, or None.
        columns: target columns with their label maps.
        recipe: the resolved recipe without where the data lies.
        base: where the pretrained weights came from, None for random ones.
        plugins: what must be installed.
        data: fingerprint and description.
        metrics: split -> metrics.
        golden: see :mod:`zoo.bundle.golden`.
        license: of the base weights, None where unknown; ``license_source`` says who says so.
        license_stated: of the model, where whoever published it stated one.
        library: the library whose own form ``config.json`` and ``model.safetensors`` have, None where none reads them.
        notes: what is to be known of the run, lines for the card.
        samples: split -> column -> labels that the metrics count.
        comparisons: other runs on the same data, such as one from scratch.
        version: of the zoo that wrote it.
        adapter: what lies in ``adapter/``, None where nothing does.
        delta: how the weights are made again where they are published as a delta, None where they are there.
        proof: what a fresh process found again before it was published, None where none did.
    """

    backbone: str
    head: str
    input: Input
    features: str
    head_form: str
    columns: tuple[Column, ...]
    plugins: tuple[PluginRecord, ...]
    golden: dict[str, Any]
    version: str
    backbone_options: dict[str, Any] = field(default_factory=dict)
    head_options: dict[str, Any] = field(default_factory=dict)
    classifier: tuple[str, str] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    license: str | None = None
    license_source: str | None = None
    license_stated: str | None = None
    library: str | None = None
    notes: tuple[str, ...] = ()
    samples: dict[str, dict[str, int]] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    adapter: AdapterRecord | None = None
    delta: DeltaRecord | None = None
    proof: Proof | None = None

    @property
    def merged(self) -> bool:
        """Whether backbone and head are the whole model; False: the adapter has to be applied to them."""
        return self.adapter is None or self.adapter.merged

    def drawn(self) -> dict[str, Any]:
        """``seed`` and ``val_fraction`` of the recipe, so that a validation split is drawn again as in training."""
        data = self.recipe.get("data")
        found = {"seed": self.recipe.get("seed"), "val_fraction": data.get("val_fraction") if data else None}
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "format": 1 if self.merged and self.delta is None else FORMAT,
            "zoo": self.version,
            "backbone": {"name": self.backbone, "options": self.backbone_options, "features": self.features},
            "head": {"name": self.head, "options": self.head_options, "form": self.head_form},
            "classifier": list(self.classifier) if self.classifier else None,
            "input": {"kind": self.input.kind, **_lists(dataclasses.asdict(self.input))},
            "columns": [{"name": c.name, "kind": c.kind, "classes": list(c.classes)} for c in self.columns],
            "recipe": self.recipe,
            "base": self.base,
            "license": self.license,
            "license_source": self.license_source,
            **({"license_stated": self.license_stated} if self.license_stated else {}),
            "library": self.library,
            "plugins": [dataclasses.asdict(plugin) for plugin in self.plugins],
            "data": self.data,
            "metrics": self.metrics,
            "samples": self.samples,
            **({"comparisons": [c.to_json() for c in self.comparisons]} if self.comparisons else {}),
            "notes": list(self.notes),
            "golden": self.golden,
            **({"adapter": self.adapter.to_json()} if self.adapter else {}),
            **({"delta": self.delta.to_json()} if self.delta else {}),
            **({"proof": self.proof.to_json()} if self.proof else {}),
        }


def read_document(path: Path, *, where: str) -> Document:
    """Read and check ``zoo.json``.

    Raises:
        IntegrityError: missing, of a newer format, or with a field that is not what it should be (it is named).
    """
    if not path.is_file():
        raise IntegrityError(f"{where} has no zoo.json", hint="it is no bundle of the zoo")
    values = read_json(path, f"{where}: zoo.json")
    reader = _Reader(values, where)
    found = values.get("format") if isinstance(values, dict) else None
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise IntegrityError(
            f"{where}: zoo.json has format {found!r}, this zoo reads up to {FORMAT}",
            hint="pip install -U transfer-zoo",
        )
    return reader.document()


class _Reader:
    def __init__(self, values: Any, where: str) -> None:
        self.values, self.where = values, where

    def wrong(self, what: str, hint: str | None = None) -> IntegrityError:
        return IntegrityError(f"{self.where}: {DOCUMENT}: {what}", hint=hint)

    def get(self, path: str, kind: type | tuple[type, ...]) -> Any:
        value: Any = self.values
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind):
            raise self.wrong(f"{path} is {value!r:.60}, which it cannot be")
        return value

    def document(self) -> Document:
        optional = type(None)
        return Document(
            backbone=self.full_name("backbone.name"),
            backbone_options=self.get("backbone.options", dict),
            features=self.one_of("backbone.features", FEATURE_KINDS),
            head=self.full_name("head.name"),
            head_options=self.get("head.options", dict),
            head_form=self.one_of("head.form", HEAD_FORMS),
            classifier=self.classifier(),
            input=self.input(),
            columns=self.columns(),
            recipe=self.recipe(),
            base=self.base(),
            license=self.get("license", (str, optional)),
            license_source=self.get("license_source", (str, optional)),
            license_stated=self.word("license_stated"),
            library=self.word("library"),
            notes=self.notes(),
            samples=read_samples(self.values.get("samples"), self.wrong),
            comparisons=read_comparisons(self.values.get("comparisons"), self.wrong),
            plugins=tuple(self.plugin(p) for p in self.get("plugins", list)),
            data=self.get("data", dict),
            metrics=self.metrics(),
            golden=self.get("golden", dict),
            version=self.get("zoo", str),
            adapter=read_adapter(self.values.get("adapter"), self.wrong),
            delta=read_delta(self.values.get("delta"), self.wrong),
            proof=read_proof(self.values.get("proof"), self.wrong),
        )

    def one_of(self, path: str, known: tuple[str, ...]) -> str:
        value = self.get(path, str)
        if value not in known:
            raise self.wrong(f"{path} is {value!r:.60}, not one of {', '.join(known)}")
        return str(value)

    def word(self, path: str) -> str | None:
        """A short name, or None."""
        value = self.get(path, (str, type(None)))
        if value is not None and not _WORD.fullmatch(value):
            raise self.wrong(f"{path} is {value!r:.60}, which it cannot be")
        return None if value is None else str(value)

    def notes(self) -> tuple[str, ...]:
        notes = self.values.get("notes", [])
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise self.wrong("notes is no list of lines")
        return tuple(notes)

    def full_name(self, path: str) -> str:
        value = self.get(path, str)
        if not FULL_NAME.fullmatch(value):
            raise self.wrong(f"{path} is {value!r:.60}, not a full name like namespace/name")
        return str(value)

    def classifier(self) -> tuple[str, str] | None:
        names = self.get("classifier", (list, type(None)))
        if names is None:
            return None
        if len(names) != 2 or not all(isinstance(name, str) for name in names):
            raise self.wrong("classifier is not two tensor names")
        return names[0], names[1]

    def input(self) -> Input:
        values = dict(self.get("input", dict))
        kind = values.pop("kind", None)
        if kind not in INPUTS:
            raise self.wrong(f"input.kind is {kind!r:.60}, not one of {', '.join(INPUTS)}")
        try:
            parsed: Input = parse_options(INPUTS[kind], values, where="input")
        except ZooError as error:
            raise self.wrong(error.message) from error
        if isinstance(parsed, ImageInput) and not is_sound(parsed):
            raise self.wrong("input is out of range")
        return parsed

    def columns(self) -> tuple[Column, ...]:
        found = tuple(self.column(value) for value in self.get("columns", list))
        if not found or len({column.name for column in found}) != len(found):
            raise self.wrong("columns names no target column, or one of them twice")
        return found

    def column(self, value: Any) -> Column:
        good = isinstance(value, dict) and isinstance(value.get("name"), str) and value.get("kind") in TASKS
        classes = value.get("classes") if good else None
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise self.wrong("a target column is not as it should be")
        if not classes and value["kind"] != "regression":
            raise self.wrong(f"column {value['name']!r:.60} has no class names", "ask whoever published it")
        if len(set(classes)) != len(classes) or (classes and value["kind"] == "regression"):
            raise self.wrong(f"column {value['name']!r:.60} has a class twice, or some where none belong")
        return Column(name=value["name"], kind=value["kind"], classes=tuple(classes))

    def recipe(self) -> dict[str, Any]:
        """Shown and stored; of its values only the seed and how a validation split is drawn are used again."""
        recipe: dict[str, Any] = self.get("recipe", dict)
        seed, data = recipe.get("seed", 0), recipe.get("data", {})
        share = data.get("val_fraction", 0.5) if isinstance(data, dict) else -1
        if not _is_number(seed) or seed != int(seed) or not _is_number(share) or not 0 < share < 1:
            raise self.wrong("recipe has a seed or a val_fraction that it cannot have")
        return recipe

    def base(self) -> dict[str, Any] | None:
        base = self.get("base", (dict, type(None)))
        if base is not None and not all(isinstance(v, str | None) for v in base.values()):
            raise self.wrong("base is not made of texts")
        return dict(base) if base is not None else None

    def metrics(self) -> dict[str, dict[str, float]]:
        metrics: dict[str, dict[str, float]] = self.get("metrics", dict)
        for split, values in metrics.items():
            if not isinstance(values, dict) or not all(_is_number(value) for value in values.values()):
                raise self.wrong(f"metrics of {split!r:.60} are not numbers")
        return metrics

    def plugin(self, value: Any) -> PluginRecord:
        """What ends up in a ``pip install`` line that people copy, so it can be nothing but a name and a version."""
        names = ("namespace", "distribution", "version")
        if not isinstance(value, dict) or not all(isinstance(value.get(n), str) for n in names):
            raise self.wrong("a plugin is not as it should be")
        record = PluginRecord(**{name: value[name] for name in names})
        if not DISTRIBUTION.fullmatch(record.distribution) or not _VERSION.fullmatch(record.version):
            raise self.wrong(f"{record.distribution!r:.60} {record.version!r:.60} is no distribution and version")
        return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_sound(image: ImageInput) -> bool:
    """Whether every value of an input is one that a model could have: it cannot ask for all memory there is."""
    return (
        all(1 <= side <= 8192 for side in image.size)
        and 1 <= image.channels <= 1024
        and image.size[0] * image.size[1] * image.channels <= MOST_VALUES
        and len(image.mean) == len(image.std) == image.channels
        and 0 < image.crop_pct <= 4
        and all(std > 0 for std in image.std)
        and image.interpolation in INTERPOLATIONS
        and image.crop_mode in CROP_MODES
    )


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
