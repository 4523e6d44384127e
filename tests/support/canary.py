"""Secrets that every test works with, looked for in everything that the suite leaves behind.

As a plugin (``pytest_plugins = ["canary"]``): ``HF_TOKEN`` is a canary in every test and every process that a test
starts. A test fails where one stands in what it printed or logged, in the output or the arguments of a process that it
started, or in what a command printed in this process; the suite fails where one stands in a file: below the tests'
folders or in the session's ``HF_HOME``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hub_fixtures import READER, TOKEN

STORED = "hf_storedCanary55"
"""The login that lies in the session's ``HF_HOME``, for who would read it though ``HF_TOKEN`` is set."""
CANARIES = (TOKEN, READER, STORED, "hf_storedLogin99")
LOGINS = frozenset({"token", "stored_tokens"})
"""Files in which a login is stored, by huggingface_hub or by a test in its place."""
_TOLD = pytest.StashKey[set[str]]()
_given: set[Path] = set()
_found: list[str] = []


def given(path: Path) -> Path:
    """A file that a test gives a token in, as a careless user would; it may have it."""
    _given.add(path.resolve())
    return path


def check(text: str | bytes | None, what: str) -> None:
    """Fail where a canary is in the text."""
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text or b""
    for token in CANARIES:
        if token.encode() in data:
            spot = data.index(token.encode())
            around = data[max(0, spot - 60) : spot].decode(errors="replace")
            raise AssertionError(f"a token is in {what}, after {around!r}")


def search(roots: Iterable[Path]) -> Iterator[Path]:
    """The files below these folders in which a canary stands, or in whose name."""
    for root in roots:
        for base, folders, names in os.walk(root):
            folders[:] = [f for f in folders if not os.path.islink(os.path.join(base, f))]
            for name in names:
                path = Path(base) / name
                if name not in LOGINS and path.resolve() not in _given and _has(path):
                    yield path


def _has(path: Path) -> bool:
    if any(token in path.name for token in CANARIES):
        return True
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb", buffering=0) as stream:
            return any(token.encode() in part for part in _written(stream.fileno()) for token in CANARIES)
    except OSError:  # gone, or not ours to read
        return False


def _written(file: int, size: int = 2**24, overlap: int = 256) -> Iterator[bytes]:
    """What was written to a file, in parts that overlap; holes, of which some tests make terabytes, are skipped."""
    place = 0
    while True:
        try:
            place = os.lseek(file, place, os.SEEK_DATA)
        except OSError:  # no data from here on
            return
        until = os.lseek(file, place, os.SEEK_HOLE)
        while place < until:
            part = os.pread(file, min(size, until - place), place)
            if not part:
                return
            yield part
            place = max(place + len(part) - overlap, place + 1) if place + len(part) < until else until


# ---------------------------------------------------------------------- the plugin


@pytest.fixture(autouse=True)
def _watched_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments and outputs of every process that a test starts."""
    begin, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate

    def watched_begin(self, args, *rest, **options):
        for word in [args] if isinstance(args, str | bytes | os.PathLike) else args:
            check(os.fsencode(word) if not isinstance(word, bytes) else word, "the arguments of a process")
        begin(self, args, *rest, **options)

    def watched_communicate(self, *rest, **options):
        found = communicate(self, *rest, **options)
        for part in found:
            check(part, f"the output of {self.args!r:.200}")
        return found

    monkeypatch.setattr(subprocess.Popen, "__init__", watched_begin)
    monkeypatch.setattr(subprocess.Popen, "communicate", watched_communicate)


@pytest.fixture(autouse=True)
def _watched_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``capsys`` and ``capfd`` hand to a test is not in its report."""
    read = pytest.CaptureFixture.readouterr

    def watched(self):
        found = read(self)
        for part in found:
            check(part, "what was printed")
        return found

    monkeypatch.setattr(pytest.CaptureFixture, "readouterr", watched)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """What a test printed or logged."""
    report = yield
    told = item.stash.setdefault(_TOLD, set())
    for _, title, text in item._report_sections:
        if title in told:
            continue
        try:
            check(text, f"{title} of {item.nodeid}")
        except AssertionError as error:
            told.add(title)
            report.outcome, report.longrepr = "failed", str(error)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What the suite wrote."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    roots = [Path(os.environ["HF_HOME"])]
    if factory is not None and factory._basetemp is not None:
        roots.append(factory._basetemp)
    _found.extend(str(path) for path in search(roots))
    if _found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The files, by name."""
    if _found:
        terminalreporter.section("tokens in files", red=True, bold=True)
        terminalreporter.write_line("\n".join(_found))
