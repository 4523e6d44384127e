"""Assembling a transfer model: one path from names to a module, which says what was loaded and what is random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_registry import (
    BackboneSpec,
    Column,
    Entry,
    HeadSpec,
    Input,
    LoadReport,
    Registry,
    ZooError,
)
from zoo_registry.options import parse_options

from zoo.assembly.finite import check_finite
from zoo.assembly.fit import check_fit, resolve_input
from zoo.assembly.memory import own_tensors
from zoo.assembly.model import TransferModel
from zoo.assembly.weights import locate_assets, locate_weights
from zoo.keys import key


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A transfer model and how it came to be.

    Attributes:
        model: the module, on its device, in float32.
        backbone, head: registry entries.
        backbone_options, head_options: as built.
        input: what the model is fed, with the user's image size and channels put in.
        features: the kind of features between backbone and head.
        weights: where the pretrained weights came from, None where the backbone is random.
        report: what happened to each tensor of the weights file, None where the backbone is random.
    """

    model: TransferModel
    backbone: Entry[BackboneSpec]
    head: Entry[HeadSpec]
    backbone_options: Any
    head_options: Any
    input: Input
    features: str
    weights: Mapping[str, Any] | None
    report: LoadReport | None = field(default=None)

    def summary(self) -> list[str]:
        """What was loaded, newly initialised, resized or dropped, a line each, for a person."""
        lines = []
        if self.weights is None:
            lines.append(f"backbone {self.backbone.name}: random weights (no pretrained weights were asked for)")
        elif self.report is not None:
            where = self.weights.get("repo") or self.weights.get("package") or self.weights.get("given", "a file")
            revision = self.weights.get("revision")
            at = f" at {revision[:12]}" if revision else ""
            lines.append(f"backbone {self.backbone.name}: {self.report.loaded} tensors loaded from {where}{at}")
            for word, names in (
                ("resized", self.report.resized),
                ("newly initialised", self.report.initialised),
                ("dropped", self.report.dropped),
            ):
                if names:
                    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                    lines.append(f"  {word}: {', '.join(names[:4])}{more}")
        lines.append(f"head {self.head.name}: newly initialised, {count_parameters(self.model.head):,} parameters")
        return lines


def assemble_model(
    registry: Registry,
    *,
    backbone: str,
    head: str,
    columns: tuple[Column, ...],
    backbone_options: Mapping[str, Any] | None = None,
    head_options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
    weights: Path | None = None,
    pinned: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    in_chans: int | None = None,
    input: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    mapped: bool | None = None,
    hub: str | None = None,
    offline: bool = False,
) -> Assembled:
    """Build backbone and head, find and load the pretrained weights.

    Args:
        registry: where names are looked up.
        backbone, head: full or short names.
        columns: the target columns.
        backbone_options, head_options: values for the specs' options.
        pretrained: False leaves the backbone random, as drawn by ``seed``.
        weights: a local safetensors file in place of the spec's own weights.
        pinned: the weights that an earlier run took, ``recipe.weights``: the same commit is taken again.
        image_size: height and width in pixels, where the backbone takes another than its own.
        in_chans: input channels, likewise.
        input: values of another input than the backbone's own, that ``pinned`` weights were trained with.
        seed: of whatever is newly initialised.
        device: where the model ends up; it is built on the CPU, so that random weights are the same everywhere.
        mapped: whether weights stay mapped from their file, copy-on-write, where the plugin mapped them; None: those of
            a package or hub do, a file of ``weights`` is copied, see :mod:`zoo.assembly.memory`. Training copies them.
        hub, offline: as in :func:`zoo.assembly.weights.locate_weights`.

    Raises:
        UsageError: names or options are wrong, or backbone, head and data do not fit each other.
        HubError, IntegrityError: the weights cannot be had, or are damaged.
    """
    backbone_entry, head_entry = registry.backbone(backbone), registry.head(head)
    spec = backbone_entry.spec
    features = check_fit(backbone_entry, head_entry, columns)
    parsed_backbone = parse_options(spec.options, backbone_options or {}, where="backbone")
    parsed_head = parse_options(head_entry.spec.options, head_options or {}, where="head")
    given = resolve_input(backbone_entry, image_size, in_chans, input)
    located = None
    if pretrained and weights is None:
        located = locate_weights(backbone_entry, registry, pinned=pinned, hub=hub, offline=offline)
    path = located.path if located else weights
    assets = locate_assets(backbone_entry, pinned=located.source if located else pinned, hub=hub, offline=offline)
    arguments: dict[str, Any] = {"input": given, "features": features, "weights": path, "device": "cpu", "dtype": None}
    if assets:
        arguments["assets"] = assets
    with _keyed(seed, "backbone"):
        module = _build(backbone_entry, parsed_backbone, **arguments)
    with _keyed(seed, "head"):
        head_module = _build(head_entry, parsed_head, width=spec.features[features], targets=columns)
        if hasattr(head_module, "initialise"):
            head_module.initialise(module, columns)
    report = getattr(module, "load_report", None)
    if path is not None:
        check_finite(module, backbone_entry.name, file=path, sha256=located.source.get("sha256") if located else None)
        keep = located is not None and located.source.get("kind") != "file"
        if not (keep if mapped is None else mapped) and torch.device(device).type == "cpu":
            own_tensors(module)
    model = TransferModel(module, head_module, columns, given).to(device)
    return Assembled(
        model=model,
        backbone=backbone_entry,
        head=head_entry,
        backbone_options=parsed_backbone,
        head_options=parsed_head,
        input=given,
        features=features,
        weights=located.source if located else ({"kind": "file"} if path else None),
        report=report if path is not None else None,
    )


@contextmanager
def _keyed(seed: int, part: str) -> Iterator[None]:
    """Random weights drawn here depend on seed and part alone; torch's global generator goes on as it was."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(key(seed, "assembly", part))
        yield
    finally:
        torch.random.set_rng_state(state)


def _build(entry: Entry[Any], options: Any, **arguments: Any) -> nn.Module:
    """Call a factory; whatever it raises becomes one line that names the spec."""
    factory: Any = entry.factory()
    try:
        module = factory(entry.spec, options, **arguments)
    except ZooError:
        raise
    except Exception as error:
        raise ZooError(
            f"{entry.kind} {entry.name} could not be built: {type(error).__name__}: {error}",
            hint=f"zoo plugin check {entry.namespace} tests the plugin; --debug shows the traceback",
        ) from error
    if not isinstance(module, nn.Module):
        raise ZooError(f"{entry.kind} {entry.name}: its factory returned {type(module).__name__}, not a torch module")
    return module


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, or of those that learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
