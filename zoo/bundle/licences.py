"""Licences: what the base weights bring with them, what forbids commercial use, when somebody has to decide.

The rules, in order:

1. ``--license ID`` decides. What it departs from is said aloud and stands in the card.
2. Otherwise the licence of the base weights is carried. One that nobody knows is ``unknown``: never guessed.
3. Sources that do not agree (a teacher under stricter terms, a card edited by hand) are a conflict: ``--license``.

This is bookkeeping of what people declared, no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_registry import ConflictError, UsageError
from zoo_registry.errors import did_you_mean

if TYPE_CHECKING:
    from zoo.bundle.document import Document

PERMISSIVE = frozenset(
    {
        "afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
        "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc0-1.0", "cdla-permissive-1.0",
        "cdla-permissive-2.0", "ecl-2.0", "isc", "mit", "ms-pl", "ncsa", "odc-by", "openmdw-1.0", "pddl",
        "postgresql", "unlicense", "wtfpl", "zlib"
    }
)  # fmt: skip
"""Use for any purpose, in works under other licences too; most want their notice kept."""
COPYLEFT = frozenset(
    {
        "agpl-3.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-sharing-1.0", "epl-1.0", "epl-2.0", "etalab-2.0",
        "eupl-1.1", "eupl-1.2", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
        "lgpl-lr", "lppl-1.3c", "mpl-2.0", "odbl", "ofl-1.1", "osl-3.0"
    }
)  # fmt: skip
"""Commercial use is free; what is derived stays, more or less, under the same terms."""
OWN_TERMS = frozenset(
    {
        "apple-ascl", "bigcode-openrail-m", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "c-uda",
        "cc", "cc-by-nd-4.0", "creativeml-openrail-m", "gemma", "llama2", "llama3", "llama3.1", "llama3.2",
        "llama3.3", "llama4", "openrail", "openrail++", "other"
    }
)  # fmt: skip
"""Terms of their own, or a family of which nobody says which one: to be read."""
RESEARCH_ONLY = frozenset({"apple-amlr", "deepfloyd-if-license", "h-research", "intel-research"})
NON_COMMERCIAL = RESEARCH_ONLY | frozenset(
    {
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "fair-noncommercial-research-license"
    }
)  # fmt: skip
LICENCES = PERMISSIVE | COPYLEFT | OWN_TERMS | NON_COMMERCIAL | {"unknown"}
"""Ids that the Hugging Face Hub knows (https://huggingface.co/docs/hub/repositories-licenses); any other one is written
as ``other`` with its name beside it.
"""
UNKNOWN = "unknown"
_NC = re.compile(r"(^|[^a-z])nc([^a-z]|$)|non-?commercial|research-only")
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


def licence_id(name: str | None) -> str:
    """``apache-2.0`` of ``Apache-2.0``; ``unknown`` of None."""
    text = re.sub(r"[^a-z0-9.+-]+", "-", (name or UNKNOWN).strip().lower()).lstrip("-.+").rstrip("-")
    return text[:64] or UNKNOWN


def licence_kind(name: str | None) -> str:
    """``permissive``, ``copyleft``, ``non-commercial``, ``own terms`` (to be read: nobody knows them here) or
    ``unknown``.
    """
    found = licence_id(name)
    if found == UNKNOWN:
        return UNKNOWN
    if found in NON_COMMERCIAL or _NC.search(found):
        return "non-commercial"
    return "permissive" if found in PERMISSIVE else "copyleft" if found in COPYLEFT else "own terms"


def aloud(name: str | None, of: str) -> str | None:
    """The line that is said of a licence that is not free for every use; None where there is nothing to say.

    Args:
        name: the licence, None where unknown.
        of: whose it is, such as ``timm/x``.
    """
    its = f"{licence_id(name)} of {of}"
    said = {
        "non-commercial": f"{its} forbids commercial use, and what is fine-tuned from it inherits that",
        "own terms": f"{its} has terms of its own: read them before you publish",
        UNKNOWN: f"that of {of} is unknown: ask who made the weights before you publish",
    }.get(licence_kind(name))
    return f"licence: {said}" if said else None


def base_licence(weights: Any, source: Mapping[str, Any] | None) -> tuple[str | None, str | None]:
    """Licence of the weights that a run really began with, and who says so; None where unknown.

    Args:
        weights: the ``Weights`` of the backbone's spec, or None.
        source: where the weights came from (``kind``, ``repo``...; a ``license`` in it wins), None for random ones.

    What a catalogue says holds for the weights that it lists, not for others of the same architecture.
    """
    if source is None:
        return None, None
    if source.get("license"):
        return str(source["license"]), source.get("license_source")
    listed = {"hub": ("repo",), "package": ("package", "resource")}.get(str(source.get("kind")), ())
    if weights is None or not listed or any(source.get(key) != getattr(weights, key) for key in listed):
        return None, None
    return weights.license, weights.license_source


def stated_licence(text: str) -> str:
    """What ``--license`` takes: an id of the Hub's list, or ``other:NAME``.

    Raises:
        UsageError: neither.
    """
    found = licence_id(text.removeprefix("other:"))
    if text.startswith("other:"):
        if not _NAME.fullmatch(found) or found in LICENCES:
            raise UsageError(f"--license {text!r:.80}: no name of terms that the Hub does not list", "other:acme-terms")
        return found
    if not text.strip() or found not in LICENCES or found == "other":
        close = did_you_mean(found, LICENCES) or "huggingface.co/docs/hub/repositories-licenses lists them"
        raise UsageError(f"--license {text!r:.80} is no licence that the Hub knows", f"{close}; else other:NAME")
    return found


@dataclass(frozen=True)
class Settled:
    """The licence of a model.

    Attributes:
        name: its id, ``unknown`` where nobody knows or the sources do not agree.
        why: half a sentence for the card: whose it is and who says so.
        conflict: why somebody has to decide, None where nobody has to.
        lines: what is said aloud.
    """

    name: str
    why: str
    conflict: str | None = None
    lines: tuple[str, ...] = ()

    def require(self, where: str) -> Settled:
        """Itself.

        Raises:
            ConflictError: somebody has to decide.
        """
        if self.conflict is not None:
            raise ConflictError(f"{where}: {self.conflict}", hint="--license ID says which one holds")
        return self


def settle(document: Document, written: str | None = None) -> Settled:
    """The licence of a bundle's model, by the rules above.

    Args:
        document: its ``zoo.json``.
        written: the licence that a person wrote into the card's metadata, None where nobody did.
    """
    base, of = licence_id(document.license), document.backbone
    says = f" ({document.license_source})" if document.license_source else ""
    inherited = "that of the base weights" if document.base else "stated by nobody"
    stated = document.license_stated
    if stated is not None:
        return Settled(stated, _departs(document, stated), lines=_departing(document, stated))
    if written is not None and licence_id(written) != base:
        if document.license is not None:
            told = f"the card's metadata says {licence_id(written)}, the base weights {of} have {base}{says}"
            return Settled(UNKNOWN, "the sources do not agree", told)
        return Settled(licence_id(written), "as who published it wrote; that of the base weights is unknown")
    for teacher, licence in teacher_licences(document).items():
        if licence_id(licence) != base and licence_kind(licence) not in ("permissive", UNKNOWN):
            told = f"the base weights {of} have {base}, the teacher {teacher} has {licence_id(licence)}"
            return Settled(UNKNOWN, "the sources do not agree: " + told, told)
    if document.base is None:
        nobody = "licence: none is inherited and none is stated; --license ID states one"
        return Settled(
            UNKNOWN, "trained from random weights, so none is inherited, and none was stated", None, (nobody,)
        )
    line = aloud(document.license, of)
    return Settled(base, inherited, lines=(line,) if line else ())


def teacher_licences(document: Document) -> dict[str, str | None]:
    """Licence of each teacher that the recipe pins, as far as it is known."""
    pins = document.recipe.get("teachers")
    rows = pins.items() if isinstance(pins, Mapping) else ()
    return {str(name): pin.get("license") for name, pin in rows if isinstance(pin, Mapping)}


def _departs(document: Document, stated: str) -> str:
    if document.base is None or licence_id(document.license) == stated:
        return "stated by who published it"
    return f"stated by who published it; the base weights have `{licence_id(document.license)}`"


def _departing(document: Document, stated: str) -> tuple[str, ...]:
    """What is said where a stated licence is wider than what the base weights allow."""
    kind, base = licence_kind(document.license), licence_id(document.license)
    if document.base is None or base == stated:
        line = aloud(stated, "this model") if licence_kind(stated) == "non-commercial" else None
        return (line,) if line else ()
    if kind == "non-commercial" and licence_kind(stated) != kind:
        said = f"licence: the base weights {document.backbone} have {base}, which forbids commercial use"
        return (f"{said}; --license {stated} says otherwise, so be sure that you may",)
    return (f"licence: {stated}, as stated; the base weights {document.backbone} have {base}",)
