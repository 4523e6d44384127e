"""Models that another library published: read by the format of an installed plugin, into a bundle's own words.

What such a repo says becomes a :class:`~zoo.bundle.document.Document`, checked like a bundle's ``zoo.json``, and is
loaded the same way: names are looked up among the installed plugins, tensors compared before memory is taken for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry import (
    BackboneSpec,
    Column,
    Entry,
    Foreign,
    FormatSpec,
    ImageInput,
    IntegrityError,
    PluginError,
    Registry,
    UsageError,
    ZooError,
)
from zoo_registry.options import parse_options

import zoo
from zoo.bundle.document import Document, PluginRecord, is_sound
from zoo.hub.contents import check_content, check_links
from zoo.hub.files import PICKLES, front_matter, read_json
from zoo.recipe.resolve import default_head

if TYPE_CHECKING:
    import torch

    from zoo.bundle.read import LoadedModel

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """What a format's reader found in a repo or folder.

    Attributes:
        format: the format.
        backbone: the entry that its weights belong to.
        found: what the reader says.
        where: what messages call it.
    """

    format: Entry[FormatSpec]
    backbone: Entry[BackboneSpec]
    found: Foreign
    where: str

    @property
    def tensors(self) -> str:
        """Name of the file with the weights."""
        return self.format.spec.tensors

    def words(self) -> str:
        """``timm: resnet18.a1_in1k, 3 classes: cat, dog, emu``."""
        names = ", ".join(self.found.labels[:10]) + (", ..." if len(self.found.labels) > 10 else "")
        kind = "no classifier" if not self.found.classes else f"{self.found.kind}, {self.found.classes} classes"
        shown = f": {names}" if names else ""
        return f"{self.format.spec.name} form, backbone {self.backbone.name}, {kind}{shown}"


def wanted_files(registry: Registry) -> tuple[str, ...]:
    """The JSON files that installed formats look at."""
    names = [name for entry in registry.entries("format") for name in entry.spec.files]
    return tuple(dict.fromkeys(names))


def read_foreign(
    files: Mapping[str, Path], registry: Registry, where: str, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> ForeignModel | None:
    """What the first format that knows these files says of them; None where no format looks at any of them.

    Args:
        files: name in the repo -> local JSON file.
        registry: the installed plugins.
        where: what messages call the repo.
        shapes: of its tensors, None where they are not here yet.

    Raises:
        IntegrityError: what the files say cannot be.
        PluginError: no installed format knows them, or the library behind one does not know the model.
    """
    parsed = {name: read_json(path, f"{where}: {name}") for name, path in files.items()}
    asked = [entry for entry in registry.entries("format") if entry.spec.files[0] in parsed]
    for entry in asked:
        found = _ask(entry, {name: parsed[name] for name in entry.spec.files if name in parsed}, shapes, where)
        if found is not None:
            return _checked(entry, found, registry, where)
    if not asked:
        return None
    config = parsed[asked[0].spec.files[0]]
    kind = config.get("model_type") if isinstance(config, dict) else None
    what = f"a model of type {kind!r:.40}" if isinstance(kind, str) else "of no form that is known here"
    raise PluginError(
        f"{where} is no bundle of the zoo but {what}, which no installed plugin reads",
        hint=f"formats that are read: {', '.join(e.name for e in registry.entries('format'))}",
    )


def _ask(
    entry: Entry[FormatSpec], files: dict[str, Any], shapes: Mapping[str, tuple[int, ...]] | None, where: str
) -> Foreign | None:
    reader: Any = entry.factory()
    options = parse_options(entry.spec.options, {}, where=entry.spec.name)
    try:
        found: Foreign | None = reader(entry.spec, options, files=files, shapes=shapes)
        return found
    except ZooError as error:
        raise type(error)(f"{where}: {error.message}", hint=error.hint) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise PluginError(f"{where}: format {entry.name} fails: {type(error).__name__}: {reason}") from error


def _checked(entry: Entry[FormatSpec], found: Foreign, registry: Registry, where: str) -> ForeignModel:
    """A reader is a plugin's, its values are a stranger's: they are held to what a bundle's are held to."""
    backbone = registry.backbone(f"{entry.namespace}/{found.backbone}")
    try:
        parse_options(backbone.spec.options, found.options, where="backbone")
    except PluginError:
        raise
    except ZooError as error:
        raise IntegrityError(f"{where}: {error.message}", hint=error.hint) from error
    if isinstance(found.input, ImageInput) and not is_sound(found.input):
        raise IntegrityError(f"{where}: its input is out of range")
    return ForeignModel(format=entry, backbone=backbone, found=found, where=where)


