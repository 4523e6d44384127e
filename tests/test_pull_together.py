"""Many processes and one cache: all get the whole model, whoever is killed or stopped; what they leave is swept."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from hub_fixtures import client_env, contents, flip, start_python, write_bundle

MANY = 8
PULLER = """
import hashlib, sys
from zoo.cli.notices import show_warnings
from zoo.hub import open_hub
from zoo_registry.errors import ZooError

if "unlocked" in sys.argv:  # a disk on which locks succeed for everybody
    import contextlib
    from huggingface_hub import file_download
    file_download.WeakFileLock = lambda *args, **kwargs: contextlib.nullcontext()
if "soft" in sys.argv:  # one that has none: a lock is a file that is there
    from huggingface_hub.utils import _fixes
    def none(self, *args, **kwargs):
        raise NotImplementedError("use SoftFileLock instead")
    _fixes.FileLock.acquire = none
show_warnings()
print("started", flush=True)
try:
    pulled = open_hub().pull("me/x")
    found = hashlib.sha256()
    for name in sorted(pulled.files):
        found.update(name.encode() + (pulled.path / name).read_bytes())
    print(found.hexdigest())
except ZooError as error:
    print(error.exit_code, error.message, "|", error.hint)
"""


@pytest.fixture
def scene(loopback, connect, tmp_path):
    """A hub with a model of 1.2 MB, the environment of its clients, and what they must come to."""
    import hashlib

    server, folder = loopback(), write_bundle(tmp_path / "large", size=300_000)
    connect(server, cache="first").push(folder, "me/x", message="first")
    found = hashlib.sha256()
    for name, data in contents(folder).items():
        found.update(name.encode() + data)
    server.clear_log()
    return server, client_env(server, tmp_path / "home"), found.hexdigest(), tmp_path / "home" / "hub" / "models--me--x"


def outcome(process) -> tuple[str, str]:
    """The last line that a puller printed, and its standard error."""
    out, err = process.communicate(timeout=500)
    assert "Traceback" not in err
    return (out.splitlines() or [""])[-1], err


def wait_for(found, seconds: float = 300) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


@pytest.mark.parametrize("disk", ["locks", "unlocked", "soft"])
def test_many_processes_pull_one_model_into_one_cache(scene, disk):
    server, env, expected, repo = scene
    pullers = [start_python(PULLER, disk, env=env) for _ in range(MANY)]
    assert [outcome(p)[0] for p in pullers] == [expected] * MANY
    assert list(repo.rglob("*.incomplete")) == []
    if disk == "locks":
        fetched = [r["target"] for r in server.log("resolve")]
        assert fetched.count("model.safetensors") < MANY  # the lock spares the others the bytes


@pytest.mark.parametrize("disk", ["locks", "unlocked"])
def test_many_processes_meet_one_damaged_file(scene, disk):
    _, env, expected, repo = scene
    assert outcome(start_python(PULLER, env=env))[0] == expected
    blobs = [p for p in (repo / "blobs").iterdir() if p.stat().st_size > 1_000_000]
    flip(blobs[0])
    pullers = [start_python(PULLER, disk, env=env) for _ in range(MANY)]
    results = [outcome(p) for p in pullers]
    assert [line for line, _ in results] == [expected] * MANY
    assert any("model.safetensors is damaged in the cache" in err for _, err in results)
    ward = list((repo / "zoo" / "damaged").iterdir())
    assert [p.name.partition(".")[0] for p in ward] == [blobs[0].name]  # the damaged one, and no good one with it
    assert outcome(start_python(PULLER, env=env))[0] == expected


@pytest.mark.parametrize("disk", ["locks", "soft"])
def test_a_killed_holder_of_the_lock_is_no_hindrance(scene, disk):
    server, env, expected, repo = scene
    server.set_faults("resolve[model.safetensors]:hang=60:1")
    holder = start_python(PULLER, disk, env=env)
    wait_for(lambda: any((repo / "blobs").glob("*.incomplete")) and any(r["fault"] for r in server.log()))
    others = [start_python(PULLER, disk, env=env) for _ in range(3)]
    for other in others:
        assert other.stdout.readline() == "started\n"
    holder.send_signal(signal.SIGKILL)
    assert holder.wait(60) == -signal.SIGKILL  # before that its number is still taken, and the lock not free
    assert [outcome(p)[0] for p in others] == [expected] * 3
    left = list(repo.rglob("*.incomplete"))
    assert left  # the killed one's: swept by a pull that downloads a day later
    for stray in left:
        os.utime(stray, (time.time() - 100_000,) * 2)
    fresh = repo / "blobs" / "of-a-running-one.incomplete"
    fresh.touch()
    next(p for p in (repo / "blobs").iterdir() if p.stat().st_size > 1_000_000).unlink()
    assert outcome(start_python(PULLER, env=env))[0] == expected
    assert list(repo.rglob("*.incomplete")) == [fresh]


def test_a_stopped_holder_of_the_lock_is_named_in_bounded_time(scene):
    server, env, expected, repo = scene
    server.set_faults("resolve[model.safetensors]:hang=60:1")
    holder = start_python(PULLER, env=env)
    wait_for(lambda: any((repo / "blobs").glob("*.incomplete")) and any(r["fault"] for r in server.log()))
    holder.send_signal(signal.SIGSTOP)
    line, err = outcome(start_python(PULLER, env=env | {"HF_HUB_DOWNLOAD_TIMEOUT": "3"}))
    holder.kill()
    assert re.match(r"4 another process has held '\S+\.lock' for \d+ s .* \| end that process", line), line
    assert re.search(r"nothing came for \d+ s; waiting up to 9 s", err)
    server.set_faults("")
    assert outcome(start_python(PULLER, env=env))[0] == expected


@pytest.mark.slow
def test_killed_at_any_moment_nothing_partial_is_ever_served(scene):
    server, env, expected, repo = scene
    server.set_faults("resolve:slow=0.4:*")
    for number in range(12):
        process = start_python(PULLER, env=env)
        process.stdout.readline()
        time.sleep(0.13 * number)
        process.kill()
        process.wait(60)
        for path in repo.glob("snapshots/*/*"):
            if path.exists():
                assert path.stat().st_size == path.resolve().stat().st_size
    server.set_faults("")
    assert outcome(start_python(PULLER, env=env))[0] == expected


def test_ctrl_c_ends_a_download_at_once(scene):
    server, env, expected, repo = scene
    server.set_faults("resolve[model.safetensors]:slow=60:1")
    process = start_python(PULLER, env=env)
    wait_for(lambda: any(p.stat().st_size > 0 for p in (repo / "blobs").glob("*.incomplete")))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # the body alone takes that long
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    server.set_faults("")
    assert outcome(start_python(PULLER, env=env))[0] == expected


def test_what_is_missing_in_a_cache_is_fetched_again(scene):
    """A link that leads nowhere, and a snapshot without its links."""
    _, env, expected, repo = scene
    assert outcome(start_python(PULLER, env=env))[0] == expected
    spot = next(repo.glob("snapshots/*/model.safetensors"))
    Path(spot.resolve()).unlink()
    assert spot.is_symlink()
    assert outcome(start_python(PULLER, env=env))[0] == expected
    for path in list(repo.glob("snapshots/*/*")):
        if path.is_symlink():
            path.unlink()
    assert outcome(start_python(PULLER, env=env))[0] == expected
