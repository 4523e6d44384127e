"""The folder hub: round trips, immutability, conflicts, and being killed at every write."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from hub_fixtures import contents, run_python, start_python, write_bundle
from zoo_registry.errors import ConflictError, HubError, UsageError

from zoo.hub.folder import FolderHub


@pytest.fixture
def hub(tmp_path):
    return FolderHub(tmp_path / "hub")


def strays(hub, name="me/x"):
    return list((hub.root / name / "incoming").iterdir())


def versions(hub, name="me/x"):
    return sorted(os.listdir(hub.root / name / "versions"))


def test_a_push_comes_back_whole(hub, bundle):
    steps = []
    pushed = hub.push(bundle, "me/x", message="first", progress=lambda *step: steps.append(step))
    pulled = hub.pull("me/x")
    assert pulled.revision == pushed.revision
    assert contents(pulled.path) == contents(bundle)
    assert set(pulled.files) == set(contents(bundle))
    assert steps[-1][1] == steps[-1][2] == sum(len(data) for data in contents(bundle).values())
    info = hub.info("me/x")
    assert "zoo" in info.tags
    assert info.metadata["license"] == "apache-2.0"
    assert info.private
    assert strays(hub) == []


def test_published_files_are_read_only_and_readable_for_others(hub, bundle):
    assert stat.S_IMODE((bundle / "model.safetensors").stat().st_mode) == 0o600  # as safetensors writes it
    before = os.umask(0o022)
    try:
        hub.push(bundle, "me/x", message="first")
    finally:
        os.umask(before)
    spot = hub.pull("me/x").path / "model.safetensors"
    assert stat.S_IMODE(spot.stat().st_mode) == 0o444


def test_an_unchanged_push_makes_no_revision(hub, bundle):
    first = hub.push(bundle, "me/x", message="first")
    again = hub.push(bundle, "me/x", message="again", parent="0" * 40)  # even from a stale parent
    assert (again.revision, again.created) == (first.revision, False)
    assert versions(hub) == ["000001"]


def test_every_revision_stays_and_is_found_by_its_start(hub, bundle):
    first = hub.push(bundle, "me/x", message="first")
    old = contents(bundle)
    second = hub.push(write_bundle(bundle, seed=1), "me/x", message="second", parent=first.revision)
    assert contents(hub.pull("me/x", first.revision[:7]).path) == old
    assert contents(hub.pull("me/x", "main").path) == contents(bundle)
    assert hub.info("me/x").revision == second.revision != first.revision


def test_a_revision_id_is_made_of_content_and_parent(hub, bundle, tmp_path):
    other = FolderHub(tmp_path / "other")
    ids = [h.push(bundle, "me/x", message=m).revision for h, m in ((hub, "one"), (other, "two"))]
    assert ids[0] == ids[1]
    write_bundle(bundle, seed=1)
    changed = hub.push(bundle, "me/x", message="changed").revision
    write_bundle(bundle, seed=0)
    assert hub.push(bundle, "me/x", message="back").revision not in (*ids, changed)


def test_a_stale_parent_is_a_conflict_that_names_both(hub, bundle):
    first = hub.push(bundle, "me/x", message="first")
    second = hub.push(write_bundle(bundle, seed=1), "me/x", message="second")
    with pytest.raises(ConflictError, match=rf"{first.revision[:7]}.*{second.revision[:7]}") as caught:
        hub.push(write_bundle(bundle, seed=2), "me/x", message="third", parent=first.revision)
    assert caught.value.exit_code == 6
    assert versions(hub) == ["000001", "000002"]
    assert strays(hub) == []


def test_a_push_that_is_overtaken_is_a_conflict(hub, bundle, tmp_path):
    hub.push(bundle, "me/x", message="first")
    mine, theirs = write_bundle(tmp_path / "mine", seed=1), write_bundle(tmp_path / "theirs", seed=2)
    done = []

    def overtake(*step):
        if not done:
            done.append(hub.push(theirs, "me/x", message="theirs"))

    with pytest.raises(ConflictError):
        hub.push(mine, "me/x", message="mine", progress=overtake)
    assert hub.info("me/x").revision == done[0].revision
    assert strays(hub) == []


def test_a_lost_answer_is_recognised_as_success(hub, bundle, monkeypatch):
    rename = os.rename

    def answer_lost(source, target):
        rename(source, target)
        raise OSError(errno.EIO, "the answer was lost")

    monkeypatch.setattr(os, "rename", answer_lost)
    pushed = hub.push(bundle, "me/x", message="first")
    assert hub.info("me/x").revision == pushed.revision
    assert versions(hub) == ["000001"]


def test_a_full_disk_leaves_the_last_state_and_no_litter(hub, bundle, monkeypatch):
    first = hub.push(bundle, "me/x", message="first")
    write, budget = os.write, [9000]

    def full(handle, data):
        budget[0] -= len(data)
        if budget[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HubError, match="No space left"):
        hub.push(write_bundle(bundle, seed=1), "me/x", message="second")
    monkeypatch.undo()
    assert hub.pull("me/x").revision == first.revision
    assert strays(hub) == []


KILLER = """
import os, signal, sys
from pathlib import Path
from zoo.hub.files import verify_folder
from zoo.hub.folder import FolderHub

