"""Predictions in a file: ``--out results.csv`` or ``results.parquet``, written as they come and gone on with later.

While it is written it lies in a folder ``RESULTS.partial`` beside its place: the rows so far, and ``journal.json``,
which is replaced every few seconds and says how many files are done, always up to the border of two batches. What lies
beyond it (a torn line, say) is cut off. The file takes its name when it is complete, so an older one is never harmed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from zoo_registry import ConflictError, IntegrityError, UsageError
from zoo_registry.errors import did_you_mean

from zoo.data.files import no_images
from zoo.files import sync, write_json
from zoo.tables import CsvRows, ParquetRows, Rows

if TYPE_CHECKING:
    from zoo.prediction import PredictedFile

FORMAT = 1
JOURNAL, LOCK = "journal.json", "lock"
SAVE_SECONDS = 5.0
"""A killed run loses the rows of so many seconds at most."""
FORMS: dict[str, type[Rows]] = {".csv": CsvRows, ".parquet": ParquetRows}


def check_out(path: Path, *, resume: bool, force: bool) -> None:
    """See that results can be written there, before anything costly.

    Raises:
        UsageError: another suffix, no such folder, pyarrow missing for parquet, ``resume`` with ``force``.
        ConflictError: there are results already, finished or not.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        close = did_you_mean(path.suffix, FORMS)
        raise UsageError(f"{path.name!r} is neither .csv nor .parquet", hint=close or "--out results.csv")
    if resume and force:
        raise UsageError("--resume goes on, --force starts again", hint="give one of them")
    if not path.parent.is_dir():
        raise UsageError(f"no folder {str(path.parent)!r} for {path.name}", hint=f"mkdir -p {_quoted(path.parent)}")
    form.check(path.name)
    if resume or force:
        return
    if partial(path).exists():
        raise ConflictError(
            f"{str(path)!r} was begun and not finished", hint="go on with --resume, or start again with --force"
        )
    if path.exists():
        raise ConflictError(f"{str(path)!r} exists", hint="replace it with --force, or name another")


def partial(path: Path) -> Path:
    """The folder of results that are not finished."""
    return path.with_name(path.name + ".partial")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def is_complete(path: Path) -> bool:
    """Whether an earlier run came to its end; what it could not put away any more is put away."""
    folder = partial(path)
    try:
        journal = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        whole = journal.get("whole")
    except (OSError, ValueError, AttributeError):
        whole = None
    if isinstance(whole, str):  # killed between its last two steps
        if (folder / Path(whole).name).is_file():
            os.replace(folder / Path(whole).name, path)
        shutil.rmtree(folder, ignore_errors=True)
    return path.exists() and not folder.exists()


class ResultFile:
    """Results that are being written.

    Args:
        path: the file, checked by :func:`check_out`.
        about: what the rows depend on (model, options), as JSON; going on with others is refused.
        top: classes a file.
        resume: go on with what a run left, start where there is nothing.

    Attributes:
        files: number of files done; unreadable: how many of them could not be read.
        kept: how many of them an earlier run had done.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, top: int, resume: bool = False) -> None:
        self.path = path
        self.folder = partial(path)
        self.about = json.loads(json.dumps({"format": FORMAT, **about}))
        self.files = self.unreadable = self.kept = 0
        self._names = hashlib.sha256()
        self._saved = time.monotonic()
        self._sound = False  # whether counts and rows agree, so that they may be saved
        self.folder.mkdir(exist_ok=True)
        self._lock = _locked(self.folder)
        try:
            if not resume:
                _empty(self.folder)
            self._journal = self._read_journal()
            rows = self._journal.get("rows")
            self._rows = FORMS[path.suffix.lower()](self.folder, top, rows)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._sound and kind is not None:  # stopped half way: what is done is kept
                with suppress(OSError):
                    self.save()
        finally:
            self._rows.close()
            self._lock.close()

    def _read_journal(self) -> dict[str, Any]:
        """What a run left; empty where it left nothing.

        Raises:
            ConflictError: its model or options were others.
            IntegrityError: it cannot be read.
        """
        path = self.folder / JOURNAL
        if not path.is_file():
            return {}
        again = "start again with --force"
        try:
            journal: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            before = dict(journal["about"])
            journal["rows"], journal["names"], int(journal["files"]), int(journal["unreadable"])
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{str(path)!r} is damaged", hint=again) from error
        other = [k for k in {**before, **self.about} if before.get(k) != self.about.get(k)]
        if other:
            was, now = (values.get(other[0]) for values in (before, self.about))
            raise ConflictError(
                f"{str(self.path)!r} was begun with {other[0]} {was}, this is {now}",
                hint=f"give {other[0]} as it was, or {again}",
            )
        return journal

    def skip(self, names: Iterable[str]) -> Iterator[str]:
        """The names that are still to be predicted: all but those that are done.

        Raises:
            ConflictError: those that are done were others.
        """
        todo = iter(names)
        done = int(self._journal.get("files", 0))
        count = 0
        for name in islice(todo, done):
            self._count(name)
            count += 1
        if count < done or (done and self._names.hexdigest() != self._journal["names"]):
            raise ConflictError(
                f"{str(self.path)!r} was begun with other files: its first {done} are not the first {done} now",
                hint="name the same files in the same order, or start again with --force",
            )
        self.files = self.kept = done
        self.unreadable = int(self._journal.get("unreadable", 0))
        self._sound = True
        self.save()
        yield from todo

    def _count(self, name: str) -> None:
        self._names.update(name.encode("utf-8", "surrogatepass") + b"\0")

    def add(self, rows: Sequence[PredictedFile]) -> int:
        """Write the rows of a batch; returns the number of its files."""
        self._sound = False
        self._rows.write(rows)
        before, count = None, 0
        for row in rows:
            if row.file != before:
                before = row.file
                count += 1
                self.unreadable += row.error is not None
                self._count(row.file)
        self.files += count
        self._sound = True
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()
        return count

    def save(self, **more: Any) -> None:
        """Make what is written so far survive whatever comes."""
        value = {
            "about": self.about,
            "files": self.files,
            "unreadable": self.unreadable,
            "names": self._names.hexdigest(),
            "rows": self._rows.flush(),
            **more,
        }
        write_json(self.folder / JOURNAL, value)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """All is written: the file takes its name.

        Raises:
            DataError: there was no file at all.
        """
        self._sound = False
        if not self.files:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise no_images()
        self._rows.flush()
        whole = self._rows.whole()
        self.save(whole=whole.name)
        os.replace(whole, self.path)
        sync(self.path.parent)
        shutil.rmtree(self.folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink() if not path.is_dir() else shutil.rmtree(path)


def _locked(folder: Path) -> Any:
    """An open file that only one process has; a lock of this process alone, so that it goes when it is killed.

    Raises:
        ConflictError: another process writes there.
    """
    file = (folder / LOCK).open("a+")
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # no such locks on this system
        pass
    except OSError as error:
        file.close()
        raise ConflictError(f"another process is writing {folder.name!r}", hint="wait for it, or end it") from error
    return file
