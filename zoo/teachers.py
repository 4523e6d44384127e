"""Models that a strategy asks for by name (a teacher): loaded once, and pinned in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo_registry import IntegrityError, Registry

if TYPE_CHECKING:
    import torch

    from zoo.assembly.model import TransferModel


@dataclass(eq=False)
class Teachers:
    """The other models of one run.

    Attributes:
        pinned: name -> ``revision`` (where it came from a hub) and ``sha256`` of its manifest, of an earlier run.
        found: the same, of those that were loaded here, and their ``license`` where it is known.
    """

    registry: Registry
    device: torch.device
    hub: str | None = None
    offline: bool = False
    pinned: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    found: dict[str, dict[str, str]] = field(default_factory=dict)
    _models: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, name: str) -> TransferModel:
        """The model of that name; a pinned one is taken at its commit, and must be the one that it was.

        Raises:
            IntegrityError: it is another one.
            ZooError: see :func:`zoo.models.find_model`.
        """
        if name not in self._models:
            self._models[name] = self._load(name)
        model: TransferModel = self._models[name]
        return model

    def _load(self, name: str) -> TransferModel:
        from zoo.bundle.licences import UNKNOWN, settle
        from zoo.hub.files import MANIFEST, sha256_of
        from zoo.models import find_model, load_found, split_revision
        from zoo.origins import WEIGHTS

        pin = self.pinned.get(name, {})
        at = f"{name}@{pin['revision']}" if "revision" in pin and split_revision(name)[1] is None else name
        found = find_model(at, registry=self.registry, hub=self.hub, offline=self.offline)
        manifest, weights = found.path / MANIFEST, found.path / WEIGHTS  # another library's repo has no manifest
        sha256 = sha256_of(manifest if manifest.is_file() or not weights.is_file() else weights)
        if pin and pin.get("sha256") != sha256:
            raise IntegrityError(
                f"the recipe pins {name!r} to a manifest of sha256 {pin.get('sha256')}, found {sha256}",
                hint="remove [teachers] from the recipe to take the one found",
            )
        loaded = load_found(found, self.registry, device=self.device)
        licence = settle(loaded.document).name
        pin = {"sha256": sha256, **({"revision": found.revision} if found.revision else {})}
        self.found[name] = {**pin, **({"license": licence} if licence != UNKNOWN else {})}
        return loaded.model
