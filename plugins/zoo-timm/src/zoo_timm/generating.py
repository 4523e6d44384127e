"""Turn timm's configurations and measurements into a catalogue. Used by the generator and by ``zoo_timm.refresh``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg

from zoo_timm.catalogue import COLUMNS, FORMAT
from zoo_timm.results import read_results

Catalogue = dict[str, Any]
Measurements = dict[str, dict[str, Any]]

RECOMMENDED = {
    # Accuracy, robustness and speed are of timm's results tables: ImageNet top-1 / v2, images/s on one CPU / RTX 4090.
    "convnext_tiny.in12k_ft_in1k": 9,  # 84.2 / 74.1, 69 / 4,800: best accuracy at a speed a laptop bears; Apache-2.0
    "tiny_vit_21m_224.dist_in22k_ft_in1k": 8,  # 85.1 / 75.0, 51 / 3,800: a little better and slower
    "mobilenetv4_conv_small.e2400_r224_in1k": 7,  # 73.8 / 60.9, 247 / 32,000: 3.8 M parameters, for the edge
    "vit_small_patch14_dinov2.lvd142m": 6,  # no classifier of its own; strong as frozen features
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": 5,  # 85.1 / 75.3, 32 / 3,000: the plain ViT that methods assume
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k": 4,  # 86.4 / 76.7, sketch 59.8: robust, wants a GPU
    "resnet50.a1_in1k": 3,  # 80.4 / 68.5, 67 / 4,300: what everybody compares with
    "resnet18.a1_in1k": 2,  # 71.5 / 59.3, 126 / 13,700: small and familiar
}
"""First choices, higher is better; all permissively licensed."""

PROJECTIONS = (384, 512, 640, 768, 1024, 1152, 1280)
"""Output widths of CLIP-like towers: timm calls the projection their classifier, but it knows no classes."""


@dataclass(frozen=True)
class Tagged:
    """One name of timm: an architecture with a pretrained tag, or without any."""

    name: str
    architecture: str
    tag: str
    config: PretrainedCfg
    default: bool


def names() -> dict[str, Tagged]:
    """Every pretrained tag as ``architecture.tag``, and every architecture that has none under its bare name.

    Aliases that timm deprecated are left out, and tags that announce weights which were never published.
    """
    found: dict[str, Tagged] = {}
    for architecture in timm.list_models():
        configs = {name: c for name, c in timm.models.get_arch_pretrained_cfgs(architecture).items() if c.has_weights}
        default = timm.get_pretrained_cfg(architecture) or PretrainedCfg(architecture=architecture)
        if not configs:
            found[architecture] = Tagged(architecture, architecture, "", default, True)
        for name, config in configs.items():
            tag = name.removeprefix(architecture).removeprefix(".")
            found[name] = Tagged(name, architecture, tag, config, config.tag == default.tag)
    return found


NUMBERS = "#numbers"
"""Behind a name: compare numbers, see :func:`zoo_timm.measuring.measure_numbers`."""

LARGEST_COMPARED = 120_000_000
"""Parameters of the largest model that is built twice on the CPU, at 224 pixels; larger images count in proportion."""


def probes() -> list[str]:
    """The names to measure: one for each distinct input, stem and classifier of an architecture."""
    wanted = []
    seen: set[tuple[Any, ...]] = set()
    for name, row in names().items():
        config = row.config
        fixed = config.input_size if config.fixed_input_size else None
        key = (row.architecture, fixed, config.input_size[0], str(config.classifier), str(config.first_conv))
        if key not in seen:
            wanted.append(name)
            seen.add(key)
    return wanted


def numeric_probes(measured: Measurements) -> list[str]:
    """The smallest of each group of architectures that should behave alike, to have their numbers compared."""
    smallest: dict[tuple[Any, ...], str] = {}
    for name, row in measured.items():
        if "failed" in row or NUMBERS in name:
            continue
        group = _group(name, row)
        if group not in smallest or _cost(name, row) < _cost(smallest[group], measured[smallest[group]]):
            smallest[group] = name
    return [name + NUMBERS for name in smallest.values() if _cost(name, measured[name]) <= LARGEST_COMPARED]


def _cost(name: str, row: dict[str, Any]) -> float:
    _, height, width = (timm.get_pretrained_cfg(name) or PretrainedCfg()).input_size
    return float(row["parameters"] * height * width / 224**2)


def _group(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()
    able = "classifier" in row["capabilities"]
    return (_family(name), str(config.classifier), able, "tokens" in row["widths"], "map" in row["widths"])


def _family(name: str) -> str:
    return str(timm.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2])


def refuted(measured: Measurements) -> dict[tuple[Any, ...], set[str]]:
    """Group -> what shapes promised and numbers did not keep: ``classifier``, ``map``."""
    found: dict[tuple[Any, ...], set[str]] = {}
    for name, row in measured.items():
        base = name.removesuffix(NUMBERS)
        if NUMBERS in name and "failed" not in row and base in measured:
            found[_group(base, measured[base])] = {"classifier", "map"} - set(row["capabilities"])
    return found


def assemble(measured: Measurements, facts: Path | Catalogue | None, *, only: Iterable[str] | None = None) -> Catalogue:
    """The catalogue's columns; of the names ``only``, where given.

    Args:
        measured: name -> fields of :class:`zoo_timm.measuring.Measured`, or ``{"failed": reason}``.
        facts: timm's results folder, an old catalogue whose facts are kept, or None.
    """
    good = {name: row for name, row in measured.items() if "failed" not in row and NUMBERS not in name}
    by_architecture = {name.partition(".")[0]: name for name in reversed(good)}
    wrong = refuted(measured)
    tables: dict[str, list[Any]] = {key: [] for key in ("inputs", "features", "capabilities", "families", "licenses")}
    columns: dict[str, list[Any]] = {key: [] for key in COLUMNS}
    wanted, fallback = None if only is None else set(only), set()
    for name, row in names().items():
        source = name if name in good else by_architecture.get(row.architecture)
        if source is None or not good[source]["widths"] or (wanted is not None and name not in wanted):
            continue
        if not good[source]["grouped"]:
            fallback.add(row.architecture)
        _append(columns, tables, row, _without(good[source], wrong.get(_group(source, good[source]), set())))
    data: Catalogue = {"format": FORMAT, "timm": timm.__version__, **tables, **columns}
    data["recommended"] = {name: rank for name, rank in RECOMMENDED.items() if name in columns["name"]}
    data["facts"] = _make_facts(data, facts)
    data["fallback_blocks"] = sorted(fallback)
    return data


def _without(found: dict[str, Any], wrong: set[str]) -> dict[str, Any]:
    """Measurements less what numbers refuted; where the map is not one, tokens are not what they seem either."""
    gone = wrong | ({"tokens"} if "map" in wrong and "map" in found["widths"] else set())
    widths = {kind: width for kind, width in found["widths"].items() if kind not in gone}
    return {**found, "widths": widths, "capabilities": [c for c in found["capabilities"] if c not in wrong]}


def _append(columns: dict[str, list[Any]], tables: dict[str, list[Any]], row: Tagged, found: dict[str, Any]) -> None:
    able = capabilities(row.config, found["capabilities"])
    license = row.config.license
    values = {
        "name": row.name,
        "input": _index(tables["inputs"], input_row(row.config, fixed="image_size" not in able)),
        "widths": _index(tables["features"], found["widths"]),
        "able": _index(tables["capabilities"], able),
        "parameters": found["parameters"],
        "family": _index(tables["families"], _family(row.name)),
        "license": None if license in (None, "unknown") else _index(tables["licenses"], license),
        "weights": weights_of(row.name, row.config),
        "default": int(row.default),
    }
    for key, value in values.items():
        columns[key].append(value)


def input_row(config: PretrainedCfg, *, fixed: bool) -> list[Any]:
    """The row that :func:`zoo_timm.catalogue.make_input` reads; timm's training size and crop, as timm evaluates."""
    channels, height, width = config.input_size
    transform = [list(config.mean), list(config.std), config.interpolation, config.crop_pct, config.crop_mode]
    return [height, width, channels, *transform, int(fixed)]


