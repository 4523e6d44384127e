"""From samples to what the model is fed: transforms of the four views, collation, normalisation on the device.

For images the app brings them; a backbone of another modality brings ``transform`` and ``collate`` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from zoo_registry import ImageInput, Input, Strategy, UsageError

from zoo.compute.layout import place_input
from zoo.data.transforms import image_views, normalise


class Pipeline:
    """The input side of one model.

    Args:
        backbone: asked for ``transform`` and ``collate`` where its input is not an image.
        input: facts of the input.
        device: where batches go.

    Attributes:
        memory_format: of the images that the model is fed, see :class:`zoo.compute.path.ComputePath`.
    """

    def __init__(self, backbone: nn.Module, input: Input, device: torch.device) -> None:
        self.input = input
        self.device = device
        self.memory_format = "contiguous"
        self._transform = getattr(backbone, "transform", None)
        collate = getattr(backbone, "collate", None)
        self.loader_options: dict[str, Any] = {"pin_memory": device.type == "cuda", "device": device}
        if collate is not None:
            self.loader_options["collate"] = collate
        if self._transform is None and not isinstance(input, ImageInput):
            raise UsageError(f"the backbone takes {input.kind} but brings no transform for it")

    def transform(
        self, view: str, *, augment: str = "none", strategies: Sequence[Strategy] = (), stream: str = "train"
    ) -> Callable[..., Any]:
        """The sample transform of a view, wrapped by the strategies that augment."""
        if self._transform is not None:
            transform: Callable[..., Any] = self._transform(self.input, view != "eval")
        else:
            assert isinstance(self.input, ImageInput)
            transform = image_views(self.input, augment)[view]
        for strategy in strategies:
            transform = strategy.augment(transform, stream, view)
        return transform

    def short_edge(self, views: Sequence[str], augment: str) -> int | None:
        """How small a large image may be decoded for these views; None where any needs every pixel."""
        if self._transform is not None or not isinstance(self.input, ImageInput):
            return None
        made = image_views(self.input, augment)
        edges = [getattr(made[view], "short_edge", None) for view in views]
        known = [edge for edge in edges if edge is not None]
        return max(known) if known and len(known) == len(edges) else None

    def feed(self, batch: Any, out: torch.Tensor | None = None) -> Any:
        """A collated batch on the device; images uint8 [B, C, H, W] become normalised float32, in ``out`` if given."""
        if isinstance(self.input, ImageInput) and isinstance(batch, torch.Tensor):
            batch = batch.to(self.device, non_blocking=True)
            if self.memory_format == "contiguous":  # before it is four times the bytes
                batch = batch.contiguous()
            return place_input(normalise(batch, self.input, out), self.memory_format)
        if isinstance(batch, dict):
            return {name: tensor.to(self.device) for name, tensor in batch.items()}
        return batch.to(self.device)
