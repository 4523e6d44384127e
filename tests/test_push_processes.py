"""Pushes in processes that die, hang and race; the process that sends, and hf_xet in it."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from pathlib import Path

import pytest
from hub_fixtures import TOKEN, client_env, contents, one_line, run_python, start_python, write_bundle
from zoo_registry.errors import HubError

import zoo.watched
from zoo.deadline import Deadline, DeadlineError
from zoo.hub.huggingface import HfHub
from zoo.watched import CrashError, watch


def until_true(check, seconds: float = 120) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def lineage(server, name: str = "me/x") -> list[str]:
    """The commits of ``main``, newest first."""
    found, sha = [], server.store.load(name)["branches"]["main"]
    while sha is not None:
        found.append(sha)
        sha = server.store.commit(name, sha)["parent"]
    return found


# ---------------------------------------------------------------------- a watched process

SLEEPER = """
import os, sys, time
from pathlib import Path
from zoo_registry import HubError
from zoo.watched import serve

def work(order, tell):
    Path(order["pid"]).write_text(str(os.getpid()))
    tell({"at": "counting sheep"})
    print("what a library prints")
    if order["do"] == "crash":
        print("Segmentation fault", file=sys.stderr, flush=True)
        os._exit(139)
    if order["do"] == "fail":
        error = HubError("no sheep", "look in the barn")
        error.again, error.wait = True, 3.0
        raise error
    if order["do"] == "sleep":
        time.sleep(300)
    return {"sheep": 7, "arguments": sys.argv}

if __name__ == "__main__":
    sys.exit(serve(work))
"""


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``sleeper(what, deadline)``: watch a process that does so; ``sleeper.pid()`` is its id."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spot = tmp_path / "pid"

    def run(what: str, deadline: Deadline | None = None):
        order = {"do": what, "pid": str(spot), "token": TOKEN}
        return watch("sleeper", order, on=lambda event: None, deadline=deadline or Deadline(120))

    run.pid = lambda: int(spot.read_text()) if spot.is_file() and spot.read_text() else 0
    return run


def is_alive(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_watched_process_answers_and_gets_its_order_where_nobody_sees_it(sleeper):
    answer = sleeper("answer")
    assert answer["sheep"] == 7
    assert TOKEN not in str(answer["arguments"])


def test_an_error_of_a_watched_process_is_its_own(sleeper):
    with pytest.raises(HubError, match="no sheep") as caught:
        sleeper("fail")
    assert (caught.value.hint, caught.value.again, caught.value.wait) == ("look in the barn", True, 3.0)


def test_a_watched_process_that_ends_without_an_answer_is_told_with_its_last_words(sleeper):
    with pytest.raises(CrashError, match="Segmentation fault"):
        sleeper("crash")


def test_silence_is_told_and_the_deadline_kills(sleeper, monkeypatch, caplog):
    monkeypatch.setattr(zoo.watched, "QUIET", 0.2)
    until = Deadline(300)

    def expire() -> None:
        until_true(lambda: "counting sheep, for" in caplog.text)
        until.end = time.monotonic()

    threading.Thread(target=expire, daemon=True).start()
    with pytest.raises(DeadlineError, match=r"gave up after 5 min.*counting sheep"):
        sleeper("sleep", until)
    assert re.search(r"counting sheep, for 0 s now; gives up in 5 min", caplog.text)
    assert not is_alive(sleeper.pid())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_a_watched_process_does_not_outlive_whoever_watches(sleeper, tmp_path):
    code = (
        "import sys; from zoo.watched import watch; from zoo.deadline import Deadline\n"
        "watch('sleeper', {'do': 'sleep', 'pid': sys.argv[1]}, on=lambda e: None, deadline=Deadline())"
    )
    parent = start_python(code, tmp_path / "pid", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    until_true(sleeper.pid)
    assert is_alive(sleeper.pid())
    parent.kill()
    parent.communicate()
    until_true(lambda: not is_alive(sleeper.pid()))


# ---------------------------------------------------------------------- the process that sends

DRIVER = """
import sys
from pathlib import Path
from zoo.hub import open_hub
from zoo_registry.errors import ZooError
try:
    print(open_hub().push(Path(sys.argv[1]), "me/x", message="driver").revision)