def capabilities(config: PretrainedCfg, measured: list[str]) -> list[str]:
    """What the architecture can, less what this tag has not: one without classes has no native classifier.

    So a tag of siglip, dinov2 or dinov3, whose weights hold features alone, does not get ``classifier``.
    """
    found = set(measured)
    if not config.num_classes:
        found.discard("classifier")
    if "classifier" in found and config.has_weights and config.num_classes not in PROJECTIONS:
        found.add("native_head")
    return sorted(found)


def weights_of(name: str, config: PretrainedCfg) -> int | str:
    """What :func:`zoo_timm.catalogue._weights` reads.

    timm looks for ``model.safetensors`` first in every hub repo it names; a tag that has only a URL is a pickle.
    """
    if config.hf_hub_id:
        return 1 if config.hf_hub_id == f"timm/{name}" else config.hf_hub_id
    return str(config.url) if config.url else 0


def _make_facts(data: Catalogue, source: Path | Catalogue | None) -> dict[str, Any]:
    if source is None:
        return {}
    if isinstance(source, Path):
        sizes = {n: data["inputs"][i][0] for n, i in zip(data["name"], data["input"], strict=True)}
        return read_results(source, data["name"], sizes)
    place = {name: index for index, name in enumerate(data["name"])}
    kept: dict[str, Any] = {}
    for fact, column in source["facts"].items():
        old = [source["name"][index] for index in column["row"]]
        keep = [i for i, name in enumerate(old) if name in place]
        kept[fact] = {
            "source": column["source"],
            "row": [place[old[i]] for i in keep],
            "value": [column["value"][i] for i in keep],
            "size": [column["size"][i] for i in keep],
        }
    return kept