root, new, old = sys.argv[1:4]
points = {"open", "write", "fsync", "mkdir", "rename", "fchmod"}

def killed_at(n):
    pid = os.fork()
    if pid == 0:
        left = [n]
        def armed(call):
            def point(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)
            return point
        for name in points:
            setattr(os, name, armed(getattr(os, name)))
        FolderHub(root).push(Path(new), "me/x", message="killed")
        os._exit(0)
    return os.waitpid(pid, 0)[1] != 0

hub, seen = FolderHub(root), set()
n = 0
while True:
    n += 1
    died = killed_at(n)
    seen.add(FolderHub(root).pull("me/x").revision)  # whole and verified, whatever happened
    if not died:
        break
    hub.push(Path(old), "me/x", message="as before")
print(n, len(seen), len(list((Path(root) / "me/x/incoming").iterdir())))
"""


def test_a_push_killed_at_any_write_leaves_a_whole_state(hub, bundle, tmp_path):
    hub.push(bundle, "me/x", message="first")
    new = write_bundle(tmp_path / "new", seed=1)
    deaths, seen, left = map(int, run_python(KILLER, hub.root, new, bundle).split())
    assert deaths > 20  # it really was killed at every file, folder and flush
    assert seen >= 2  # the old state and the new one were both met
    assert left > 0  # what a killed push leaves, nobody reads...
    assert contents(hub.pull("me/x").path) == contents(new)
    for stray in strays(hub):
        for spot in (*stray.rglob("*"), stray):
            os.utime(spot, (0, 0))
    fresh = hub.root / "me/x" / "incoming" / "somebody-is-writing"
    fresh.mkdir()
    hub.push(write_bundle(bundle, seed=5), "me/x", message="next")
    assert strays(hub) == [fresh]  # ...and a later push sweeps, but for what is recent


RACER = """
import sys
from pathlib import Path
from hub_fixtures import write_bundle
from zoo.hub.files import verify_folder
from zoo.hub.folder import FolderHub
from zoo_registry.errors import ConflictError

root, me, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
hub, conflicts = FolderHub(root), 0
for turn in range(2):
    folder = write_bundle(work, seed=100 * me + turn)
    while True:
        try:
            print(hub.push(folder, "me/x", message=f"{me} {turn}").revision)
            break
        except ConflictError:
            conflicts += 1
"""


def test_eight_pushing_processes_make_one_lineage_of_whole_revisions(hub, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "support")}
    racers = [start_python(RACER, hub.root, n, tmp_path / f"w{n}", env=env) for n in range(8)]
    published = []
    for racer in racers:
        out, err = racer.communicate(timeout=200)
        assert racer.returncode == 0, err
        published += out.split()
    assert len(set(published)) == 16
    records = [json.loads((hub.root / "me/x/versions" / v / "commit.json").read_text()) for v in versions(hub)]
    assert {r["revision"] for r in records} == set(published)
    assert [r["parent"] for r in records] == [None, *(r["revision"] for r in records[:-1])]
    for revision in published:
        assert hub.pull("me/x", revision).revision == revision
    assert strays(hub) == []


def test_hidden_files_stay_at_home(hub, bundle):
    (bundle / ".DS_Store").write_text("x")
    assert ".DS_Store" not in hub.push(bundle, "me/x", message="first").files


def test_models_lists_ours_newest_first(hub, bundle):
    hub.push(bundle, "me/old", message="first")
    hub.push(bundle, "you/new", message="first")
    hub.push(write_bundle(bundle, files={"README.md": "no header"}), "me/foreign", message="first")
    assert [info.name for info in hub.models()] == ["you/new", "me/old"]
    assert [info.name for info in hub.models("old")] == ["me/old"]
    assert [info.name for info in hub.models("you/*")] == ["you/new"]


def test_check_push_changes_nothing_and_says_no_early(hub, tmp_path, monkeypatch):
    hub.check_push("me/x")
    assert not hub.root.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(HubError, match="cannot write"):
        FolderHub(tmp_path / "file" / "hub").check_push("me/x")
    with pytest.raises(UsageError):
        hub.check_push("x")


def test_the_folder_hub_needs_no_network_library(hub, bundle):
    code = (
        "import sys; from pathlib import Path; from zoo.hub import open_hub; hub = open_hub(sys.argv[1]);"
        "hub.push(Path(sys.argv[2]), 'me/x', message='m'); hub.pull('me/x'); hub.models();"
        "print([m for m in ('torch', 'huggingface_hub', 'timm', 'ssl') if m in sys.modules])"
    )
    assert run_python(code, hub.root, bundle).strip() == "[]"
