"""Work in a fresh process of ours, watched: what it says is passed on, silence is told, and a deadline ends it.

``python -m MODULE`` reads one JSON object, the order, as a line on standard input, which then stays open: where it
closes, the parent is gone, and the process ends too. It answers with JSON lines on standard output: ``{"say": text}``,
``{"at": text}`` (what it does now), ``{"file": name, "done": bytes}``, and at last ``{"answer": ...}`` or
``{"error": ...}``.
Secrets travel in the order alone, never in arguments.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from zoo_registry import ZooError
from zoo_registry import errors as tree

from zoo.deadline import Deadline, DeadlineError

log = logging.getLogger("zoo.watched")

Tell = Callable[[dict[str, Any]], None]
"""Takes one of the JSON objects above."""
QUIET = 10.0
"""Seconds of silence after which it is said what is waited for, and again after each such time."""


class CrashError(ZooError):
    """The process ended without an answer; the message is the last line that it said."""


def watch(module: str, order: dict[str, Any], *, on: Tell, deadline: Deadline) -> Any:
    """Run a module of ours in a fresh process; returns its answer.

    Args:
        module: its name; it calls :func:`serve`.
        order: what to do.
        on: called with what it tells, but for the answer.
        deadline: when it is killed.

    Raises:
        ZooError: the error that it answered, of its own class; attributes ``again`` and ``wait`` come along.
        DeadlineError: it was killed.
        CrashError: it ended without an answer.
    """
    pipe, command = subprocess.PIPE, [sys.executable, "-m", module]
    with _child(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)) as child:
        said = _Lines(child)
        _order(child, order)
        for event in said.events(deadline):
            if "answer" in event:
                return event["answer"]
            if "error" in event:
                raise _error(event["error"])
            on(event)
        child.wait()
        raise CrashError(said.last or f"it ended with {child.returncode}")


def _order(child: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    """Write the order; a child that died before it read it is found out by its silence."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.flush()


@contextmanager
def _child(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, dead at the end whatever happened."""
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


class _Lines:
    """What a process says, read by threads so that waiting for it can end."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.last, self.doing = "", "starting a process"
        self.found: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, args=(child.stdout,), daemon=True).start()
        self.errors = threading.Thread(target=self._drain, args=(child.stderr,), daemon=True)
        self.errors.start()

    def events(self, deadline: Deadline) -> Iterator[dict[str, Any]]:
        """Each object as it comes; where none comes it is said that there is none."""
        quiet = 0.0
        while True:
            step = min(QUIET, deadline.left())
            try:
                event = self.found.get(timeout=max(step, 0.001))
            except queue.Empty:
                quiet += step
                if deadline.left() <= 0:
                    raise DeadlineError(self.doing, deadline) from None
                log.warning("%s, for %.0f s now%s", self.doing, quiet, deadline.ends())
                continue
            quiet = 0.0
            if event is None:
                self.errors.join(5)
                return
            self.doing = event.get("at", self.doing)
            yield event

    def _read(self, stream: Any) -> None:
        with suppress(ValueError):  # closed while it was read: the process was killed
            for line in stream:
                event = None
                with suppress(ValueError):
                    event = json.loads(line)
                if isinstance(event, dict):
                    self.found.put(event)
        self.found.put(None)

    def _drain(self, stream: Any) -> None:
        with suppress(ValueError):
            for line in stream:
                self.last = line.decode(errors="replace").strip() or self.last


def _error(said: dict[str, Any]) -> ZooError:
    """The error that the process met."""
    kinds = [c for c in vars(tree).values() if isinstance(c, type) and issubclass(c, ZooError)]
    cls = next((c for c in kinds if c.__name__ == said.get("class")), None)
    cls = cls or next((c for c in kinds if c.kind == said.get("kind")), ZooError)
    error = cls(str(said.get("message")), said.get("hint"))
    for name in ("again", "wait"):
        setattr(error, name, said.get(name))
    return error


def describe(error: ZooError) -> dict[str, Any]:
    """An error as a process tells it."""
    more = {name: getattr(error, name, None) for name in ("again", "wait")}
    return {"class": type(error).__name__, **error.to_json(), **more}


def serve(work: Callable[[dict[str, Any], Tell], Any]) -> int:
    """The module's command: read the order, work, answer. What libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    order = json.loads(_line(0))
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")

    try:
        answer = work(order, tell)
    except ZooError as error:
        tell({"error": describe(error)})
        return error.exit_code
    tell({"answer": answer})
    return 0


def _line(handle: int) -> bytes:
    """One line, and not a byte of what follows."""
    found = bytearray()
    while not found.endswith(b"\n"):
        part = os.read(handle, 1 << 16)
        if not part:
            break
        found += part
    return bytes(found)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
