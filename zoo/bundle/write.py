"""Writing a bundle: complete and consistent, or not at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from zoo_registry import Classifier, Delta, Entry, Exported, Registry, ZooError
from zoo_registry.options import options_to_dict

import zoo
from zoo.assembly.assemble import Assembled
from zoo.assembly.model import FoldedHead, TransferModel
from zoo.bundle.adapter import Adapter, write_adapter
from zoo.bundle.card import CARD, bundle_card
from zoo.bundle.document import DOCUMENT, Document, PluginRecord
from zoo.bundle.golden import golden_record
from zoo.bundle.licences import base_licence
from zoo.bundle.small import AdapterRecord
from zoo.files import write_bytes, write_folder, write_json, write_tensors
from zoo.hub.files import MANIFEST, list_folder, sha256_of
from zoo.origins import without_path
from zoo.recipe.recipe import Recipe
from zoo.recipe.toml import recipe_to_dict

PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What training found out, for ``zoo.json`` and the card.

    Attributes:
        metrics: split -> metrics.
        data: fingerprint and description, without paths of this machine.
        figures: file name in the bundle -> function that writes the PNG there.
        notes: lines for the card.
        samples: split -> column -> labels that the metrics count.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    samples: dict[str, dict[str, int]] = field(default_factory=dict)


def write_bundle(
    folder: Path,
    assembled: Assembled,
    recipe: Recipe,
    findings: Findings,
    registry: Registry,
    adapter: Adapter | None = None,
) -> Document:
    """Write the bundle of a trained model into ``folder``, which appears whole or not at all.

    Args:
        folder: the bundle's folder; replaced if it exists.
        assembled: the trained model and how it was built; it is not changed.
        recipe: the resolved recipe.
        findings: metrics, data and figures.
        registry: for the plugins' versions.
        adapter: what a strategy left in its small form, see :func:`zoo.adapting.find_adapter`.
    """
    bare = adapter.plain if adapter is not None else None
    model = (bare if bare is not None else copy.deepcopy(assembled.model)).cpu().float().eval()
    complete = adapter.applied if adapter is not None and adapter.applied is not None else model
    classifier = folded(model) if bare is None else None  # a classifier on weights that are not all would mislead
    spec = assembled.backbone.spec
    carries = classifier is not None and "classifier" in spec.capabilities and assembled.features == "pooled"
    labels = model.columns[0].classes if len(model.columns) == 1 else ()
    exported = export_backbone(
        assembled.backbone.name, model.backbone, classifier if carries else None, labels, assembled.input
    )
    if carries and classifier is not None:
        model.head = FoldedHead(model.head, classifier, model.columns[0])
    licence, said_by = base_licence(spec.weights, assembled.weights)
    document = Document(
        backbone=assembled.backbone.name,
        backbone_options=options_to_dict(assembled.backbone_options),
        head=assembled.head.name,
        head_options=options_to_dict(assembled.head_options),
        input=assembled.input,
        features=assembled.features,
        head_form="folded" if carries else "module",
        classifier=exported.classifier if carries else None,
        columns=model.columns,
        recipe=recipe_to_dict(recipe, private=False),
        base=without_path(assembled.weights),
        license=licence,
        license_source=said_by,
        library=exported.library,
        notes=findings.notes,
        samples=findings.samples,
        plugins=plugin_records(registry, assembled, recipe),
        data=findings.data,
        metrics=findings.metrics,
        golden=golden_record(complete, assembled.input),
        version=zoo.__version__,
        adapter=adapter_record(adapter),
    )
    head = None if carries else model.head.state_dict()
    delta = adapter.delta if adapter is not None else None
    write_folder(folder, lambda to: _fill(to, document, exported, head, assembled, findings, delta))
    return document


def adapter_record(adapter: Adapter | None) -> AdapterRecord | None:
    """What ``zoo.json`` says of the adapter."""
    if adapter is None:
        return None
    options = options_to_dict(adapter.options)
    merged = adapter.entry.spec.merges
    return AdapterRecord(strategy=adapter.entry.name, options=options, method=adapter.delta.method, merged=merged)


def folded(model: TransferModel) -> Classifier | None:
    """The head as one linear layer, where it is one and there is one column."""
    fold = getattr(model.head, "fold", None)
    return fold() if fold is not None and len(model.columns) == 1 else None


def export_backbone(
    name: str, backbone: nn.Module, classifier: Classifier | None, labels: tuple[str, ...], input: Any
) -> Exported:
    """The backbone in its library's own form.

    Raises:
        ZooError: the plugin cannot export it.
    """
    export = getattr(backbone, "export", None)
    if export is None:
        raise ZooError(
            f"backbone {name} cannot be published: its module has no export()", hint="ask its plugin's author"
        )
    exported: Exported = export(classifier, labels, input)
    return exported


def plugin_records(registry: Registry, assembled: Assembled, recipe: Recipe) -> tuple[PluginRecord, ...]:
    """The plugins that loading the bundle needs (backbone and head), then those that training it needed."""
    entries: list[Entry[Any]] = [assembled.backbone, assembled.head]
    entries += [registry.strategy(c.name) for phase in recipe.phases for c in phase.strategies]
    records = [
        PluginRecord(namespace=e.namespace, distribution=e.plugin.distribution, version=e.plugin.version)
        for e in entries
    ]
    return tuple(dict.fromkeys(records))


def _fill(
    folder: Path,
    document: Document,
    exported: Exported,
    head: Mapping[str, Tensor] | None,
    assembled: Assembled,
    findings: Findings,
    delta: Delta | None,
) -> None:
    write_tensors(folder / "model.safetensors", exported.tensors, {"format": "pt"})
    write_json(folder / "config.json", {**exported.config, **problem_type(document)})
    if head:
        write_tensors(folder / "head.safetensors", head, {"format": "pt"})
    if delta is not None:
        write_adapter(folder, delta)
    assets = getattr(assembled.model.backbone, "assets", None)
    for name, content in (assets() if assets is not None else {}).items():
        write_bytes(folder / name, content)
    for name, draw in findings.figures.items():
        draw(folder / name)
    write_json(folder / DOCUMENT, document.to_json())
    write_bytes(folder / CARD, bundle_card(folder, document).encode())
    write_manifest(folder)


def problem_type(document: Document) -> dict[str, str]:
    """What transformers' pipelines read in ``config.json``: whether logits want a softmax, a sigmoid or nothing."""
    kind = PROBLEMS.get(document.columns[0].kind) if document.head_form == "folded" else None
    return {"problem_type": kind} if kind else {}


def write_manifest(folder: Path) -> None:
    """Write ``manifest.json``: sha256 and size of every other file."""
    rows = {
        name: {"sha256": sha256_of(folder / name), "size": (folder / name).stat().st_size}
        for name in list_folder(folder)
        if name != MANIFEST
    }
    write_json(folder / MANIFEST, {"files": rows})
