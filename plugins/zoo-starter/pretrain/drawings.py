"""Batches of drawn pictures with their class: glyphs (about three quarters), invented characters, textures."""

from __future__ import annotations

import unicodedata

import distort
import strokes
import textures
import torch
import torch.nn.functional as F
from glyphs import GlyphSet
from torch import Tensor

SIZE = 64
MEAN = STD = 0.5
INVENTED = 160
LETTER_WEIGHT = 2.0
SHARES = {"invented": 0.17, "textures": 0.08}


class Drawings:
    """Endless, keyed batches. Classes: the glyphs, then ``INVENTED`` characters, then the textures."""

    def __init__(self, glyphs: GlyphSet, seed: int) -> None:
        self.glyphs, self.seed = glyphs, seed
        self.bitmaps = torch.from_numpy(glyphs.bitmaps)
        labels = torch.from_numpy(glyphs.labels)
        self.first = torch.searchsorted(labels, torch.arange(len(glyphs.signs)))
        self.faces = torch.bincount(labels)
        self.weights = torch.tensor([LETTER_WEIGHT if unicodedata.category(s)[0] == "L" else 1.0 for s in glyphs.signs])
        self.invented = strokes.invent(INVENTED, torch.Generator().manual_seed(seed))
        self.classes = len(glyphs.signs) + INVENTED + textures.CLASSES

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Pictures [size, 3, 64, 64], normalised, and labels [size]: a function of (seed, step) alone."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + 1)
        count = {kind: round(share * size) for kind, share in SHARES.items()}
        glyph, glyph_labels = self._glyphs(size - sum(count.values()), generator)
        drawn, drawn_labels = self._invented(count["invented"], generator)
        surface_labels = torch.randint(0, textures.CLASSES, (count["textures"],), generator=generator)
        masks = distort.warp(torch.cat([glyph, F.interpolate(drawn, size=glyph.shape[-1])]), SIZE, generator)
        masks = masks[torch.randperm(len(masks), generator=(order := torch.Generator().manual_seed(step)))]
        masks = distort.squeeze(distort.pen(masks, generator), generator)
        surfaces = textures.draw(surface_labels, SIZE, generator)
        labels = torch.cat([glyph_labels, drawn_labels + len(self.glyphs.signs)])
        labels = labels[torch.randperm(len(labels), generator=order.manual_seed(step))]
        pictures = distort.ink(torch.cat([masks, surfaces]), generator)
        return pictures.sub_(MEAN).div_(STD), torch.cat([labels, surface_labels + len(self.glyphs.signs) + INVENTED])

    def _glyphs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        face = (torch.rand(count, generator=generator) * self.faces[labels]).long()
        return self.bitmaps[self.first[labels] + face][:, None].float() / 255, labels

    def _invented(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, INVENTED, (count,), generator=generator)
        width = distort.uniform(count, 0.04, 0.14, generator)
        return strokes.draw(self.invented[labels], width, generator), labels
