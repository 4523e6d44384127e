"""The model card: ``README.md`` of a bundle, with metadata that the Hub reads and a section that stays a person's."""

from zoo.bundle.card.folder import CARD, bundle_card, read_card
from zoo.bundle.card.keeping import BEGIN, END, Kept, read_kept
from zoo.bundle.card.loading import needed_distributions, peft_base
from zoo.bundle.card.metadata import check_card, front_matter
from zoo.bundle.card.render import figure_names, render_card, settled_licence
from zoo.bundle.card.words import PLACEHOLDER, plain, title

__all__ = [
    "BEGIN",
    "CARD",
    "END",
    "PLACEHOLDER",
    "Kept",
    "bundle_card",
    "check_card",
    "figure_names",
    "front_matter",
    "needed_distributions",
    "peft_base",
    "plain",
    "read_card",
    "read_kept",
    "render_card",
    "settled_licence",
    "title",
]
