"""The attention head: learned queries pick what they need from a sequence of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_registry import Column, HeadSpec, UsageError

from zoo_basics.heads.columns import INIT_STD, ClassificationHead, output_layer
from zoo_basics.options.heads import AttentionOptions


class AttentionHead(ClassificationHead):
    """``z_q = O softmax(q K(t) / sqrt(d)) V(t)`` for learned queries ``q``; the ``z_q`` side by side, then one linear
    layer with softmax.

    Pooling by multi-head attention: Lee et al., Set Transformer, ICML 2019 (arXiv 1810.00825); on frozen vision
    transformers the attentive probe of Bardes et al., V-JEPA (arXiv 2404.08471). Tokens are normalised first (layer
    norm). ``V`` and ``O`` start as the identity and the queries near zero, so the head starts as a linear layer on the
    mean token.

    Args:
        width: D of the tokens [B, N, D]; a vector of zeros is padding and gets no attention. A map [B, D, H, W] is
            taken as H W tokens, none of them padding.
        targets: columns of the kind classification; they share the pooling.
        options: number of queries and of attention heads, dropout on the pooled features.

    Raises:
        UsageError: D cannot be divided by the number of heads.
    """

    def __init__(self, width: int, targets: tuple[Column, ...], options: AttentionOptions) -> None:
        super().__init__(targets)
        if width % options.heads:
            raise UsageError(
                f"head attention: {width} features cannot be divided among {options.heads} attention heads",
                hint=f"--set head.heads={next(n for n in range(options.heads, 0, -1) if width % n == 0)}",
            )
        self.heads = options.heads
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(options.queries, width) * INIT_STD)
        self.key = nn.Linear(width, width, bias=False)  # a softmax over tokens takes no notice of a constant
        self.value = _identity(width)
        self.mix = _identity(width)
        self.dropout = nn.Dropout(options.dropout)
        self.layer = output_layer(options.queries * width, sum(self.sizes))

    def pool(self, tokens: Tensor) -> Tensor:
        """Pooled features [B, Q, D] of tokens [B, N, D] or a map [B, D, H, W]; the same wherever all is padding."""
        if tokens.ndim == 4:
            tokens, present = tokens.flatten(2).transpose(1, 2), None
        else:
            present = (tokens != 0).any(dim=2)[:, None, None]  # [B, 1, 1, N]: for every head and query
        even = self.norm(tokens)
        query = self.queries.expand(tokens.shape[0], -1, -1)
        q, k, v = (self._split(part) for part in (query, self.key(even), self.value(even)))
        mask = None if present is None else _never_empty(present)
        pooled = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if present is not None:
            pooled = pooled * present.any(dim=3, keepdim=True)
        mixed: Tensor = self.mix(pooled.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, values: Tensor) -> Tensor:
        """[B, N, D] -> [B, heads, N, D / heads]."""
        return values.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def flat(self, features: Tensor) -> Tensor:
        """Logits of all columns, [B, K]."""
        logits: Tensor = self.layer(self.dropout(self.pool(features).flatten(1)))
        return logits


def _never_empty(present: Tensor) -> Tensor:
    """The mask, but a sequence that is all padding attends to all of it: a softmax over nothing would be NaN."""
    return present | ~present.any(dim=3, keepdim=True)


def _identity(width: int) -> nn.Linear:
    """A linear layer that does nothing yet."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def build(spec: HeadSpec, options: AttentionOptions, *, width: int, targets: tuple[Column, ...]) -> AttentionHead:
    """The head ``attention``."""
    return AttentionHead(width, targets, options)
