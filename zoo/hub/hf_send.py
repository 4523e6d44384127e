"""``python -m zoo.hub.hf_send``: one try at bringing files to a hub of the Hugging Face kind, see :mod:`zoo.watched`.

A process of its own, since a transfer can wait for minutes inside libraries that nothing else can stop, and since
hf_xet keeps one session a process: an upload that fails takes the others of its process down.

Large files go first, one by one; then one commit names them all and carries the small ones. A large file that the
hub's store has already (of a try before, in whatever process) is not sent again: the LFS batch says so, and hf_xet
finds its chunks there.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.hub.hf_errors import Asked, redact, translate
from zoo.watched import Tell, serve

LARGE = 1 << 20
"""Bytes from which on a file goes before the commit; tensors always do, as hubs store them as large files."""
ANSWER_SECONDS, CONNECT_SECONDS = 120.0, 10.0
TRIES = 5
"""After so many waits huggingface_hub gives a request up."""
_WAIT = re.compile(r"(?:Retrying in|Waiting) (\d[\d.]*)s")


def transfer(order: dict[str, Any], tell: Tell, api: Any = None) -> dict[str, Any]:
    """Send large files, then commit.

    Args:
        order: ``endpoint``, ``token``, ``name``, ``folder``, ``parent``, ``message``, ``add`` (path -> sha256) and
            ``remove`` (paths).
        tell: takes what happens.
        api: an HfApi; None makes one.

    Returns:
        ``{"revision": commit id, "created": whether the commit is of this push}``: of what somebody else has just
        published none is made.

    Raises:
        ZooError: as :func:`zoo.hub.hf_errors.translate`; what came of it has to be looked up.
    """
    from huggingface_hub import CommitOperationDelete, HfApi
    from huggingface_hub.utils import get_session

    endpoint, name = order["endpoint"], order["name"]
    api = api or HfApi(endpoint=endpoint, token=order["token"], library_name="transfer-zoo")
    session = get_session()
    session.timeout = type(session.timeout)(ANSWER_SECONDS, connect=CONNECT_SECONDS)  # it has none by default
    with _told(tell, endpoint) as heard:
        try:
            adds = [_add(Path(order["folder"]), path, sha256, tell) for path, sha256 in order["add"].items()]
            for add in adds:
                if add.upload_info.size >= LARGE or add.path_in_repo.endswith(".safetensors"):
                    tell({"at": f"sending {add.path_in_repo} ({_size(add.upload_info.size)}) to {endpoint}"})
                    with _xet_told(add.path_in_repo, tell):
                        api.preupload_lfs_files(name, [add])
                    tell({"file": add.path_in_repo, "done": add.upload_info.size})
            tell({"at": f"waiting for {endpoint} to commit"})
            made = api.create_commit(
                name,
                [*adds, *(CommitOperationDelete(path) for path in order["remove"])],
                commit_message=order["message"],
                parent_commit=order["parent"],
            )
        except Exception as error:
            if isinstance(error, ValueError) and "metadata" in str(error).lower():
                from zoo_registry import DataError

                text = f"{endpoint} refuses the card: {redact(str(error))}"
                raise DataError(text, "mend README.md's header") from error
            known = translate(error, Asked(endpoint, name))
            if heard.waits >= TRIES:  # huggingface_hub has been patient already
                vars(known).update(again=False, wait=None)
            raise known from error
    return {"revision": str(made.oid), "created": not heard.idle}


def _add(folder: Path, path: str, sha256: str, tell: Tell) -> Any:
    """The operation for one file; its hash is known, so it is not read for that again."""
    from huggingface_hub import CommitOperationAdd

    class Counted(CommitOperationAdd):
        """Tells how much of it was read, where it is sent as it is."""

        @contextmanager
        def as_file(self, with_tqdm: bool = False) -> Iterator[Any]:
            with Reading(folder / path, lambda done: tell({"file": path, "done": done})) as stream:
                yield stream

    add = Counted(path, str(folder / path))
    add.upload_info.sha256 = bytes.fromhex(sha256)
    return add


class Reading(io.BufferedReader):
    """A file that tells how far it was read, now and then."""

    def __init__(self, path: Path, told: Callable[[int], None], step: int = 1 << 18) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self.told, self.step, self.next = told, step, step

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        data = super().read(size)
        if self.tell() >= self.next:
            self.next = self.tell() + self.step
            self.told(self.tell())
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As of any file; what is read again is told again."""
        spot = super().seek(offset, whence)
        self.next = spot + self.step
        return spot


@contextmanager
def _xet_told(path: str, tell: Tell) -> Iterator[None]:
    """hf_xet tells its progress to a reporter of huggingface_hub's, which draws bars; here it is told on.

    Where that is found no more, the file is told once it is there.
    """
    try:
        from huggingface_hub.utils import _xet_progress_reporting as drawing
    except ImportError:
        yield
        return
    before = getattr(drawing, "XetUploadProgressReporter", None)

    class Reporter:
        """In the place of XetUploadProgressReporter."""

        def update_progress(self, group: Any, items: Any) -> None:
            tell({"file": path, "done": int(getattr(group, "total_bytes_completed", 0))})

        def close(self, *args: object) -> None:
            pass

    drawing.XetUploadProgressReporter = Reporter  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        drawing.XetUploadProgressReporter = before  # type: ignore[misc, assignment]


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


@contextmanager
def _told(tell: Tell, endpoint: str) -> Iterator[_Waits]:
    """What huggingface_hub waits for is told; it waits up to 23 s for a hub that is busy, or as long as that asks."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.handlers[:], logger.level
    heard = _Waits(tell, endpoint)
    logger.handlers, logger.level = [heard], logging.WARNING
    try:
        yield heard
    finally:
        logger.handlers, logger.level = before


class _Waits(logging.Handler):
    """Turns huggingface_hub's two lines, what went wrong and how long it waits, into one of ours.

    ``waits`` is how often it waited for the request that it is at, ``idle`` whether it found nothing to commit.
    """

    def __init__(self, tell: Tell, endpoint: str) -> None:
        super().__init__()
        self.tell, self.endpoint, self.why = tell, endpoint, "it does not answer"
        self.waits, self.idle = 0, False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the reason, tell the wait."""
        text = record.getMessage()
        self.idle = self.idle or text.startswith("No files have been modified")
        if found := _WAIT.search(text):
            count = re.search(r"Retry (\d+)/", text)
            self.waits = int(count[1]) if count else self.waits + 1
            self.tell({"say": f"{self.endpoint}: {self.why}; trying again in {float(found[1]):g} s"})
        elif " thrown while requesting" in text:
            reason = text.partition(" thrown while requesting")[0]
            self.why = redact(reason.replace("HTTP Error", "answers").strip("'")) or "the connection broke"


if __name__ == "__main__":
    sys.exit(serve(transfer))
