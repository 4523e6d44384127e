"""kill -9 at each write: of a bundle, of one that replaces another, of a pull into the cache, of what a push prepares.

The process is killed before its first, second, third... call that changes the disk; after each death the last good
state has to be there, whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_fixtures import client_env, contents, run_python, write_bundle, write_manifest
from zoo_runs import assembled

from zoo.files import exchange, write_folder
from zoo.hub.files import verify_folder

ARMED = """
import os, signal, sys
from pathlib import Path

CALLS = "fsync replace rename mkdir rmdir unlink symlink link remove open chmod fchmod".split()

def killed_at(number, work):
    '''Run the work in a fork that dies before so many calls that change the disk; whether it died.'''
    pid = os.fork()
    if pid == 0:
        left = [number]
        def armed(call):
            def point(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)
            return point
        for name in CALLS:
            setattr(os, name, armed(getattr(os, name)))
        import zoo.files
        zoo.files.exchange = armed(zoo.files.exchange)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0

def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
"""

BUNDLES = (
    ARMED
    + """
from zoo.files import write_bytes, write_folder
from zoo.hub.files import verify_folder

old, new, place = map(Path, sys.argv[1:4])
fill = lambda source: lambda to: [write_bytes(to / name, data) for name, data in contents(source).items()]
deaths, seen = 0, set()
while killed_at(deaths + 1, lambda: write_folder(place, fill(new))):
    deaths += 1
    if place.exists():
        verify_folder(place, "it")
        found = contents(place)
        assert found in (contents(old), contents(new)), "a mixture"
        seen.add("new" if found == contents(new) else "old")
    else:
        seen.add("nothing")
    if sys.argv[4] == "replaced":
        write_folder(place, fill(old))
print(deaths, *sorted(seen))
"""
)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles, flat, as runs write them."""
    found = []
    for seed in (0, 1):
        folder = write_bundle(tmp_path / f"b{seed}", seed)
        (folder / "adapter" / "adapter_config.json").unlink()
        (folder / "adapter").rmdir()
        write_manifest(folder)
        found.append(folder)
    return found[0], found[1]


def test_a_bundle_killed_at_any_write_is_not_there_or_whole(two, tmp_path):
    old, new = two
    deaths, *seen = run_python(BUNDLES, old, new, tmp_path / "model", "fresh").split()
    assert int(deaths) > 15
    assert set(seen) <= {"nothing", "new"}
    assert contents(tmp_path / "model") == contents(new)


def test_a_bundle_that_replaces_another_is_the_old_or_the_new_at_any_moment(two, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    if not exchange(one, other):
        pytest.skip("this disk cannot swap two names")
    old, new = two
    write_folder(tmp_path / "model", lambda to: [(to / n).write_bytes(d) for n, d in contents(old).items()])
    deaths, *seen = run_python(BUNDLES, old, new, tmp_path / "model", "replaced").split()
    assert int(deaths) > 15
    assert set(seen) == {"old", "new"}


@pytest.mark.slow
def test_a_real_bundle_killed_at_any_write_is_not_there_or_whole(tmp_path, monkeypatch):
    """The writer that runs use, with tensors, head, card and manifest; figures are drawn in runs alone."""
    import os
    import signal

    import zoo_runs

    import zoo.bundle.write as writing

    made, filled = assembled("linear"), []
    monkeypatch.setattr(writing, "write_folder", lambda folder, fill: filled.append(fill))
    zoo_runs.written(tmp_path / "model", made)
    number, died = 0, True
    while died:
        number += 1
        pid = os.fork()
        if pid == 0:
            left = [number]

            def armed(call, left=left):
                def point(*args, **kwargs):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*args, **kwargs)

                return point

            for name in ("fsync", "replace", "mkdir", "unlink", "open"):
                setattr(os, name, armed(getattr(os, name)))
            write_folder(tmp_path / "model", filled[0])
            os._exit(0)
        died = os.waitpid(pid, 0)[1] != 0
        if (tmp_path / "model").exists():
            verify_folder(tmp_path / "model", "it")
        assert died or (tmp_path / "model").exists()
        if died and (tmp_path / "model").exists():
            break  # the rename is done; what follows only flushes
    assert number > 20


PULLS = (
    ARMED
    + """
import shutil
from zoo.hub.huggingface import HfHub
from zoo_registry import HubError

bundle, cache, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
wanted, deaths, number, seen = contents(bundle), 0, 1, set()

def pull(**options):
    pulled = HfHub(cache_dir=cache).pull("me/x", **options)
    return {name: (pulled.path / name).read_bytes() for name in pulled.files}

while killed_at(number, pull):
    deaths, number = deaths + 1, number + step
    try:
        assert pull(offline=True) == wanted
        seen.add("whole")
    except HubError:
        seen.add("nothing")
    assert pull() == wanted  # and the next one needs no help
    assert pull(offline=True) == wanted
    shutil.rmtree(cache)
print(deaths, *sorted(seen))
"""
)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_pull_killed_at_any_write_serves_nothing_or_the_whole(loopback, connect, bundle, tmp_path, step):
    server = loopback()
    connect(server).push(bundle, "me/x", message="first")
    env = client_env(server, tmp_path / "home")
    deaths, *seen = run_python(PULLS, bundle, tmp_path / "cache", step, env=env).split()
    assert int(deaths) >= 3
    assert "nothing" in seen


STAGES = (
    ARMED
    + """
from zoo.bundle.staging import staged
from zoo.hub.files import verify_folder

bundle, run = Path(sys.argv[1]), Path(sys.argv[2])
before, deaths = contents(bundle), 0

def stage():
    with staged(bundle, before, {"README.md": b"# other"}, near=run) as folder:
        verify_folder(folder, "it")

step = int(sys.argv[3])
while killed_at(1 + deaths * step, stage):
    deaths += 1
    assert contents(bundle) == before
    verify_folder(bundle, "it")
left = list(run.glob(".push-*"))
for stray in left:
    os.utime(stray, (0, 0))
stage()
print(deaths, len(left), len(list(run.glob(".push-*"))))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 1])
def test_a_push_killed_while_it_prepares_leaves_the_bundle_as_it_was(two, tmp_path, step):
    (tmp_path / "run").mkdir()
    deaths, left, then = map(int, run_python(STAGES, two[0], tmp_path / "run", step).split())
    assert deaths >= 3
    assert left > 0  # what a killed push leaves...
    assert then == 0  # ...a later one sweeps
