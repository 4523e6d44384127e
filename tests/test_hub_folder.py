"""The folder hub: round trips, immutability, conflicts, damage, and being killed at every write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from hub_fixtures import contents, flip, run_python, start_python, write_bundle, write_manifest
from zoo_registry.errors import ConflictError, DataError, HubError, IntegrityError, UsageError, ZooError

from zoo.hub import open_hub
from zoo.hub.files import verify_folder
from zoo.hub.folder import FolderHub
from zoo.hub.names import check_name, check_path, split_revision


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


def test_a_damaged_file_is_refused_with_both_hashes(hub, bundle):
    hub.push(bundle, "me/x", message="first")
    spot = hub.pull("me/x").path / "model.safetensors"
    flip(spot)
    with pytest.raises(IntegrityError, match=r"model.safetensors is damaged: .*[0-9a-f]{64}.*[0-9a-f]{64}") as caught:
        hub.pull("me/x")
    assert caught.value.exit_code == 5
    with pytest.raises(IntegrityError):
        hub.file("me/x", "model.safetensors")


def swap_for_link(folder: Path) -> None:
    shutil.copy(folder / "config.json", folder.parent / "elsewhere.json")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder.parent / "elsewhere.json")


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "extra.json").write_text("{}"),
        swap_for_link,
        lambda folder: (folder.parent / "commit.json").write_text("{"),
        lambda folder: (folder.parent / "commit.json").write_text(
            (folder.parent / "commit.json").read_text().replace('"size": 2', '"size": 3')
        ),
    ],
    ids=["a file is gone", "a file is new", "a link", "a broken record", "an edited record"],
)
def test_a_revision_that_was_tampered_with_is_refused(hub, bundle, harm):
    hub.push(bundle, "me/x", message="first")
    harm(hub.pull("me/x").path)
    with pytest.raises(IntegrityError):
        FolderHub(hub.root).pull("me/x")


def test_content_that_was_swapped_with_its_record_is_refused(hub, bundle):
    pushed = hub.push(bundle, "me/x", message="first")
    version = hub.pull("me/x").path.parent
    record = json.loads((version / "commit.json").read_text())
    write_bundle(bundle, seed=1)
    for path, data in contents(bundle).items():
        (version / "files" / path).unlink()
        (version / "files" / path).write_bytes(data)
        record["files"][path] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (version / "commit.json").write_text(json.dumps(record))
    with pytest.raises(IntegrityError, match="does not fit its revision id"):
        hub.pull("me/x", pushed.revision)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads the names of open files from /proc")
def test_everything_is_on_the_disk_before_it_is_visible(hub, bundle, monkeypatch):
    fsync, rename, flushed, seen = os.fsync, os.rename, set(), []

    def noted(handle):
        flushed.add(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def checked(source, target):
        everything = {str(p) for p in (Path(source), *Path(source).rglob("*"))}
        seen.append(everything - flushed)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", checked)
    hub.push(bundle, "me/x", message="first")
    assert seen == [set()]
    assert str(hub.root / "me/x/versions") in flushed  # and the name itself, afterwards


def test_one_file_is_found_pinned_and_verified(hub, bundle):
    pushed = hub.push(bundle, "me/x", message="first")
    file = hub.file("me/x", "model.safetensors")
    assert file.revision == pushed.revision
    assert hub.file("me/x", "model.safetensors", pushed.revision, sha256=file.sha256).path == file.path
    with pytest.raises(IntegrityError, match="f" * 64):
        hub.file("me/x", "model.safetensors", sha256="f" * 64)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda hub: hub.info("me/xx"), r"no repo 'me/xx' .*did you mean 'me/x'"),
        (lambda hub: hub.info("me/x", "feed123"), "has no revision 'feed123'"),
        (lambda hub: hub.info("me/x", "v1"), "has no revision 'v1'"),
        (lambda hub: hub.file("me/x", "model.safetensor"), "no file 'model.safetensor'.*did you mean"),
        (lambda hub: FolderHub("nowhere").models(), "no hub folder at"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(hub, bundle, ask, says):
    hub.push(bundle, "me/x", message="first")
    with pytest.raises(HubError) as caught:
        ask(hub)
    assert caught.value.exit_code == 4
    assert_matches(says, caught.value)


def assert_matches(says: str, error: ZooError) -> None:
    import re

    line = f"{error.message} | {error.hint}"
    assert re.search(says, line), line
    assert "\n" not in line


def add(path, text="x"):
    def change(folder):
        (folder / path).write_text(text)
        write_manifest(folder)

    return change


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (add("weights.bin"), DataError, "weights.bin"),
        (add("run.py"), DataError, "run.py"),
        (lambda folder: (folder / "out.json").symlink_to("/etc/hosts"), DataError, r"out.json \(a link\)"),
        (lambda folder: (folder / "more").symlink_to("/etc"), DataError, r"more \(a link\)"),
        (lambda folder: (folder / "late.json").write_text("{}"), IntegrityError, "late.json does not stand in"),
        (lambda folder: (folder / "config.json").unlink(), IntegrityError, "config.json .* is missing"),
        (lambda folder: (folder / "config.json").write_text("{}"), IntegrityError, "config.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), IntegrityError, "lists no files"),
        (shutil.rmtree, DataError, "is not a folder"),
    ],
)
def test_a_folder_that_may_not_be_published_is_refused(hub, bundle, change, error, says):
    change(bundle)
    with pytest.raises(error) as caught:
        hub.push(bundle, "me/x", message="first")
    assert_matches(says, caught.value)
    assert not (hub.root / "me/x").exists() or (versions(hub), strays(hub)) == ([], [])
    with pytest.raises(HubError, match=r"no hub folder|no repo"):
        hub.info("me/x")


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


@pytest.mark.parametrize(
    "name", ["x", "a/b/c", "../x", "a/..", "a/b--c", "a/.b", "a/b.", "a b/c", "", "a/x.git", "é/x"]
)
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="no repo name"):
        check_name(name)


def test_a_revision_follows_the_at_sign():
    assert split_revision("me/x") == ("me/x", None)
    assert split_revision("me/x@v1.0") == ("me/x", "v1.0")
    for bad in ("me/x@", "me/x@../y", "me/x@a..b", "me/x@-a"):
        with pytest.raises(UsageError):
            split_revision(bad)


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../x", "a//b", "C:x", "a\\b", ".git/config", "a/\n", "nul"])
def test_paths_that_are_not_safe(path):
    with pytest.raises(IntegrityError):
        check_path(path)


def test_open_hub_reads_the_location(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "env"))
    assert open_hub().location == str(tmp_path / "env")
    assert open_hub(f"file://{tmp_path}/a%20b").location == f"{tmp_path}/a b"
    assert open_hub("http://127.0.0.1:9").location == "http://127.0.0.1:9"
    for bad in ("ftp://host/x", "https://user:secret@host"):
        with pytest.raises(UsageError) as caught:
            open_hub(bad)
        assert "secret" not in str(caught.value)


def test_the_folder_hub_needs_no_network_library(hub, bundle):
    code = (
        "import sys; from pathlib import Path; from zoo.hub import open_hub; hub = open_hub(sys.argv[1]);"
        "hub.push(Path(sys.argv[2]), 'me/x', message='m'); hub.pull('me/x'); hub.models();"
        "print([m for m in ('torch', 'huggingface_hub', 'timm', 'ssl') if m in sys.modules])"
    )
    assert run_python(code, hub.root, bundle).strip() == "[]"


def test_a_folder_is_verified_for_reading_through_links_and_without_strangers(bundle, tmp_path):
    linked = tmp_path / "linked"
    for path in contents(bundle):
        (linked / path).parent.mkdir(parents=True, exist_ok=True)
        (linked / path).symlink_to(bundle / path)
    (linked / "stranger.py").write_text("")
    assert set(verify_folder(linked, "it")) == set(contents(bundle)) - {"manifest.json"}
    flip(bundle / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"it: model.safetensors is damaged"):
        verify_folder(linked, "it")
    (linked / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"it has no manifest.json"):
        verify_folder(linked, "it")