except ZooError as error:
    print(error.message, error.hint, file=sys.stderr)
    sys.exit(error.exit_code)
"""

OFTEN = {
    "while a file is on its way": "put:delay=30:1",
    "while the hub commits": "commit:delay=1.5:1",
    "once the hub has committed": "commit:hang@0=30:1",
}
SELDOM = {
    "while the login is asked for": "whoami:delay=30:1",
    "while the head is read": "info:delay=30:1",
    "while the card is looked at": "validate:delay=30:1",
    "while it is asked what to send": "preupload:delay=30:1",
    "while it is asked where to send it": "batch:delay=30:1",
    "while what arrived is checked": "verify:delay=30:1",
    "while the files are compared": "info:delay=30:1+1",
}
ARRIVED = ("while the card is looked at",)
SENT = ("while the hub commits", "once the hub has committed", "while the files are compared")


@pytest.mark.parametrize("point", [*OFTEN, *(pytest.param(point, marks=pytest.mark.slow) for point in SELDOM)])
def test_a_push_killed_anywhere_leaves_a_whole_head_and_can_be_repeated(loopback, connect, bundle, tmp_path, point):
    server = loopback()
    first = connect(server).push(bundle, "me/x", message="first")
    old = contents(bundle)
    write_bundle(bundle, seed=1, files={"README.md": "---\ntags: [zoo]\n---\n# Changed\n"})
    server.set_faults((OFTEN | SELDOM)[point])
    driver = start_python(DRIVER, bundle, env=client_env(server, tmp_path / "home"))
    until_true(lambda: server.faults.items[0].left == 0)
    driver.kill()
    driver.communicate()
    if point == "while the hub commits":  # it has the request and makes the commit although nobody waits for it
        until_true(lambda: server.store.load("me/x")["branches"]["main"] != first.revision)
    server.set_faults("")
    server.clear_log()
    pulled = connect(server).pull("me/x")
    assert contents(pulled.path, pulled.files) in (old, contents(bundle))
    again = connect(server).push(bundle, "me/x", message="again")
    assert again.created == (point not in SENT)
    assert (server.log("put") == []) == (point in (*SENT, *ARRIVED))
    assert len(lineage(server)) == 3  # the hub's own first commit, the first push, and one of this content
    pulled = connect(server, cache="other").pull("me/x")
    assert contents(pulled.path, pulled.files) == contents(bundle)


@pytest.fixture
def direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``direct(server)``: an HfHub that sends through a process of its own; waits of ours are not slept."""
    monkeypatch.setattr("zoo.deadline.sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")

    def open_it(server, cache="cache"):
        if server.store.cas is None:
            monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        return HfHub(server.url, token=TOKEN, cache_dir=tmp_path / cache)

    return open_it


def xorbs(server) -> set[Path]:
    """What hf_xet's store holds of contents."""
    return set((server.root / "cas").rglob("xorbs/*"))


