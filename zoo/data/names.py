"""Names of classes and files: natural order, one Unicode form, no twins."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from zoo_registry.errors import DataError

_DIGITS = re.compile(r"(\d+)")

SPLITS = ("train", "val", "test")

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""How folders, tables and dictionaries may call a split -> how the zoo calls it."""


def nfc(text: str) -> str:
    """The text in Unicode form NFC, which is how class names and sample ids are compared and stored."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def natural_key(text: str) -> str:
    """Sort key with numbers by value (``"class 2" < "class 10"``), otherwise by code point; total and stable.

    A string, since the keys of a million names are in memory at once: numbers are written with their length before
    them, and three low characters mark a number, a text and the end of either.
    """
    parts = _DIGITS.split(nfc(text))  # text, digits, text, ... text
    parts[::2] = [part and f"\2{part}\0" for part in parts[::2]]
    parts[1::2] = map(_number, parts[1::2])
    # The last part keeps "01" and "1" apart, so that the order never depends on the order of arrival.
    return f"{''.join(parts)}\0{text}"


def _number(digits: str) -> str:
    value = (digits if digits.isascii() else str(int(digits))).lstrip("0")
    return f"\1{chr(len(value) + 1)}{value}\0"


def natural_sorted(names: Iterable[str]) -> list[str]:
    """The names in natural order."""
    return sorted(names, key=natural_key)


def refuse_twins(names: Iterable[str], what: str = "class") -> None:
    """Refuse names that differ by case or Unicode form alone (``Cat`` and ``cat``), as file systems mix them up.

    Raises:
        DataError: naming the twins.
    """
    seen: dict[str, str] = {}
    for name in natural_sorted(set(names)):
        folded = nfc(nfc(name).casefold())
        if folded in seen:
            raise DataError(
                f"{what} names {seen[folded]!r} and {name!r} differ only by case or Unicode form",
                hint="rename one of them, or put their samples together",
            )
        seen[folded] = name


def split_name(text: str) -> str | None:
    """``train``, ``val`` or ``test`` for any of :data:`SPLIT_NAMES` in any case, else None."""
    return SPLIT_NAMES.get(text.strip().lower())


def listing(names: Iterable[object], limit: int = 5) -> str:
    """``'a', 'b' and 3 more``: a few names for a message."""
    every = [repr(n) for n in names]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