def _index(table: list[Any], value: Any) -> int:
    if value not in table:
        table.append(value)
    return table.index(value)


def to_text(data: Catalogue) -> str:
    """One line per column, so that a diff shows what changed."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in data.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def drift(data: Catalogue | None) -> list[str]:
    """What differs between the catalogue and the installed timm's names and configurations; nothing is built."""
    if data is None:
        return ["there is no catalogue"]
    current = names()
    listed = {name: index for index, name in enumerate(data["name"])}
    problems = [f"the catalogue is of timm {data['timm']}, installed is {timm.__version__}"]
    problems = [] if data["timm"] == timm.__version__ else problems
    problems += [f"{name}: not in the catalogue" for name in current if name not in listed]
    problems += [f"{name}: not in timm" for name in listed if name not in current]
    for name in (n for n in current if n in listed):
        index, config = listed[name], current[name].config
        image = data["inputs"][data["input"][index]]
        license = data["license"][index]
        pairs = {
            "input": (image[:-1], input_row(config, fixed=False)[:-1]),
            "weights": (data["weights"][index], weights_of(name, config)),
            "license": (
                None if license is None else data["licenses"][license],
                None if config.license == "unknown" else config.license,
            ),
            "default": (data["default"][index], int(current[name].default)),
        }
        problems += [f"{name}: {key} {a} in the catalogue, {b} in timm" for key, (a, b) in pairs.items() if a != b]
    return problems


def differences(old: Catalogue | None, new: Catalogue) -> list[str]:
    """Differences between two catalogues, row by row and table entries resolved."""
    if old is None:
        return ["there is no catalogue"]
    before, after = _resolved(old), _resolved(new)
    problems = [f"{name}: only in the {which}" for name, which in _one_sided(before, after)]
    for name in before.keys() & after.keys():
        problems += [
            f"{name}: {k} {before[name][k]} != {after[name][k]}" for k in COLUMNS if before[name][k] != after[name][k]
        ]
    return sorted(problems)


def _one_sided(before: Catalogue, after: Catalogue) -> list[tuple[str, str]]:
    return [(n, "catalogue") for n in before if n not in after] + [(n, "new one") for n in after if n not in before]


def _resolved(data: Catalogue) -> dict[str, dict[str, Any]]:
    tables = {
        "input": "inputs",
        "widths": "features",
        "able": "capabilities",
        "family": "families",
        "license": "licenses",
    }
    found = {}
    for values in zip(*(data[key] for key in COLUMNS), strict=True):
        row = dict(zip(COLUMNS, values, strict=True))
        found[row["name"]] = {k: data[tables[k]][v] if k in tables and v is not None else v for k, v in row.items()}
    return found
