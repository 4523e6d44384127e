"""A tiny backbone and head with everything that the contract knows, to check other heads and strategies on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_registry.building import Classifier, Column, LoadReport
from zoo_registry.errors import UsageError

WIDTH = 16
FEATURES: Mapping[str, int | tuple[int, ...]] = {"pooled": WIDTH, "map": WIDTH, "tokens": WIDTH, "pyramid": (8, WIDTH)}
CAPABILITIES = frozenset({"blocks", "linear_layers", "intermediates", "insert_tokens", "native_head", "encode_text"})
IMAGE = (3, 16, 16)


class Mixer(nn.Module):
    """One transformer block with a single attention head on tokens [B, N, D]; extra tokens may stand in front."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.inserted: tuple[Tensor, ...] = ()  # in a tuple, so that torch registers no parameter here

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, N, D]."""
        extra = sum(len(tokens) for tokens in self.inserted)
        x = torch.cat([*(tokens.expand(len(x), -1, -1) for tokens in self.inserted), x], dim=1)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        x = x + self.narrow(F.gelu(self.widen(x)))
        return x[:, extra:]


class TinyBackbone(nn.Module):
    """Two convolutions with BatchNorm and one :class:`Mixer`; images [B, 3, 16, 16], 16 features.

    Args:
        features: what ``forward`` returns, a key of :data:`FEATURES`.
    """

    load_report: LoadReport | None = None

    def __init__(self, features: str = "pooled") -> None:
        super().__init__()
        self.features = features
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.mixer = Mixer(WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Features of images [B, 3, 16, 16], in the kind asked for."""
        fine, coarse = self.intermediates(x)
        if self.features == "pyramid":
            return [fine, coarse]
        tokens: Tensor = self.norm(self.mixer(coarse.flatten(2).transpose(1, 2)))
        if self.features == "tokens":
            return tokens
        return tokens.mean(1) if self.features == "pooled" else tokens.transpose(1, 2).reshape(coarse.shape)

    def intermediates(self, x: Tensor) -> list[Tensor]:
        """Maps [B, 8, 8, 8] and [B, 16, 4, 4]."""
        fine = self.stem(x)
        return [fine, self.body(fine)]

    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Stem first."""
        return {name: (name,) for name in ("stem", "body", "mixer", "norm")}

    def linear_layers(self) -> tuple[str, ...]:
        """The mixer's layers."""
        return tuple(f"mixer.{name}" for name in ("qkv", "out", "widen", "narrow"))

    def insert_tokens(self, block: str, tokens: Tensor | None) -> None:
        """Put tokens [N, D] in front of the mixer's sequence."""
        if block != "mixer":
            raise UsageError(f"block {block!r} has no token sequence", hint="'mixer' has")
        self.mixer.inserted = () if tokens is None else (tokens,)

    def native_head(self) -> nn.Linear:
        """A classifier of five classes, the same on each call."""
        layer = nn.Linear(WIDTH, 5)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(5)))
            layer.bias.zero_()
        return layer

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [len(texts), 16], drawn from each text."""
        seeds = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        return F.normalize(torch.stack([torch.randn(WIDTH, generator=g) for g in seeds]), dim=1)


class TinyHead(nn.Module):
    """A linear layer per classification column, with a closed form: least squares on one-hot targets."""

    def __init__(self, width: int, targets: tuple[Column, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({column.name: nn.Linear(width, column.size) for column in targets})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: logits [B, C]}``."""
        return {name: layer(features) for name, layer in self.layers.items()}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy [B], NaN where the label is missing."""
        return {name: _cross_entropy(logits, targets[name]) for name, logits in outputs.items()}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities [B, C]."""
        return {name: logits.softmax(1) for name, logits in outputs.items()}

    def fit(self, features: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Ridge regression on centred one-hot targets, scaled by 10 to be logits."""
        for name, layer in self.layers.items():
            known = targets[name] >= 0
            x, hot = features[known], F.one_hot(targets[name][known], layer.out_features).float()
            mean = x.mean(0)
            gram = (x - mean).T @ (x - mean) + 1e-3 * torch.eye(x.shape[1])
            weight = torch.linalg.solve(gram, (x - mean).T @ (hot - hot.mean(0))).T
            with torch.no_grad():
                layer.weight.copy_(10 * weight)
                layer.bias.copy_(10 * (hot.mean(0) - weight @ mean))

    def fold(self) -> Classifier | None:
        """The layer, where there is one column."""
        if len(self.layers) != 1:
            return None
        layer = next(iter(self.layers.values()))
        return Classifier(layer.weight.detach(), layer.bias.detach())


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        missing = targets.isnan().any(1)
        losses = F.cross_entropy(logits, targets.masked_fill(missing[:, None], 0.0), reduction="none")
        return losses.masked_fill(missing, torch.nan)
    losses = F.cross_entropy(logits, targets.clamp(min=0), reduction="none")
    return torch.where(targets >= 0, losses, torch.nan)
