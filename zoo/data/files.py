"""Loose files for prediction: no labels, no splits; found while they are read, so that a million cost nothing."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from zoo_registry.errors import DataError, UsageError, did_you_mean

from zoo.data.dataset import Split
from zoo.data.folder import Scanner
from zoo.data.globs import Pattern, is_pattern
from zoo.data.packed import Packed
from zoo.data.seen import Seen

log = logging.getLogger("zoo.data")

STDIN = ("-", "@-")
_BLOCK = 1 << 16

Paths = str | Path | Iterable[str | Path]


def open_files(paths: Paths, *, follow_links: bool = False) -> Split:
    """A split named ``files`` without targets, in the order of :func:`find_files`. ``ids`` are the paths as given.

    Raises:
        UsageError: a path that does not exist.
        DataError: no image at all.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    check_paths(given)
    names = Packed(find_files(given, follow_links=follow_links))
    if not names:
        raise no_images(given)
    return Split(name="files", ids=names, sources=names, sizes=[size_of(n) for n in names], cache_bytes=0)


def file_stream() -> Split:
    """A split of whatever files will be asked for: they are their own indices. It has no length and keeps nothing."""
    own = _Endless(str)
    return Split(name="files", ids=own, sources=own, sizes=_Endless(_unknown), cache_bytes=0)


def _unknown(name: str) -> int:
    return 0


class _Endless(Sequence[Any]):
    """Whatever is asked for, ``value`` says what is there."""

    def __init__(self, value: Callable[[Any], Any]) -> None:
        self.value = value

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        return self.value(index)


def no_images(given: Iterable[str | Path] = ()) -> DataError:
    """The error where nothing was found."""
    named = ", ".join(map(str, given))
    return DataError(f"no images in {named or 'an empty list'}", hint="give image files or folders")


def check_paths(paths: Paths) -> None:
    """See that everything that is named is there, before anything costly.

    Raises:
        UsageError: a path or a list that does not exist.
    """
    for given in [paths] if isinstance(paths, (str, Path)) else paths:
        text = str(given)
        if text in STDIN or os.path.exists(text):
            continue
        path = Path(text)
        if text.startswith("@"):
            path = Path(text[1:])
            if not os.path.isfile(path):
                raise UsageError(f"no list {str(path)!r}", hint=_near(path))
        elif not is_pattern(text):
            raise UsageError(f"no file or folder {str(path)!r}", hint=_near(path))


def find_files(paths: Paths, *, follow_links: bool = False) -> Iterator[str]:
    """The files that are meant, found one after the other, each once.

    Args:
        paths: what is meant, see below. An iterator is read as it goes, and gives files and folders alone.
        follow_links: follow symbolic links that lead out of a folder.

    What exists is taken: a file whatever its suffix, a folder gives all images below it in natural order. Else
    ``@list.txt`` is a file with a path a line (``-``, or ``@-``: standard input; paths may end in NUL as well, as
    ``find -print0`` writes them), and what has ``*``, ``?`` or ``[`` is a pattern (``**`` stands for any folders).
    Whatever else is named comes as it is: reading it will say what is wrong.

    Raises:
        DataError: a folder or list that cannot be read, a pattern that nothing matches.
    """
    many: Iterable[str | Path] = [paths] if isinstance(paths, (str, Path)) else paths
    named = isinstance(many, Sequence)  # what an iterator gives are names as they are
    alone = isinstance(many, Sequence) and len(many) == 1 and not str(many[0]).startswith(("@", "-"))
    seen = None if alone else Seen()  # one folder has nothing twice
    for given in many:
        for name in _expanded(str(given), follow_links, meant=named):
            if seen is None or seen.add(name):
                yield name


def _expanded(text: str, follow_links: bool, *, meant: bool) -> Iterator[str]:
    if os.path.isdir(text):
        scanner = Scanner(Path(text), follow_links)
        yield from scanner.images(str(Path(text)))
        left = {what: n for what, n in scanner.ignored.items() if what != "hidden"}
        if left:
            log.warning("ignored in %s: %s", text, ", ".join(f"{n} {what}" for what, n in sorted(left.items())))
    elif meant and (text in STDIN or text.startswith("@")) and not os.path.exists(text):
        for line in _lines(text.removeprefix("@")):
            yield from _expanded(line, follow_links, meant=False)
    elif meant and is_pattern(text) and not os.path.exists(text):
        pattern, empty = Pattern(text), True
        for path in pattern.walk(Scanner(Path(pattern.base), follow_links)):
            empty = False
            yield from _expanded(path, follow_links, meant=False)
        if empty:
            raise DataError(f"nothing matches {text!r}", hint="** stands for any folders, * for a part of a name")
    else:
        yield str(Path(text))


def _lines(name: str) -> Iterator[str]:
    """The paths of a list: a line each, or each up to a NUL where the list has one."""
    if name == "-":
        yield from _split(sys.stdin.buffer)
        return
    try:
        with open(name, "rb") as file:
            yield from _split(file)
    except OSError as error:
        raise DataError(f"the list {name!r} cannot be read: {error.strerror}") from error


def _split(file: BinaryIO | Any) -> Iterator[str]:
    read = getattr(file, "read1", file.read)
    left, end = b"", b""
    while block := read(_BLOCK):
        left += block
        end = end or (b"\0" if b"\0" in left else b"\n" if b"\n" in left else b"")
        *whole, left = left.split(end) if end else (left,)
        yield from filter(None, map(_name, whole))
    yield from filter(None, [_name(left)])


def _name(line: bytes) -> str:
    return os.fsdecode(line.removesuffix(b"\r"))


def size_of(name: str) -> int:
    """Bytes of a file, 0 where it cannot be had."""
    try:
        return os.stat(name).st_size
    except OSError:
        return 0


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, sorted(os.listdir(path.parent))) or "check the path"
    except OSError:
        return f"{str(path.parent)!r} does not exist either"
