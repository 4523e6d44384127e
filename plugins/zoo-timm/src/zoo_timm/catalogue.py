"""The catalogue file: one JSON of columns, read into specs without importing torch or timm.

Values that repeat (inputs, widths, capabilities, licences) stand once in a table and rows hold their index; rows share
the objects made from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo_registry import BackboneSpec, Fact, ImageInput, PluginError, Weights

from zoo_timm.options import TimmOptions

FORMAT = 1
PATH = Path(__file__).with_name("catalogue.json")
COLUMNS = ("name", "input", "widths", "able", "parameters", "family", "license", "weights", "default")
FACTORY = "zoo_timm.backbone:build"
LICENSE_SOURCE = "timm's pretrained_cfg"


def read_catalogue() -> list[BackboneSpec]:
    """The rows of the shipped catalogue, and those that ``python -m zoo_timm.refresh`` found in a newer timm.

    Raises:
        PluginError: the catalogue cannot be read.
    """
    specs = list(rows(load(PATH)))
    extra = newer_catalogue()
    if extra is not None:
        known = {spec.name for spec in specs}
        aliases = {alias for spec in specs for alias in spec.aliases}
        specs += [spec for spec in rows(load(extra), taken=aliases) if spec.name not in known]
    return specs


def cache_folder() -> Path:
    """Where ``zoo_timm.refresh`` writes: ``$XDG_CACHE_HOME/zoo-timm``, by default ``~/.cache/zoo-timm``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo-timm"


def cache_file(version: str) -> Path:
    """The file of names that timm ``version`` has beyond the shipped catalogue."""
    return cache_folder() / f"timm-{version}.json"


def newer_catalogue() -> Path | None:
    """The refreshed file of the timm that is installed, None where there is none."""
    if not cache_folder().is_dir():  # the usual case: not even the version is looked up
        return None
    from importlib.metadata import PackageNotFoundError, version

    try:
        path = cache_file(version("timm"))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def load(path: Path) -> dict[str, Any]:
    """The columns of one file.

    Raises:
        PluginError: the file is damaged or of another format.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PluginError(f"the timm catalogue '{path}' cannot be read: {error}", _cure(path)) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PluginError(f"the timm catalogue '{path}' is not of format {FORMAT}", _cure(path))
    return data


def rows(data: Mapping[str, Any], taken: set[str] | None = None) -> Iterator[BackboneSpec]:
    """The specs of a loaded file. ``taken`` are aliases that are already given away."""
    inputs = [make_input(values) for values in data["inputs"]]
    kinds = [{k: tuple(w) if isinstance(w, list) else w for k, w in widths.items()} for widths in data["features"]]
    capabilities = [frozenset(names) for names in data["capabilities"]]
    facts = _facts(data)
    columns = zip(*(data[key] for key in COLUMNS), facts, strict=True)
    licenses = [*data["licenses"], None]
    families, ranks = data["families"], data["recommended"]
    blank = BackboneSpec(name="row", summary="a row", factory=FACTORY, options=TimmOptions, features={"pooled": 1})
    for name, image, widths, able, parameters, family, license, weights, default, found in columns:
        architecture, _, tag = name.partition(".")
        alias = tag and default and not (taken and architecture in taken)
        yield _quick(
            blank,
            (
                ("name", name),
                ("summary", _summary(architecture, tag, parameters, inputs[image].size[0])),
                ("aliases", (architecture,) if alias else ()),
                ("extra", {"architecture": architecture, "tag": tag}),
                ("input", inputs[image]),
                ("features", kinds[widths]),
                ("weights", _weights(name, weights, licenses[-1 if license is None else license])),
                ("parameters", parameters),
                ("family", families[family]),
                ("facts", tuple(found)),
                ("recommended", ranks.get(name, 0)),
                ("capabilities", capabilities[able]),
            ),
        )


def _quick(template: Any, values: Iterable[tuple[str, Any]]) -> Any:
    """A copy of a frozen dataclass with other ``values``, without its ``__init__`` and ``__post_init__``.

    2,000 specs and 12,000 facts are made in a fifth of the time; a test makes the skipped checks on every shipped row.
    """
    copy = object.__new__(type(template))
    copy.__dict__.update(template.__dict__)
    copy.__dict__.update(values)
    return copy


def make_input(values: list[Any]) -> ImageInput:
    """An input from its row: height, width, channels, mean, std, interpolation, crop, crop mode, fixed."""
    height, width, channels, mean, std, interpolation, crop_pct, crop_mode, fixed = values
    return ImageInput(
        size=(height, width),
        channels=channels,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        fixed_size=bool(fixed),
    )


def _summary(architecture: str, tag: str, parameters: int, size: int) -> str:
    trained = f"trained as {tag}" if tag else "no pretrained weights"
    return f"{architecture}, {trained}; {parameters / 1e6:.1f} M parameters, {size} px"


def _weights(name: str, where: int | str, license: str | None) -> Weights | None:
    """``where``: 0 nowhere, 1 in timm's own hub repo, a repo, or a URL (which is a pickle or an archive)."""
    if where == 0:
        return None
    terms = (("license", license), ("license_source", LICENSE_SOURCE if license else None))
    if isinstance(where, str) and "://" in where:
        return _quick(_NOWHERE, (("unsafe", f"no safetensors, only {where}"), *terms))  # type: ignore[no-any-return]
    return _quick(_NOWHERE, (("repo", f"timm/{name}" if where == 1 else where), *terms))  # type: ignore[no-any-return]


_NOWHERE = Weights()


def _facts(data: Mapping[str, Any]) -> list[list[Fact]]:
    """The facts of each row. A column holds values, and the image sizes that they were measured at."""
    found: list[list[Fact]] = [[] for _ in data["name"]]
    for name, column in data["facts"].items():
        sources = {size: f"{column['source']}, {size} px" for size in set(column["size"])}
        for index, value, size in zip(column["row"], column["value"], column["size"], strict=True):
            fact = object.__new__(Fact)  # as _quick does, and without its loop
            fields = fact.__dict__
            fields["name"] = name
            fields["value"] = value
            fields["source"] = sources[size]
            found[index].append(fact)
    return found


def _cure(path: Path) -> str:
    return "pip install --force-reinstall zoo-timm" if path == PATH else f"delete '{path}'"
