"""A card from what a bundle knows."""

from __future__ import annotations

import re

from zoo.bundle.card import sections
from zoo.bundle.card.keeping import Kept, hand_section, seal
from zoo.bundle.card.loading import adapter_loading, delta_loading, loading
from zoo.bundle.card.metadata import front_matter, written_licence
from zoo.bundle.card.words import PLACEHOLDER, plain, title
from zoo.bundle.document import Document
from zoo.bundle.licences import UNKNOWN, Settled, licence_id, settle


def render_card(
    document: Document,
    *,
    figures: tuple[str, ...] = (),
    peft: str | None = None,
    name: str = PLACEHOLDER,
    kept: Kept | None = None,
    decided: bool = False,
) -> str:
    """The card's text: YAML front matter, then what a reader asks for, and what a person wrote before.

    Args:
        document: the bundle's ``zoo.json``.
        figures: file names of figures in the bundle.
        peft: the code that makes the backbone for plain peft, see :func:`peft_base`; None: peft cannot load it.
        name: the repo's, where the model is published.
        kept: what of the card before is a person's.
        decided: whether somebody said just now which licence holds.
    """
    kept = kept or Kept()
    settled = settled_licence(document, kept, decided=decided)
    lines = ["---", front_matter(document, settled, kept.metadata), "---", "", f"# {plain(title(document))}", ""]
    lines += sections.what(document, settled)
    lines += hand_section(kept.hand)
    lines += loading(document, name)
    if document.delta is not None:
        lines += delta_loading(document, base_words(document), name)
    lines += adapter_loading(document, peft, name)
    lines += sections.metrics(document, figures)
    lines += sections.limits(document)
    lines += sections.data(document)
    lines += sections.recipe(document)
    lines += sections.base(document, settled)
    return seal("\n".join(lines))


def settled_licence(document: Document, kept: Kept, *, decided: bool = False) -> Settled:
    """The licence, where the metadata of the card before counts as far as a person changed it.

    ``decided``: somebody said just now which one holds.
    """
    written = written_licence(kept.metadata)
    rendered = settle(document)
    changed = written is not None and licence_id(written) not in (rendered.name, "unknown")
    if changed and document.license_stated is not None and not decided:
        told = f"the card's metadata says {licence_id(written)}, and {document.license_stated} was stated before"
        return Settled(UNKNOWN, "the sources do not agree", told)
    return settle(document, written) if changed else rendered


def base_words(document: Document) -> str:
    """The base of a delta in a few words."""
    base = document.delta.base if document.delta is not None else {}
    if base.get("kind") == "hub":
        return f"{base['repo']}@{base['revision'][:12]}"
    return f"{document.backbone} of {base.get('distribution', 'its package')}"


def figure_names(files: list[str]) -> tuple[str, ...]:
    """The figures among a bundle's files that a card can show."""
    return tuple(sorted(name for name in files if re.fullmatch(r"[\w.-]+\.png", name)))
