"""Commands run under an audit hook in a process of their own, and what is found suspicious in what they did.

``python audited.py REPORT STEPS.json`` runs the steps one after another: a list of words is a command of the zoo, a
text is Python code (the controls). Every event is a JSON line of REPORT, written at once by one call of the system.
:func:`findings` reads it. The hook does not see what is written in Rust (safetensors, hf_xet); :class:`Bait` does: it
asks the kernel who opens a folder's files, whatever the language.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
CHANGES = ("os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")
SOCKETS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto")
CODE = ("exec", "compile", "import", "ctypes.dlopen", "pickle.find_class", "marshal.load")
SEEN = {"open", "socket.__new__", *PROCESSES, *CHANGES, *SOCKETS, *CODE}
SYSTEM = (
    "/proc/",
    "/sys/",
    "/dev/null",
    "/dev/urandom",
    "/dev/shm",
    "/dev/tty",
    "/usr/",
    "/lib",
    "/etc/ssl/",
    "/etc/pki/",
)
ETC = ("localtime", "mime.types", "hosts", "resolv.conf", "nsswitch.conf", "os-release", "gai.conf", "host.conf")
TOOLS = ("/sbin/ldconfig", "fc-list")
"""Programs that ctypes asks where a library is, and matplotlib where fonts are."""
HARMLESS_PICKLES = ("torch", "numpy", "_codecs", "collections", "sklearn", "zoo", "functools")
INET = (2, 10)


# ---------------------------------------------------------------------- in the child


def _text(value: object) -> object:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, tuple | list):
        return [_text(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(getattr(value, "co_filename", type(value).__name__))


def _whole(value: object) -> object:
    return os.path.abspath(os.fsdecode(value)) if isinstance(value, str | bytes | os.PathLike) else value


def _install(handle: int, known: set[str]) -> None:
    def hook(event: str, arguments: tuple) -> None:
        if event not in SEEN or (event == "open" and isinstance(arguments[0], int)):
            return
        if event == "open" or event in CHANGES:  # a later step may be somewhere else
            if event == "os.symlink":  # a link's text is read from where it lies
                arguments = (
                    os.path.join(os.path.dirname(_whole(arguments[1])), os.fsdecode(arguments[0])),
                    arguments[1],
                )
            paths = 1 if event == "open" else 2
            arguments = tuple(_whole(a) if i < paths else a for i, a in enumerate(arguments))
        elif event == "socket.__new__":
            arguments = arguments[1:]
        elif event == "import":
            arguments = arguments[:2]
        elif event == "compile":
            arguments = arguments[1:]
        elif event == "subprocess.Popen":
            arguments = arguments[:2]
        line = json.dumps([event, [_text(a) for a in arguments]])
        if line not in known:
            known.add(line)
            os.write(handle, line.encode() + b"\n")

    sys.addaudithook(hook)


def main(report: str, steps: str) -> None:
    """Run the steps; standard output and error have a line ``#STEP n`` before each."""
    todo = json.loads(Path(steps).read_text())
    handle = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    paths = [p for p in sys.path if p] + [*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix]

    def note(*row: object) -> None:
        os.write(handle, json.dumps(row).encode() + b"\n")

    note("paths", [*paths, *(str(Path(p).resolve()) for p in paths)])
    known: set[str] = set()
    _install(handle, known)
    for number, step in enumerate(todo):
        known.clear()
        note("step", number)
        print(f"#STEP {number}", flush=True)
        print(f"#STEP {number}", file=sys.stderr, flush=True)
        code = 0
        if isinstance(step, str):
            exec(step, {})
        else:
            from zoo.cli.main import main as zoo

            code = zoo(step)
        note("end", code)
    os._exit(0)


# ---------------------------------------------------------------------- in the test


