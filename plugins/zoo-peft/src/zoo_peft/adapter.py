"""An adapter of the peft library in a module: injected, published in peft's own layout, loaded, merged.

The library works on the module whose names are published (timm's own, say), so that what it writes fits that library's
model and no other names than its own appear.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import ZooError

NAME = "default"
"""peft's name of its first adapter; it stands in the names of injected tensors and in no published one."""


class Adapter:
    """An adapter within ``host``, whose layers it replaces in place.

    Args:
        host: the module to adapt; parameters outside the adapter are frozen.
        config: a ``peft.PeftConfig``.
        layers: names of the layers in ``host`` that it must come to.

    Attributes:
        wrapped: peft's ``PeftModel`` around ``host``.

    Raises:
        ZooError: peft adapted other layers than these.
    """

    def __init__(self, host: nn.Module, config: Any, layers: Sequence[str]) -> None:
        import_peft()
        from peft import PeftModel

        self.host = host
        self._attributes = set(vars(host))
        with quiet():
            self.wrapped: Any = PeftModel(host, config, adapter_name=NAME)
        got = set(self.wrapped.base_model.targeted_module_names)
        if got != set(layers):
            self.remove()
            raise ZooError(f"peft adapted other layers than it was told: {sorted(got ^ set(layers))[:3]}")

    @property
    def tuner(self) -> Any:
        """peft's tuner: it knows the injected layers."""
        return self.wrapped.base_model

    @property
    def config(self) -> Any:
        """The ``peft.PeftConfig``."""
        return self.tuner.peft_config[NAME]

    def tensors(self) -> dict[str, Tensor]:
        """The content of ``adapter_model.safetensors``, on the CPU."""
        from peft import get_peft_model_state_dict

        with quiet():
            found = get_peft_model_state_dict(self.wrapped, adapter_name=NAME)
        return {name: found[name].detach().to("cpu", copy=True).contiguous() for name in sorted(found)}

    def published_config(self) -> dict[str, Any]:
        """The content of ``adapter_config.json``."""
        kind = type(self.host)
        mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
        training, self.config.inference_mode = self.config.inference_mode, True
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.config.save_pretrained(folder, auto_mapping_dict=mapping)
                content: dict[str, Any] = json.loads(next(Path(folder).glob("*.json")).read_text())
        finally:
            self.config.inference_mode = training
        for name, value in content.items():
            if name.endswith("_modules") and isinstance(value, list):
                content[name] = sorted(value)  # a set in peft, whose order changes from process to process
        return content

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors in the published layout.

        Raises:
            ZooError: some are missing, some are foreign, or one has another shape.
        """
        from peft import set_peft_model_state_dict

        wanted = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wanted != given:
            wrong = sorted(n for n in wanted.keys() | given.keys() if wanted.get(n) != given.get(n))
            raise ZooError(f"the adapter's tensors do not fit its configuration: {', '.join(wrong[:3])}")
        with quiet():
            set_peft_model_state_dict(self.wrapped, dict(tensors), adapter_name=NAME)

    def merge(self) -> None:
        """Put the update into the plain weights and take the adapter out; ``host`` is as it was, but for the weights.

        Raises:
            ZooError: the update is not finite.
        """
        try:
            with quiet(), torch.no_grad():
                self.tuner.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ZooError(f"the adapter cannot be merged: {error}") from error
        self._clean()

    def remove(self) -> None:
        """Take the adapter out; ``host`` is as it was, weights and all."""
        with quiet():
            self.tuner.unload()
        self._clean()

    def _clean(self) -> None:
        for name in set(vars(self.host)) - self._attributes:
            delattr(self.host, name)


def import_peft() -> Any:
    """The library, imported without the warnings of what it imports in turn."""
    with quiet():
        import peft
    return peft


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of the library are about its own inner workings: they say nothing to our users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