def folder_files(path: Path, known: Collection[str], registry: Registry) -> dict[str, Path]:
    """Those of :func:`wanted_files` that are there."""
    return {name: path / name for name in wanted_files(registry) if name in known and (path / name).is_file()}


def no_tensors(path: Path, tensors: str, where: str) -> IntegrityError:
    """The error for a folder without a safetensors file: names what may hold code, where that is what it has."""
    code = sorted(p.name for p in path.iterdir() if p.suffix.lower() in PICKLES)
    why = f"{code[0]} is of a kind that may hold code and is never loaded" if code else f"there is no {tensors}"
    return IntegrityError(f"{where} has no safe weights: {why}", hint="only safetensors files are read")


def check_plain(path: Path, names: Iterable[str], where: str) -> None:
    """Files of a folder that has no manifest: no link out of it, no code asked for, no giant header.

    Raises:
        IntegrityError: names the file.
    """
    wanted = list(names)
    check_links(path, wanted, where)
    for name in wanted:
        check_content(path / name, name, where)


def load_foreign(
    path: Path,
    files: Collection[str],
    registry: Registry,
    *,
    name: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
) -> LoadedModel | None:
    """Load a folder that another library wrote; None where no installed format looks at any of its files.

    Args:
        path: the folder.
        files: its files; no other is read.
        registry: the installed plugins.
        name, revision: for messages.
        device: where the model goes.

    Raises:
        IntegrityError: its files do not make a model.
        PluginError: no installed format knows it.
        UsageError: it has no classifier that can predict.
    """
    small = folder_files(path, files, registry)
    check_plain(path, small, name)
    read = read_foreign(small, registry, name)
    if read is None:
        return None
    if read.tensors not in files:
        raise no_tensors(path, read.tensors, name)
    from zoo.bundle.parts import tensor_shapes

    check_plain(path, [read.tensors], name)
    shapes = tensor_shapes(path / read.tensors, name)
    read = read_foreign(small, registry, name, shapes)
    assert read is not None
    document = foreign_document(read, registry, licence=card_licence(path / CARD))
    from zoo.bundle.read import LoadedModel, finished
    from zoo.bundle.rebuild import rebuild_model

    model = rebuild_model(document, path, frozenset(files), registry, name, weights=read.tensors)
    finished(model, name, path / read.tensors, device)
    return LoadedModel(model=model, document=document, path=path, name=name, revision=revision)


def foreign_document(read: ForeignModel, registry: Registry, *, licence: str | None = None) -> Document:
    """The model as a bundle's document: its classifier is a folded head of the plain kind.

    Raises:
        UsageError: it has no classifier, or none that is one linear layer.
    """
    found, start = read.found, f"start from it: zoo finetune DATA --backbone {_source(read.where)}"
    if not found.classes:
        raise UsageError(f"{read.where} is a backbone without a classifier, so it predicts nothing", hint=start)
    if found.classifier is None:
        raise UsageError(
            f"the classifier of {read.where} is not one linear layer on the pooled features of {read.backbone.name}, "
            "and the zoo predicts with no other",
            hint=start,
        )
    if found.kind != "regression" and len(set(found.labels)) != found.classes:
        raise IntegrityError(f"{read.where} has {found.classes} classes and {len(set(found.labels))} names for them")
    column = Column(name="label", kind=found.kind, classes=found.labels if found.kind != "regression" else ())
    head = registry.head(default_head((column,)))
    return Document(
        backbone=read.backbone.name,
        backbone_options=dict(found.options),
        head=head.name,
        head_options={},
        input=found.input,
        features="pooled",
        head_form="folded",
        classifier=found.classifier,
        columns=(column,),
        plugins=tuple(
            PluginRecord(namespace=e.namespace, distribution=e.plugin.distribution, version=e.plugin.version)
            for e in (read.backbone, head)
        ),
        golden={},
        version=zoo.__version__,
        license=licence,
    )


def card_licence(card: Path) -> str | None:
    """The licence that a card's front matter states, or None."""
    try:
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return None
    return stated(front_matter(text))


def stated(metadata: Mapping[str, Any]) -> str | None:
    """The licence in a card's metadata: the name that goes with ``other``, where it is that."""
    found = metadata.get("license")
    if found == "other" and isinstance(metadata.get("license_name"), str):
        found = metadata["license_name"]
    return found if isinstance(found, str) and found and found != "unknown" and "\n" not in found else None


def _source(where: str) -> str:
    return where if Path(where).exists() or where.startswith("hf:") else f"hf:{where}"
