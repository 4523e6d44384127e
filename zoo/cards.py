"""Cards of bundles on disk: written anew with what a person added, compared with other runs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_registry import ConflictError, UsageError

from zoo.bundle.card import CARD, PLACEHOLDER, bundle_card, check_card, read_card, read_kept, settled_licence
from zoo.bundle.card.words import judged, recipe_label
from zoo.bundle.document import DOCUMENT, Document, read_document
from zoo.bundle.licences import Settled, stated_licence
from zoo.bundle.measured import Comparison
from zoo.bundle.proof import Proof
from zoo.files import json_bytes, write_bytes, write_folder
from zoo.hub.files import MANIFEST, read_json, sha256_of, verify_folder


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A card before it is written.

    Attributes:
        document: the bundle's ``zoo.json``, with what was stated and compared.
        text: the card.
        licence: as it is settled.
        changed: whether the folder's card or ``zoo.json`` differ from it.
        edited: whether the card's own text was edited outside of the hand-written section, and was left as it is.
    """

    document: Document
    text: str
    licence: Settled
    changed: bool
    edited: bool


def render(
    folder: Path,
    *,
    name: str = PLACEHOLDER,
    license: str | None = None,
    hand: str | None = None,
    against: Iterable[Path] = (),
    proof: Proof | None = None,
    force: bool = False,
) -> Rendered:
    """The card of the bundle in ``folder``; nothing is written.

    Args:
        folder: a verified bundle, whole or a delta.
        name: the repo's.
        license: what ``--license`` says.
        hand: in place of the hand-written section.
        against: runs on the same data, to compare with.
        proof: what a push found again.
        force: render anew what was edited outside of the hand-written section.

    Raises:
        UsageError: no licence of that name, or a run on other data.
        ConflictError: a new hand-written section for a card that was edited elsewhere.
        IntegrityError: ``zoo.json`` is not what it should be.
        DataError: the Hub would refuse the card.
    """
    where = str(folder)
    known = read_document(folder / DOCUMENT, where=where)
    document = known
    if license is not None:
        document = dataclasses.replace(document, license_stated=stated_licence(license))
    if proof is not None:
        document = dataclasses.replace(document, proof=proof)
    for other in against:
        document = compared(document, other)
    before = read_card(folder)
    kept = read_kept(before)
    licence = settled_licence(document, kept, decided=license is not None)
    if licence.conflict is None and licence.name != settled_licence(document, read_kept("")).name:
        document = dataclasses.replace(document, license_stated=licence.name)  # as a person wrote it into the card
    if hand is not None and kept.elsewhere and not force:
        hint = "--force writes all but that section anew; or move your text between its two markers"
        raise ConflictError(f"{where}: README.md was edited outside of its hand-written section", hint)
    text = bundle_card(folder, document, before=before, name=name, hand=hand, decided=license is not None, force=force)
    check_card(text, where)
    return Rendered(
        document=document,
        text=text,
        licence=licence,
        changed=text != before or document != known,
        edited=kept.elsewhere and not force,
    )


def renew(folder: Path, rendered: Rendered) -> None:
    """Write a card, and ``zoo.json`` where it differs, into the bundle's folder; the manifest follows."""
    files = verify_folder(folder, str(folder))
    text = rendered.text.encode()
    if read_document(folder / DOCUMENT, where=str(folder)) != rendered.document:
        write_folder(folder, lambda to: _copy_with(folder, to, files, rendered))
        return
    write_bytes(folder / CARD, text)  # a card that the manifest does not know yet is no damage
    write_bytes(folder / MANIFEST, _manifest(folder, folder, (CARD,)))


def check_licence(folder: Path, license: str | None = None) -> Settled:
    """The licence under which the bundle in ``folder`` would be published; asked before anything costly.

    Raises:
        ConflictError: its sources do not agree, and nobody decided.
        UsageError: no licence of that name.
    """
    document = read_document(folder / DOCUMENT, where=str(folder))
    if license is not None:
        document = dataclasses.replace(document, license_stated=stated_licence(license))
    kept = read_kept(read_card(folder))
    return settled_licence(document, kept, decided=license is not None).require(str(folder))


