"""A blank figure that does not depend on the user's settings, and its PNG that does not depend on the day."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

DPI = 120
INK = "#2b2b2b"
MUTED = "#8a8a8a"
BLUE = "#1f5fa8"
ORANGE = "#d9730d"
GREY = "#e4e4e4"
PALE = "#a9c5e3"
FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "Hiragino Sans", "Noto Sans Devanagari")
"""Taken, where installed, for class names in scripts that DejaVu Sans lacks."""

STYLE = {
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` inches, saved as PNG to ``path`` at the end; no file if drawing fails.

    No display is needed (Agg), matplotlib's global state and the user's settings play no part, and the file carries
    neither date nor software version: equal content gives equal bytes under one version of matplotlib.
    """
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script the font lacks
        matplotlib.rcdefaults()
        installed = set(font_manager.get_font_names())
        matplotlib.rcParams.update({**STYLE, "font.family": ["DejaVu Sans", *(f for f in FONTS if f in installed)]})
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.1, metadata={"Software": None})


def plain(texts: list[Text]) -> None:
    """Let ``$`` and the like stand as they are: class names are no formulas."""
    for text in texts:
        text.set_parse_math(False)


def shorten(label: str, limit: int = 22) -> str:
    """``label`` on one line, at most ``limit`` characters, the middle left out."""
    line = " ".join(label.split())
    if len(line) <= limit:
        return line
    return line[: limit - limit // 3 - 1] + "…" + line[-(limit // 3) :]


def title(axes: Axes, text: str, pad: float = 6.0) -> None:
    """A left-aligned title, ``pad`` points above the axes, without formulas."""
    axes.set_title(text, pad=pad).set_parse_math(False)
