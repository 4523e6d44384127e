"""Signs that the starter networks never saw, in fonts that they never saw: few drawings of each, a held-out font.

The starters were pretrained on drawings in the DejaVu fonts. These signs are drawn in the STIX fonts that travel with
matplotlib: training images in the regular face, test images in the bold one. A sign is taken only if it was no class of
the pretraining and no drawing of the pretraining looks like it (correlation of coarse pictures below ``ALIKE``), and
if no other sign taken looks like it. ``python benchmarks/strategies/signs.py`` chooses them anew and prints them.
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TRAIN_FACE, TEST_FACE = "STIXGeneral", "STIXGeneralBol"
ALIKE = 0.80
WANTED = 60
PRETRAIN = Path(__file__).resolve().parents[2] / "plugins" / "zoo-starter" / "pretrain"

SIGNS = "$yÀØèýĆēĢķŔŪźƻǾɜʂʓʙʥˀ˝˧άλϐϞЋч℅ℓℙℤℵℽⅇ↺∬≁≑≭≱⊀⊌⋠ⒹⓂⓜ┴╘╟╦⟈⨔⨪⩦⩰⩽⪖⫆"
"""One sign a class; chosen by :func:`choose`."""


def font(face: str, height: int = 72) -> ImageFont.FreeTypeFont:
    """A face that travels with matplotlib."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"), height)


def ink(sign: str, face: ImageFont.FreeTypeFont) -> Image.Image | None:
    """``sign`` in white on black, cut to its ink; None where the face draws nothing."""
    page = Image.new("L", (288, 288), 0)
    ImageDraw.Draw(page).text((96, 96), sign, font=face, fill=255)
    box = page.getbbox()
    return page.crop(box) if box else None


def draw(sign: str, face: ImageFont.FreeTypeFont, size: int, draws: np.random.Generator) -> np.ndarray:
    """One drawing, uint8 [size, size]: turned by up to 12 degrees, slanted, 60 to 90 % of the canvas, shifted."""
    drawn = ink(sign, face)
    assert drawn is not None, f"{sign!r} is not in the face"
    side = 2 * size
    scale = draws.uniform(0.60, 0.90) * side / max(drawn.size)
    wide, high = (max(2, round(edge * scale * draws.uniform(0.85, 1.0))) for edge in drawn.size)
    page = Image.new("L", (side, side), 0)
    page.paste(drawn.resize((wide, high), Image.Resampling.BOX), ((side - wide) // 2, (side - high) // 2))
    slant, (left, up) = draws.uniform(-0.15, 0.15), draws.uniform(-0.05, 0.05, 2) * side
    matrix = (1.0, slant, left - slant * side / 2, 0.0, 1.0, up)
    page = page.transform(page.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    page = page.rotate(draws.uniform(-12, 12), Image.Resampling.BILINEAR)
    return np.asarray(page.resize((size, size), Image.Resampling.BOX))


def drawings(face: str, each: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``each`` drawings of every sign: uint8 [N, size, size] and classes [N]."""
    draws, loaded = np.random.default_rng(seed), font(face)
    images = [draw(sign, loaded, size, draws) for sign in SIGNS for _ in range(each)]
    return np.stack(images), np.arange(len(SIGNS)).repeat(each)


def choose() -> list[str]:
    """Signs of both faces, unlike everything of the pretraining and unlike each other, spread over the code points."""
    sys.path.insert(0, str(PRETRAIN))
    import glyphs as seen  # type: ignore[import-not-found]
    from fontTools.ttLib import TTFont

    known = seen.glyph_set().signs
    faces = seen.load_fonts()
    pictures = [seen.draw(sign, face) for sign in known for face, codes in faces if ord(sign) in codes]
    templates = np.stack([seen.template(picture) for picture in pictures if picture is not None])
    regular, bold = font(TRAIN_FACE), font(TEST_FACE)
    codes = [frozenset(TTFont(face.path, lazy=True).getBestCmap()) for face in (regular, bold)]
    kept: list[str] = []
    shapes: list[np.ndarray] = []
    for code in sorted(codes[0] & codes[1] - set(map(ord, known))):
        sign = chr(code)
        inks = [ink(sign, face) for face in (regular, bold)]
        if code >= 0xE000 or unicodedata.category(sign)[0] not in "LS" or None in inks:
            continue
        drawn = [seen.template(picture) for picture in inks]
        if max(float((templates @ shape).max()) for shape in drawn) >= ALIKE:
            continue
        if shapes and float((np.stack(shapes) @ drawn[0]).max()) >= ALIKE:
            continue
        kept.append(sign)
        shapes.append(drawn[0])
    return [kept[round(i)] for i in np.linspace(0, len(kept) - 1, WANTED)]


if __name__ == "__main__":
    print("".join(choose()))
