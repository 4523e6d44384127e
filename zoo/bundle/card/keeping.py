"""What a person wrote into a card, and how it is told from what was rendered.

Between :data:`BEGIN` and :data:`END` a person writes; a rendering keeps that word for word, and keys of the metadata
that are not ours. The last line seals the rest: a sha256 by which an edit elsewhere is noticed before it would be lost.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.hub.files import front_matter

BEGIN = "<!-- yours: what you write from here on is kept by zoo card and zoo push -->"
END = "<!-- yours ends here -->"
_SEAL = re.compile(r"\n*<!-- zoo card ([0-9a-f]{16}) -->\s*\Z")
_FRONT = re.compile(r"\A\s*---[ \t]*\n.*?\n---[ \t]*(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Kept:
    """What of an existing card is a person's.

    Attributes:
        hand: the text between the markers, without blank lines around it.
        metadata: the front matter, all of it.
        elsewhere: whether text outside of the markers is not as it was rendered.
    """

    hand: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: bool = False


def read_kept(text: str) -> Kept:
    """Take a card apart. A text that was never rendered here counts as edited elsewhere, an empty one as nothing."""
    text = _lines(text)
    if not text.strip():
        return Kept()
    hand, rest = _split(text)
    seal = _SEAL.search(rest)
    return Kept(hand, front_matter(text), seal is None or seal.group(1) != _digest(rest[: seal.start()]))


def seal(text: str) -> str:
    """A rendered card with its last line."""
    text = _lines(text).rstrip()
    return f"{text}\n\n<!-- zoo card {_digest(_split(text)[1])} -->\n"


def hand_section(hand: str) -> list[str]:
    """The lines of the section, markers included."""
    return [BEGIN, "", *([hand, ""] if hand else []), END, ""]


def _lines(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _split(text: str) -> tuple[str, str]:
    """The text between the first beginning and the last end, and everything else."""
    start, stop = text.find(BEGIN), text.rfind(END)
    if start < 0 or stop < start:
        return "", text
    return text[start + len(BEGIN) : stop].strip(), text[:start] + text[stop + len(END) :]


def _digest(rest: str) -> str:
    """Of the text without metadata; blanks at line ends and empty lines do not count."""
    body = _FRONT.sub("", rest, count=1)
    lines = [line.rstrip() for line in body.split("\n")]
    return hashlib.sha256("\n".join(line for line in lines if line).encode()).hexdigest()[:16]


def body_of(text: str) -> str:
    """A card without its metadata."""
    return _FRONT.sub("", _lines(text), count=1)
