"""The signs the networks learn to tell apart: drawn once, from fonts that travel with matplotlib.

DejaVu (free licence) covers Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic and many symbols. (Canadian
syllabics, old Georgian, Lao, N'Ko, Tifinagh and Lisu are left out whole: too many of their letters are rings, bars or
loops on stems, close to 0, 1, 6 and 9.) Signs whose drawings coincide (Latin A, Greek Alpha, Cyrillic A) are one class.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from exclusions import is_excluded
from PIL import Image, ImageDraw, ImageFont

FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSansMono", "DejaVuSansMono-Oblique",
)  # fmt: skip
RANGES = (
    (0x21, 0x24F), (0x250, 0x2AF), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F), (0x5D0, 0x5EA), (0x621, 0x6D3),
    (0x10D0, 0x10FF), (0x2190, 0x21FF),
    (0x2200, 0x22FF), (0x2300, 0x23FF), (0x25A0, 0x25FF), (0x2600, 0x26C3), (0x2701, 0x27BE), (0x27C0, 0x27FF),
    (0x2C60, 0x2C7F), (0xA640, 0xA697),
)  # fmt: skip
CANVAS = 48
FILL = 40
SAME_LETTER, SAME_SYMBOL = 0.92, 0.86
DIGIT_SIMILARITY = 0.80
NARROWEST = 0.30


@dataclass(frozen=True, kw_only=True)
class GlyphSet:
    """Drawn signs: ``bitmaps`` uint8 [N, 48, 48], ``labels`` int64 [N], ``signs`` one character a class."""

    bitmaps: np.ndarray
    labels: np.ndarray
    signs: tuple[str, ...]


def load_fonts() -> list[tuple[ImageFont.FreeTypeFont, frozenset[int]]]:
    """The faces with the code points that each can draw."""
    import matplotlib
    from fontTools.ttLib import TTFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = [folder / f"{name}.ttf" for name in FACES]
    return [(ImageFont.truetype(str(f), 72), frozenset(TTFont(str(f), lazy=True).getBestCmap())) for f in faces]


def draw(sign: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """``sign`` in white on black, cut to its ink; None where the face draws nothing."""
    page = Image.new("L", (288, 288), 0)
    ImageDraw.Draw(page).text((96, 96), sign, font=font, fill=255)
    box = page.getbbox()
    return page.crop(box) if box else None


def centred(ink: Image.Image) -> np.ndarray:
    """``ink`` scaled, aspect kept, until its longer side is ``FILL`` pixels, in the middle of a square uint8 canvas."""
    scale = FILL / max(ink.size)
    size = (max(2, round(ink.width * scale)), max(2, round(ink.height * scale)))
    page = Image.new("L", (CANVAS, CANVAS), 0)
    page.paste(ink.resize(size, Image.Resampling.BOX), ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2))
    return np.asarray(page)


def template(ink: Image.Image, box: tuple[int, int] | None = None) -> np.ndarray:
    """A coarse, unit-length, zero-mean picture of the shape: two are compared by their dot product (correlation)."""
    page = ink.resize(box, Image.Resampling.BOX) if box else Image.fromarray(centred(ink)).resize((16, 16))
    flat = np.asarray(page, dtype=np.float32).ravel()
    flat = flat - flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def digit_templates(fonts: list[tuple[ImageFont.FreeTypeFont, frozenset[int]]]) -> np.ndarray:
    """[digits x faces, 12 x 20] templates of 0 to 9: only ever used to throw signs out."""
    inks = [draw(d, font) for font, _ in fonts for d in "0123456789"]
    return np.stack([template(ink, (12, 20)) for ink in inks if ink is not None])


def looks_like_a_digit(ink: Image.Image, digits: np.ndarray) -> bool:
    """True for an upright bar (a one), and where stretched to a digit's box the shape agrees with a digit's."""
    if ink.width < NARROWEST * ink.height:
        return True
    return float((digits @ template(ink, (12, 20))).max()) > DIGIT_SIMILARITY


def candidates() -> list[str]:
    """Letters and symbols in code-point order; accented letters are left out, they differ by a speck only."""
    signs = [chr(code) for low, high in RANGES for code in range(low, high + 1)]
    wanted = [s for s in signs if unicodedata.category(s)[0] in "LS" or unicodedata.category(s) == "Po"]
    return [s for s in wanted if not unicodedata.decomposition(s) and not is_excluded(s)]


def glyph_set(limit: int | None = None) -> GlyphSet:
    """Draw every class in every face that has it. The same versions of Pillow and matplotlib give the same bytes."""
    fonts = load_fonts()
    digits = digit_templates(fonts)
    kept, templates, bitmaps, labels = [], [], [], []
    for sign in candidates():
        inks = [ink for font, codes in fonts if ord(sign) in codes and (ink := draw(sign, font)) is not None]
        if not inks or any(looks_like_a_digit(ink, digits) for ink in inks):
            continue
        shape = template(inks[0])
        same = SAME_LETTER if unicodedata.category(sign)[0] == "L" else SAME_SYMBOL
        if templates and float((np.stack(templates) @ shape).max()) > same:
            continue
        bitmaps += [centred(ink) for ink in inks]
        labels += [len(kept)] * len(inks)
        kept.append(sign)
        templates.append(shape)
        if len(kept) == limit:
            break
    return GlyphSet(bitmaps=np.stack(bitmaps), labels=np.asarray(labels), signs=tuple(kept))
