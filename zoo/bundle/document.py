"""``zoo.json``: what a bundle says of itself. Read strictly: it may name registered plugins and typed values only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_registry import AudioInput, Column, ImageInput, Input, IntegrityError, TextInput
from zoo_registry.building import TASKS
from zoo_registry.options import parse_options
from zoo_registry.specs import FEATURE_KINDS

from zoo.hub.files import read_json

FORMAT = 1
INPUTS: dict[str, type[Any]] = {"image": ImageInput, "text": TextInput, "audio": AudioInput}
HEAD_FORMS = ("folded", "module")


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
        license: of the weights, None where unknown.
        version: of the zoo that wrote it.
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

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "format": FORMAT,
            "zoo": self.version,
            "backbone": {"name": self.backbone, "options": self.backbone_options, "features": self.features},
            "head": {"name": self.head, "options": self.head_options, "form": self.head_form},
            "classifier": list(self.classifier) if self.classifier else None,
            "input": {"kind": self.input.kind, **_lists(dataclasses.asdict(self.input))},
            "columns": [{"name": c.name, "kind": c.kind, "classes": list(c.classes)} for c in self.columns],
            "recipe": self.recipe,
            "base": self.base,
            "license": self.license,
            "plugins": [dataclasses.asdict(plugin) for plugin in self.plugins],
            "data": self.data,
            "metrics": self.metrics,
            "golden": self.golden,
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
    if not isinstance(found, int) or found > FORMAT:
        raise IntegrityError(
            f"{where}: zoo.json has format {found!r}, this zoo reads up to {FORMAT}",
            hint="pip install -U transfer-zoo",
        )
    return reader.document()


class _Reader:
    def __init__(self, values: Any, where: str) -> None:
        self.values, self.where = values, where

    def get(self, path: str, kind: type | tuple[type, ...]) -> Any:
        value: Any = self.values
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind):
            raise IntegrityError(f"{self.where}: zoo.json: {path} is {value!r:.60}, which it cannot be")
        return value

    def document(self) -> Document:
        optional = type(None)
        classifier = self.get("classifier", (list, optional))
        if classifier is not None and (len(classifier) != 2 or not all(isinstance(n, str) for n in classifier)):
            raise IntegrityError(f"{self.where}: zoo.json: classifier is not two tensor names")
        return Document(
            backbone=self.get("backbone.name", str),
            backbone_options=self.get("backbone.options", dict),
            features=self.one_of("backbone.features", FEATURE_KINDS),
            head=self.get("head.name", str),
            head_options=self.get("head.options", dict),
            head_form=self.one_of("head.form", HEAD_FORMS),
            classifier=tuple(classifier) if classifier else None,
            input=self.input(),
            columns=tuple(self.column(c) for c in self.get("columns", list)),
            recipe=self.get("recipe", dict),
            base=self.get("base", (dict, optional)),
            license=self.get("license", (str, optional)),
            plugins=tuple(self.plugin(p) for p in self.get("plugins", list)),
            data=self.get("data", dict),
            metrics=self.get("metrics", dict),
            golden=self.get("golden", dict),
            version=self.get("zoo", str),
        )

    def one_of(self, path: str, known: tuple[str, ...]) -> str:
        value = self.get(path, str)
        if value not in known:
            raise IntegrityError(f"{self.where}: zoo.json: {path} is {value!r}, not one of {', '.join(known)}")
        return str(value)

    def input(self) -> Input:
        values = dict(self.get("input", dict))
        kind = values.pop("kind", None)
        if kind not in INPUTS:
            raise IntegrityError(f"{self.where}: zoo.json: input.kind is {kind!r}, not one of {', '.join(INPUTS)}")
        try:
            parsed: Input = parse_options(INPUTS[kind], values, where="input")
        except Exception as error:
            raise IntegrityError(f"{self.where}: zoo.json: {error}") from error
        if isinstance(parsed, ImageInput) and not (
            len(parsed.size) == 2
            and all(1 <= side <= 8192 for side in parsed.size)
            and 1 <= parsed.channels <= 1024
            and 0 < parsed.crop_pct <= 4
            and all(std > 0 for std in parsed.std)
        ):
            raise IntegrityError(f"{self.where}: zoo.json: input is out of range")
        return parsed

    def column(self, value: Any) -> Column:
        good = isinstance(value, dict) and isinstance(value.get("name"), str) and value.get("kind") in TASKS
        classes = value.get("classes") if good else None
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise IntegrityError(f"{self.where}: zoo.json: a target column is not as it should be")
        return Column(name=value["name"], kind=value["kind"], classes=tuple(classes))

    def plugin(self, value: Any) -> PluginRecord:
        names = ("namespace", "distribution", "version")
        if not isinstance(value, dict) or not all(isinstance(value.get(n), str) for n in names):
            raise IntegrityError(f"{self.where}: zoo.json: a plugin is not as it should be")
        return PluginRecord(**{name: value[name] for name in names})


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