def compared(document: Document, other: Path) -> Document:
    """``zoo.json`` with the metrics of another run on the same data.

    Raises:
        UsageError: it was on other data, draws other samples, or was not measured on the same split.
    """
    from zoo.models import bundle_in

    if not other.exists():
        raise UsageError(f"no run or bundle {str(other)!r}", hint="a run folder is what zoo finetune --out names")
    found = read_document(bundle_in(other) / DOCUMENT, where=str(other))
    split = judged(document)
    reason = _difference(document, found, split)
    if reason is not None or split is None:
        hint = "compare with a run on the same DATA with the same --seed"
        raise UsageError(f"{str(other)!r} cannot be compared with: {reason}", hint=hint)
    row = Comparison(
        backbone=found.backbone,
        recipe=recipe_label(found),
        start="pretrained" if found.base else "random",
        seed=int(found.recipe.get("seed", 0)),
        split=split,
        metrics=found.metrics[split],
    )
    same = dataclasses.replace(row, metrics={})
    others = tuple(c for c in document.comparisons if dataclasses.replace(c, metrics={}) != same)
    return dataclasses.replace(document, comparisons=(*others, row))


def _difference(document: Document, found: Document, split: str | None) -> str | None:
    """Why the metrics of two runs are not of the same samples, or None."""
    if split is None or split not in found.metrics:
        return f"it has no metrics on {split}" if split else "the model itself was not measured"
    if found.data.get("fingerprint") != document.data.get("fingerprint"):
        return "it was trained on other data (the fingerprints differ)"
    if found.columns != document.columns:
        return "its columns or classes are not the same"
    if _scalars(document) != _scalars(found):
        return "it learned from or was measured on other samples of it"
    for what in ("seed", "data"):
        one, two = document.recipe.get(what), found.recipe.get(what)
        if one != two:
            return f"its {what} in the recipe differs, so it learned from or was measured on other samples"
    return None


def _scalars(document: Document) -> dict[str, Any]:
    """What the data's description says of which samples were drawn."""
    told = {k: v for k, v in document.data.items() if not isinstance(v, dict | list) and k != "name"}
    return {**told, "splits": document.data.get("splits")}


def _copy_with(folder: Path, to: Path, files: Iterable[str], rendered: Rendered) -> None:
    """Fill ``to`` with the bundle's files, linked where the disk can, and with the new card and ``zoo.json``."""
    for name in files:
        if name in (CARD, DOCUMENT) or not (folder / name).is_file():
            continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, to / name)
        except OSError:
            shutil.copyfile(folder / name, to / name)
    write_bytes(to / CARD, rendered.text.encode())
    write_bytes(to / DOCUMENT, json_bytes(rendered.document.to_json()))
    write_bytes(to / MANIFEST, _manifest(folder, to, (CARD, DOCUMENT)))


def _manifest(folder: Path, to: Path, names: tuple[str, ...]) -> bytes:
    """The manifest of ``folder`` with the rows of ``names`` as they are in ``to``; the other files were verified."""
    manifest = read_json(folder / MANIFEST, MANIFEST)
    rows = dict(manifest["files"])
    for name in names:
        rows[name] = {"sha256": sha256_of(to / name), "size": (to / name).stat().st_size}
    return json_bytes({**manifest, "files": dict(sorted(rows.items()))})


def card_json(folder: Path, rendered: Rendered) -> dict[str, Any]:
    """What ``zoo card --json`` prints."""
    metadata = read_kept(rendered.text).metadata
    return {
        "card": str(folder / CARD),
        "changed": rendered.changed,
        "license": rendered.licence.name,
        "metadata": json.loads(json.dumps(metadata, default=str)),
        "text": rendered.text,
    }
