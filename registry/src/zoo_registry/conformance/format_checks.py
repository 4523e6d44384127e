"""Checks of a format: what it must not take for its own, and what it must find in its own backbones' exports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zoo_registry.building import Foreign
from zoo_registry.conformance.spec_checks import require
from zoo_registry.errors import IntegrityError, PluginError
from zoo_registry.options import parse_options
from zoo_registry.registry import Entry
from zoo_registry.specs import FormatSpec

FormatEntry = Entry[FormatSpec]

OTHERS: tuple[Any, ...] = (
    {},
    [],
    None,
    "text",
    {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8},
    {"_class_name": "UNet2DConditionModel", "sample_size": 64},
)
"""Contents of a ``config.json`` that belong to nobody, or to somebody else."""

JUNK: tuple[Any, ...] = (None, True, -1, 10**12, 1.5, "", "../../etc/passwd", "x" * 10_000, [], [[]], {}, {"a": {}})


def applicable(entry: FormatEntry) -> Iterator[Callable[[FormatEntry], None]]:
    """The checks of this module."""
    yield leaves_other_formats_alone
    yield refuses_what_cannot_be


def _read(entry: FormatEntry, files: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None) -> Any:
    reader: Any = entry.factory()
    options = parse_options(entry.spec.options, entry.spec.example, where=entry.spec.name)
    return reader(entry.spec, options, files=files, shapes=shapes)


def leaves_other_formats_alone(entry: FormatEntry) -> None:
    """Files of somebody else, or of nobody, are no model of this format: the reader says None and raises nothing."""
    for content in OTHERS:
        found = _read(entry, dict.fromkeys(entry.spec.files, content))
        require(found is None, f"takes {content!r:.60} for its own: {found!r:.80}")


def refuses_what_cannot_be(entry: FormatEntry) -> None:
    """Every value of the spec's ``extra["sample"]`` replaced by junk: read, refused in one line, or not its own."""
    sample = entry.spec.extra.get("sample")
    require(isinstance(sample, dict), "extra['sample'] holds no content of its first file to try the reader with")
    assert isinstance(sample, dict)
    first = entry.spec.files[0]
    require(isinstance(_read(entry, {first: sample}), Foreign), "does not know its own sample")
    for place in _places(sample):
        for junk in JUNK:
            try:
                found = _read(entry, {first: _replaced(sample, place, junk)})
            except (IntegrityError, PluginError):
                continue
            require(found is None or isinstance(found, Foreign), f"{place} = {junk!r:.40} gives {found!r:.60}")


def _places(value: Mapping[str, Any], start: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, part in value.items():
        yield (*start, name)
        if isinstance(part, dict):
            yield from _places(part, (*start, name))


def _replaced(value: Mapping[str, Any], place: tuple[str, ...], junk: Any) -> dict[str, Any]:
    name, *rest = place
    return {**value, name: _replaced(value[name], tuple(rest), junk) if rest else junk}
