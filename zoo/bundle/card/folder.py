"""The card of a bundle that lies in a folder: everything it says is read from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.bundle.card.keeping import Kept, body_of, read_kept
from zoo.bundle.card.loading import peft_base
from zoo.bundle.card.metadata import front_matter
from zoo.bundle.card.render import figure_names, render_card, settled_licence
from zoo.bundle.card.words import PLACEHOLDER
from zoo.bundle.document import Document
from zoo.bundle.small import ADAPTER_CONFIG
from zoo.hub.files import read_json

CARD = "README.md"


def read_card(folder: Path) -> str:
    """The card's text, empty where there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def bundle_card(
    folder: Path,
    document: Document,
    *,
    before: str = "",
    name: str = PLACEHOLDER,
    hand: str | None = None,
    decided: bool = False,
    force: bool = False,
) -> str:
    """The card of the bundle in ``folder``.

    Args:
        folder: with ``config.json``, the figures and the adapter; its own card is not read.
        document: its ``zoo.json``.
        before: the card there was. Its hand-written section and a person's metadata stay; where it was edited
            elsewhere all of its text stays, and the metadata alone is renewed.
        name: the repo's.
        hand: in place of the hand-written section.
        decided: whether somebody said just now which licence holds.
        force: render anew what was edited elsewhere; the hand-written section stays all the same.
    """
    kept = read_kept(before)
    if hand is not None:
        kept = Kept(hand.strip(), kept.metadata, kept.elsewhere)
    if kept.elsewhere and not force:
        metadata = front_matter(document, settled_licence(document, kept, decided=decided), kept.metadata)
        return f"---\n{metadata}\n---\n{body_of(before)}"
    figures = figure_names([path.name for path in folder.glob("*.png")])
    return render_card(document, figures=figures, peft=_peft(folder, document), name=name, kept=kept, decided=decided)


def _peft(folder: Path, document: Document) -> str | None:
    path = folder / ADAPTER_CONFIG
    if document.adapter is None or not path.is_file() or "peft_type" not in _object(path):
        return None
    return peft_base(document, _object(folder / "config.json"))


def _object(path: Path) -> dict[str, Any]:
    values = read_json(path, path.name)
    return values if isinstance(values, dict) else {}