def test_hf_xet_is_watched_and_what_has_arrived_is_not_sent_again(loopback, direct, bundle, monkeypatch, caplog):
    """hf_xet tries a token for 100 s without a word; here each silence is told, and the deadline ends it."""
    monkeypatch.setattr(zoo.watched, "QUIET", 0.3)
    caplog.set_level(logging.WARNING)
    server, until, steps = loopback(xet=True), Deadline(300), []
    write_bundle(bundle, size=200_000)
    server.set_faults("xet:503:*")

    def expire() -> None:
        until_true(lambda: server.log("xet") and "sending model.safetensors" in caplog.text)
        until.end = time.monotonic()

    threading.Thread(target=expire, daemon=True).start()
    with pytest.raises(HubError, match=r"gave up after 5 min.*sending model.safetensors \(0.8 MB\) to http") as caught:
        direct(server).push(bundle, "me/x", message="first", deadline=until)
    one_line(caught.value)
    assert re.search(r"sending model.safetensors \(0.8 MB\) to http\S+, for \d s now; gives up in", caplog.text)
    server.set_faults("commit:403:1")
    with pytest.raises(HubError, match="forbids it"):
        direct(server).push(bundle, "me/x", message="first")
    arrived = xorbs(server)
    assert arrived
    server.set_faults("")
    pushed = direct(server).push(bundle, "me/x", message="first", progress=lambda *step: steps.append(step))
    assert pushed.created
    assert xorbs(server) == arrived  # another process, and no content went twice
    assert server.log("put") == []
    assert steps[-1][1] == steps[-1][2]
    assert len(lineage(server)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("xet:503:1", ""),
        ("xet:429=1:1", ""),
        ("xet:reset:1", ""),
        ("commit:503:1", ""),
        ("commit:lost:1", ""),
        ("commit:mangled:1", ""),
        ("xet:403:*", "xet|broke|forbids"),
        ("xet:404:*", "xet|broke|no repo|like a hub"),
        ("xet:501:*", "xet|broke|out of order"),
    ],
)
def test_each_fault_of_an_upload_by_hf_xet_has_its_end(loopback, direct, bundle, fault, says):
    server = loopback(xet=True)
    server.set_faults(fault)
    if says:
        with pytest.raises(HubError, match=says) as caught:
            direct(server).push(bundle, "me/x", message="first")
        one_line(caught.value)
        server.set_faults("")
        assert len(lineage(server)) == 1
    assert direct(server).push(bundle, "me/x", message="again").created or not says
    assert len(lineage(server)) == 2
    pulled = direct(server).pull("me/x")
    assert contents(pulled.path, pulled.files) == contents(bundle)


@pytest.mark.slow
def test_eight_processes_push_to_one_repo_and_each_ends_well_or_with_6(loopback, connect, tmp_path):
    server = loopback()
    connect(server).push(write_bundle(tmp_path / "first"), "me/x", message="first")
    folders = [write_bundle(tmp_path / f"b{n}", seed=n + 1) for n in range(8)]
    drivers = [start_python(DRIVER, folder, env=client_env(server, tmp_path / "home")) for folder in folders]
    published = []
    for driver in drivers:
        out, err = driver.communicate(timeout=500)
        assert driver.returncode in (0, 6), err
        published += out.split()
        assert (driver.returncode == 6) == ("changed meanwhile" in err)
    made = lineage(server)[:-2]
    assert set(published) == set(made)
    assert published
    pulled = connect(server).pull("me/x")
    assert contents(pulled.path, pulled.files) in [contents(folder) for folder in folders]


LOCKLESS = """
import errno, fcntl, os, sys
from pathlib import Path

def refused(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = fcntl.lockf = os.link = os.symlink = refused
from hub_fixtures import write_bundle
from zoo.hub.folder import FolderHub
from zoo_registry.errors import ConflictError

root, me, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
hub = FolderHub(root)
folder = write_bundle(work, seed=me)
while True:
    try:
        print(hub.push(folder, "me/x", message=str(me)).revision)
        break
    except ConflictError as error:
        print(error.exit_code, file=sys.stderr)
"""


def test_a_folder_hub_needs_neither_locks_nor_links(tmp_path):
    """A shared disk where flock answers ENOLCK, and where there are no links of either kind."""
    from zoo.hub.folder import FolderHub

    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "support")}
    racers = [start_python(LOCKLESS, tmp_path / "hub", n, tmp_path / f"w{n}", env=env) for n in range(4)]
    published = []
    for racer in racers:
        out, err = racer.communicate(timeout=300)
        assert racer.returncode == 0, err
        assert set(err.split()) <= {"6"}, err
        published += out.split()
    assert len(set(published)) == 4
    for revision in published:
        assert FolderHub(tmp_path / "hub").pull("me/x", revision).revision == revision


def test_the_sender_needs_no_torch(tmp_path):
    code = "import sys, zoo.hub.hf_send; print([m for m in ('torch', 'timm', 'transformers') if m in sys.modules])"
    assert run_python(code).strip() == "[]"
