"""Reading a published adapter: numbers from its configuration, the layers from its tensors' names, nothing else.

A configuration of peft can name modules to import, patterns and conversions. None of that is taken from a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from zoo_registry import Delta, IntegrityError

from zoo_peft.adapter import import_peft, quiet
from zoo_peft.options import MAX_RANK
from zoo_peft.targets import exact_pattern, linear_layer

PREFIX = "base_model.model."
"""In front of every published name."""

NUMBERS = {
    "lora": ("r", "lora_alpha", "use_rslora", "use_dora"),
    "dora": ("r", "lora_alpha", "use_rslora", "use_dora"),
    "ia3": (),
    "adalora": ("init_r", "lora_alpha"),
}
"""Method -> what is taken from its configuration."""

TYPES = {"lora": "LORA", "dora": "LORA", "ia3": "IA3", "adalora": "ADALORA"}

ORIGIN = {"peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"}
TRAINING = {"lora_dropout", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"}
OF_TENSORS = {"peft_type", "r", "rank_pattern", "target_modules", "feedforward_modules"}

IRRELEVANT = frozenset(ORIGIN | TRAINING | OF_TENSORS)
"""What does not change the merged weights, or is read off the tensors; ``rank_pattern`` is AdaLoRA's alone."""


def read_config(method: str, host: nn.Module, delta: Delta) -> tuple[Any, list[str]]:
    """The ``peft.PeftConfig`` that ``delta`` stands for, and the names in ``host`` of the layers that it adapts.

    Raises:
        IntegrityError: the configuration is another method's, asks for what the strategy never writes, or does not
            belong to the tensors.
        ZooError: ``host`` lacks a layer.
    """
    peft = import_peft()
    layers = adapted_layers(delta.tensors)
    for name in layers:
        linear_layer(host, name)
    if delta.config.get("peft_type") != TYPES[method]:
        raise IntegrityError(f"the adapter's configuration is of {delta.config.get('peft_type')!r}, not {method!r}")
    kind = {"LORA": peft.LoraConfig, "IA3": peft.IA3Config, "ADALORA": peft.AdaLoraConfig}[TYPES[method]]
    _refuse_unusual(method, delta.config, kind(total_step=1) if method == "adalora" else kind())
    values = {name: _number(delta.config, name) for name in NUMBERS[method]}
    if "use_dora" in values and values["use_dora"] != (method == "dora"):
        raise IntegrityError(f"the adapter's configuration is not {method!r}: use_dora={values['use_dora']}")
    values["target_modules"] = exact_pattern(host, layers)
    values |= _of_tensors(method, host, layers, delta.tensors, values)
    with quiet():
        return kind(**values), layers


def adapted_layers(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers that published tensors belong to.

    Raises:
        IntegrityError: a name is not one that peft publishes.
    """
    layers: dict[str, None] = {}
    for name in tensors:
        path, _, part = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if not name.startswith(PREFIX) or not path or not part.startswith(("lora_", "ia3_")):
            raise IntegrityError(f"{name!r} is no tensor of an adapter")
        layers[path] = None
    if not layers:
        raise IntegrityError("the adapter is empty")
    return list(layers)


def _of_tensors(
    method: str, host: nn.Module, layers: list[str], tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> dict[str, Any]:
    """What the shapes of the tensors say."""
    parts = {name: {n: t for n, t in tensors.items() if n.startswith(f"{PREFIX}{name}.")} for name in layers}
    if method == "ia3":
        inputs = [n for n in layers if all(t.ndim == 2 and t.shape[0] == 1 for t in parts[n].values())]
        return {"feedforward_modules": exact_pattern(host, inputs, dotted=False)}
    if method == "adalora":
        rank = int(values["init_r"])
        kept = {name: _rows(parts[name], "lora_E") for name in layers}
        if not 0 < rank <= MAX_RANK or max(kept.values()) > rank:
            raise IntegrityError(f"the adapter's init_r={rank} does not belong to its tensors")
        pattern = {f"{n}.lora_E": [True] * kept[n] + [False] * (rank - kept[n]) for n in layers}
        return {"rank_pattern": pattern, "total_step": 1}
    ranks = {_rows(parts[name], "lora_A") for name in layers}
    if ranks != {values["r"]}:
        raise IntegrityError(f"the adapter's r={values['r']} does not belong to its tensors")
    return {}


def _rows(parts: Mapping[str, Tensor], end: str) -> int:
    """Rows of the one tensor of a layer whose name ends so."""
    for name, tensor in parts.items():
        if name.removesuffix(".weight").endswith(end) and tensor.ndim == 2:
            return int(tensor.shape[0])
    raise IntegrityError(f"the adapter lacks a tensor {end!r}")


def _number(config: Mapping[str, Any], name: str) -> Any:
    value = config.get(name)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise IntegrityError(f"the adapter's configuration has {name}={value!r}, not a number")
    return value


def _refuse_unusual(method: str, config: Mapping[str, Any], usual: Any) -> None:
    """Refuse settings that are not peft's own defaults and that no strategy of this package writes."""
    defaults = usual.to_dict()
    ignored = IRRELEVANT | set(NUMBERS[method])
    if method != "adalora":
        ignored = ignored - {"rank_pattern"}
    for name, value in config.items():
        if name not in ignored and value and value != defaults.get(name):
            raise IntegrityError(
                f"the adapter's configuration has {name}={value!r}, which this strategy never writes",
                hint="load it with peft itself",
            )
