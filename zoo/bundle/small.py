"""The two small forms that ``zoo.json`` may speak of: an adapter beside the weights, a delta in place of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo_registry import IntegrityError, UsageError

from zoo.hub.names import check_name, check_path

ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
ADAPTER_CONFIG = "adapter/adapter_config.json"
DELTA = "delta.safetensors"
FULL_NAME = re.compile(r"[a-z][a-z0-9-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
BASE_KEYS = {
    "hub": ("kind", "repo", "file", "revision", "sha256"),
    "package": ("kind", "distribution", "package", "resource", "sha256"),
}

Wrong = Callable[[str], IntegrityError]


@dataclass(frozen=True, kw_only=True)
class AdapterRecord:
    """What lies in ``adapter/``.

    Attributes:
        strategy: full name of the strategy that made it; ``options`` its options.
        method: what the strategy calls it, such as ``lora``.
        merged: True: the weights hold it already, and it is there for those who want it alone. False: the weights are
            those without it, and the model is not complete before the strategy's ``apply``.
    """

    strategy: str
    method: str
    merged: bool
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"strategy": self.strategy, "options": self.options, "method": self.method, "merged": self.merged}


@dataclass(frozen=True, kw_only=True)
class DeltaRecord:
    """How ``model.safetensors`` is made again where ``delta.safetensors`` is published in its place.

    Attributes:
        base: the weights file it is made from: kind ``hub`` or ``package``, see :data:`BASE_KEYS`.
        from_base: names of the tensors that are the base file's, bit by bit.
        from_adapter: names of those that come of the base by the adapter in ``adapter/``.
        sha256: :func:`zoo.bundle.delta.digest` of all tensors together.
    """

    base: dict[str, str]
    from_base: tuple[str, ...]
    from_adapter: tuple[str, ...]
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        names = {"from_base": list(self.from_base), "from_adapter": list(self.from_adapter)}
        return {"base": self.base, **names, "sha256": self.sha256}


def read_adapter(value: Any, wrong: Wrong) -> AdapterRecord | None:
    """The value of ``adapter`` in ``zoo.json``, checked; ``wrong`` makes the error for what it cannot be."""
    if value is None:
        return None
    fields = {"strategy": str, "options": dict, "method": str, "merged": bool}
    if not isinstance(value, Mapping) or not all(isinstance(value.get(n), kind) for n, kind in fields.items()):
        raise wrong("adapter is not as it should be")
    if not FULL_NAME.fullmatch(value["strategy"]) or not _METHOD.fullmatch(value["method"]):
        raise wrong(f"adapter names a strategy {value['strategy']!r:.60} or a method that cannot be one")
    return AdapterRecord(**{name: value[name] for name in fields})


def read_delta(value: Any, wrong: Wrong) -> DeltaRecord | None:
    """The value of ``delta`` in ``zoo.json``, checked likewise."""
    if value is None:
        return None
    lists = [value.get(n) if isinstance(value, Mapping) else None for n in ("from_base", "from_adapter")]
    if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in lists):
        raise wrong("delta does not list what it takes from the base")
    taken, adapted = (tuple(names or ()) for names in lists)
    if len({*taken, *adapted}) != len(taken) + len(adapted):
        raise wrong("delta lists a tensor twice")
    if not isinstance(value.get("sha256"), str) or not _SHA256.fullmatch(value["sha256"]):
        raise wrong("delta has no sha256")
    return DeltaRecord(
        base=_base(value.get("base"), wrong), from_base=taken, from_adapter=adapted, sha256=value["sha256"]
    )


def _base(value: Any, wrong: Wrong) -> dict[str, str]:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    keys = BASE_KEYS.get(kind, ()) if isinstance(kind, str) else ()
    if not keys or set(value) != set(keys) or not all(isinstance(v, str) for v in value.values()):
        raise wrong("delta.base is not as it should be")
    path = value["file" if kind == "hub" else "resource"]
    try:
        check_path(path)
        if kind == "hub":
            check_name(value["repo"])
    except (UsageError, IntegrityError) as error:
        raise wrong(f"delta.base: {error.message}") from error
    good = path.endswith(".safetensors") and _SHA256.fullmatch(value["sha256"])
    if kind == "hub":
        good = good and _COMMIT.fullmatch(value["revision"])
    else:
        good = good and DISTRIBUTION.fullmatch(value["distribution"]) and _PACKAGE.fullmatch(value["package"])
    if not good:
        raise wrong("delta.base is not one safetensors file, known by commit and sha256")
    return {key: value[key] for key in keys}