class Step:
    """One step's exit code, its events, and its standard error."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.events: list[tuple[str, list[Any]]] = []
        self.err = self.out = ""


def run(steps: list[Any], folder: Path, env: dict[str, str]) -> tuple[list[Step], list[str]]:
    """Run the steps in a child; they, and the folders that code may be imported from."""
    (folder / "steps.json").write_text(json.dumps(steps))
    (folder / "report").unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__)), str(folder / "report"), str(folder / "steps.json")]
    env = env | {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder / "tmp"), "MPLCONFIGDIR": str(folder / "tmp")}
    env["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "tmp")
    (folder / "tmp").mkdir(exist_ok=True)
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=580, check=False)
    rows = [json.loads(line) for line in (folder / "report").read_text().splitlines()]
    found: list[Step] = []
    roots: list[str] = []
    for event, arguments in rows:
        if event == "paths":
            roots = arguments
        elif event == "step":
            found.append(Step())
        elif event == "end":
            found[-1].code = arguments
        elif found:
            found[-1].events.append((event, arguments))
    for name in ("out", "err"):
        for number, part in enumerate((done.stdout if name == "out" else done.stderr).split("#STEP ")[1:]):
            setattr(found[number], name, part.partition("\n")[2])
    assert len(found) == len(steps), done.stderr[-3000:]
    return found, roots


def inside(path: str, roots: list[str]) -> bool:
    """Whether the path, or what it leads to, is in one of the folders; both have to be."""
    spots = (os.path.abspath(path), os.path.realpath(path))
    return all(any(s == r or s.startswith(r.rstrip("/") + "/") for r in roots) for s in spots)


def findings(
    step: Step, *, code: list[str], own: list[str], reads: list[str], hubs: list[tuple[str, int]]
) -> list[str]:
    """What a step did that nobody asked it for; empty is good.

    Args:
        step: what it did.
        code: folders that Python's code is in: read, executed, never written.
        own: folders to read and write, from which nothing may be executed: the cache, the run's output.
        reads: paths that the command line names, for reading.
        hubs: addresses that may be spoken to.
    """
    bad = []
    for event, arguments in step.events:
        first = arguments[0] if arguments else None
        if event == "open":
            path, flags = str(first), arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            # This file is read where a library looks up the source of a frame.
            allowed = [*own, "/dev"] if writes else [*own, *code, *reads, __file__]
            if not inside(path, allowed) and (writes or not path.startswith((*SYSTEM, *(f"/etc/{e}" for e in ETC)))):
                bad.append(f"{'writes' if writes else 'reads'} {path}")
        elif event in CHANGES:
            names = [a for a in arguments if isinstance(a, str)]
            bad += [f"{event} {n}" for n in names if os.path.isabs(n) and not inside(os.path.dirname(n), own)]
        elif event in PROCESSES:
            if first not in TOOLS:
                bad.append(f"starts a process: {event} {arguments}")
        elif event in ("socket.connect", "socket.sendto", "socket.bind"):
            address = arguments[-1]
            if not isinstance(address, list) or tuple(address[:2]) not in hubs:
                bad.append(f"connects: {event} {address}")
        elif event == "socket.getaddrinfo" and first not in {host for host, _ in hubs}:
            bad.append(f"asks for the address of {first}")
        elif event in ("exec", "compile", "ctypes.dlopen", "import"):
            name = first if event != "import" else arguments[1]
            name = arguments[0] if event == "compile" else name
            if isinstance(name, str) and (os.path.isabs(name) or "/" in name) and inside(name, own + reads):
                bad.append(f"executes {name} ({event})")
        elif event == "pickle.find_class" and not str(first).split(".")[0].startswith(HARMLESS_PICKLES):
            bad.append(f"unpickles {arguments}")
    return list(dict.fromkeys(bad))


class Bait:
    """Watches a folder's files by inotify (Linux): who opens one is seen by the kernel."""

    def __init__(self, folder: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self.libc.inotify_init1(os.O_NONBLOCK)
        assert self.libc.inotify_add_watch(self.handle, os.fsencode(folder), 0x20 | 0x100 | 0x200 | 0x2) >= 0

    def touched(self) -> list[str]:
        """Names of files that were opened, changed, made or removed since the last call."""
        names = []
        while True:
            try:
                data = os.read(self.handle, 65536)
            except BlockingIOError:
                return names
            while data:
                size = struct.unpack_from("iIII", data)[3]
                names.append(data[16 : 16 + size].rstrip(b"\0").decode())
                data = data[16 + size :]


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, which no user's process has
    main(*sys.argv[1:])
