"""What the strategies have in common: inject, train, publish, merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from zoo_registry import Delta, Run, Strategy, TransferModel, UsageError, ZooError

from zoo_peft.adapter import Adapter
from zoo_peft.reading import read_config
from zoo_peft.targets import choose_layers, published_module


class PeftStrategy(Strategy):
    """The backbone is frozen, parameters and BatchNorm statistics; adapters in its linear layers and the head learn.

    ``finish`` merges the adapters into the layers' own weights, so the phase ends as a plain model; the adapter itself
    is what ``delta`` gives, in peft's published layout. The adapter's first values come from torch's default generator.

    Args:
        blocks, layers: which linear layers, see :func:`zoo_peft.targets.choose_layers`.

    Attributes:
        method: name of the method, of the strategy and of its delta.
        adapter: the adapter within the model, between ``prepare`` and ``finish``.
    """

    method: str

    def __init__(self, blocks: int | None, layers: tuple[str, ...]) -> None:
        self.blocks, self.layers = blocks, layers
        self.adapter: Adapter | None = None

    def choose(self, host: nn.Module, layers: Sequence[str]) -> Sequence[str]:
        """Of the linear layers of ``host`` those that the method is for; all, unless it is overridden."""
        return layers

    def make_config(self, host: nn.Module, layers: Sequence[str], total_steps: int) -> Any:
        """The ``peft.PeftConfig`` that adapts exactly these layers of ``host``."""
        raise NotImplementedError

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Freeze the backbone and put an adapter into its linear layers.

        Raises:
            UsageError: no layer is left to adapt.
        """
        host = published_module(model.backbone)
        known = choose_layers(model, self.blocks, self.layers, strategy=self.method)
        layers = self.choose(host, known)
        model.freeze()
        self.adapter = Adapter(host, self.make_config(host, layers, run.total_steps), layers)

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """How many layers are adapted, which, and with how many parameters."""
        adapter = self._injected()
        layers = adapter.tuner.targeted_module_names
        kinds = dict.fromkeys(name.rpartition(".")[2] for name in layers)
        added = sum(p.numel() for p in adapter.host.parameters() if p.requires_grad)
        return (f"adapts {len(layers)} linear layers ({', '.join(kinds)}) with {added:,} parameters",)

    def delta(self, model: TransferModel) -> Delta:
        """The adapter in peft's own layout: content of ``adapter_model.safetensors`` and ``adapter_config.json``."""
        adapter = self._injected()
        return Delta(method=self.method, tensors=adapter.tensors(), config=adapter.published_config())

    def apply(self, model: TransferModel, delta: Delta) -> None:
        """Put a published adapter into a plain model with the base weights, and merge it.

        Of the configuration only numbers are taken, the layers are read off the tensors' names.

        Raises:
            UsageError: the delta is another method's.
            ZooError: it does not fit the backbone, or asks for what this strategy does not do.
        """
        if delta.method != self.method:
            raise UsageError(f"strategy {self.method!r} cannot apply a delta of {delta.method!r}")
        host = published_module(model.backbone)
        config, layers = read_config(self.method, host, delta)
        adapter = Adapter(host, config, layers)
        try:
            adapter.load(delta.tensors)
        except ZooError:
            adapter.remove()
            raise
        adapter.merge()

    def finish(self, model: TransferModel, run: Run) -> None:
        """Merge the adapter into the weights; the modules and their names are the backbone's own again."""
        self._injected().merge()
        self.adapter = None

    def _injected(self) -> Adapter:
        if self.adapter is None:
            raise ZooError(f"strategy {self.method!r}: there is no adapter before prepare() or after finish()")
        return self.adapter
