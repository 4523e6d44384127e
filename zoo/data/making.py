"""One sample, read and turned into its views; what can be kept is not made twice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.dataset import Split
from zoo.keys import generator


@dataclass(eq=False)
class SampleMaker:
    """Makes the views of the samples of a split; a function of (seed, epoch, draw, stream, view) and the file.

    What a view always makes of a sample is kept in place of the decoded image: less memory, and nothing left to do.
    Of ``train`` under the evaluation view nothing is kept: that is read once, and would take the room of what is read
    each epoch.

    Attributes:
        split: where samples come from.
        views: view name -> transform. One with a ``kind`` (a text) always makes the same of a sample; one with
            ``only_reads`` does not write to the image it is given.
        seed, stream: parts of the key of every draw.
        short_edge: large images may come so small; None reads them exactly.
    """

    split: Split
    views: Mapping[str, Callable[..., Any]]
    seed: int
    stream: str
    short_edge: int | None = None
    _kinds: dict[str, str] = field(default_factory=dict)
    _keep: bool = True
    _own: bool = True

    def __post_init__(self) -> None:
        kinds = {name: getattr(view, "kind", None) for name, view in self.views.items()}
        once = self.stream == "eval" and self.split.name == "train" and all(kinds.values())
        if not once:
            self._kinds = {name: kind for name, kind in kinds.items() if kind}
        self._keep = not once and len(self._kinds) < len(self.views)
        self._own = not all(getattr(view, "only_reads", False) for view in self.views.values())
        for kind in self._kinds.values():
            self.split.kept.open(kind)
        if self._keep:
            self.split.kept.open(self.split.kind(self.short_edge))

    def make(self, index: int, draw: int, epoch: Hashable) -> dict[str, Any]:
        """View name -> view of one sample.

        Raises:
            BadSample: it cannot be read.
        """
        made = {name: found for name, kind in self._kinds.items() if (found := self._known(kind, index)) is not None}
        if len(made) == len(self.views):
            return made
        image = self._image(index)
        for name, view in self.views.items():
            if name not in made:
                made[name] = view(image, generator(self.seed, epoch, draw, self.stream, name))
                if name in self._kinds:
                    self._remember(self._kinds[name], index, made[name])
        return {name: made[name] for name in self.views}

    def _image(self, index: int) -> Any:
        value, shared = self.split.look(index, self.short_edge, keep=self._keep)
        if not isinstance(value, np.ndarray):
            return torch.from_numpy(value.__array__()) if hasattr(value, "__array_interface__") else value
        image = torch.from_numpy(value.copy() if shared and self._own else value)
        return image.permute(2, 0, 1) if image.ndim == 3 else image

    def _known(self, kind: str, index: int) -> Tensor | None:
        pixels = self.split.kept.get(kind, index, self.split.identity(index))
        return None if pixels is None else torch.from_numpy(pixels).permute(2, 0, 1)

    def _remember(self, kind: str, index: int, view: Any) -> None:
        if isinstance(view, Tensor) and view.ndim == 3:
            self.split.kept.put(kind, index, view.permute(1, 2, 0).numpy(), self.split.identity(index))
