"""``zoo.lock`` and ``--locked``: what is locked is taken to the byte, and nothing else is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hub_fixtures import TOKEN, flip, start_python, write_bundle
from small_forms import TAG, put_base, train
from zoo_registry.errors import ConflictError, IntegrityError, UsageError
from zoo_runs import Outcome, done, zoo

from zoo.bundle.verify import Checked
from zoo.hub import open_hub
from zoo.hub.folder import FolderHub
from zoo.lock import Entry, read_lock, write_entry
from zoo.lock import only_locked as held
from zoo.models import pull_model


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """A working folder and a cache of each test's own; the hub in ``hub/``."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    return tmp_path


def push(here: Path, seed: int, name: str = "me/x") -> str:
    folder = write_bundle(here / f"bundle{seed}", seed)
    return FolderHub(here / "hub").push(folder, name, message="a push").revision


def refused(outcome: Outcome, code: int) -> str:
    """The one line of a command that must fail with this code, with its hint."""
    assert outcome.code == code, outcome.out + outcome.err
    (line,) = outcome.lines("error:")
    return f"{line} | {' '.join(outcome.lines('hint:'))}"


def test_a_lock_has_commit_size_and_sha256_of_every_file(here):
    one = push(here, 1)
    said = done("pull", "me/x", "--lock").out
    assert "in zoo.lock" in said
    values = json.loads(Path("zoo.lock").read_text())
    manifest = json.loads((here / "bundle1/manifest.json").read_text())["files"]
    entry = values["models"]["me/x"]
    assert (values["format"], entry["commit"]) == (1, one)
    assert manifest.items() <= entry["files"].items()
    assert set(entry["files"]) == {*manifest, "manifest.json"}
    assert str(here) not in Path("zoo.lock").read_text()  # no hub, no path: the same lock is good anywhere
    before = Path("zoo.lock").stat().st_mtime_ns
    done("pull", "me/x", "--lock")
    assert Path("zoo.lock").stat().st_mtime_ns == before  # nothing new, nothing written


def test_locked_pulls_what_is_locked(here):
    one = push(here, 1)
    done("pull", "me/x", "--lock")
    assert done("pull", "me/x", "--locked", "--json").json["revision"] == one
    assert done("pull", f"me/x@{one[:8]}", "--locked", "--json").json["revision"] == one


def test_locked_fails_where_the_name_moved_and_shows_both_commits(here):
    one = push(here, 1)
    done("pull", "me/x", "--lock")
    two = push(here, 2)
    for command in (("pull", "me/x"), ("evaluate", "me/x", "digits:"), ("predict", "me/x", "a.png")):
        Path("a.png").write_bytes(b"")
        said = refused(zoo(*command, "--locked"), 6)
        assert f"me/x is locked at {one[:12]}" in said
        assert f"it is now {two[:12]}" in said
    assert f"me/x@{one[:12]}" in said
    assert done("pull", f"me/x@{one[:12]}", "--locked", "--json").json["revision"] == one
    refused(zoo("pull", f"me/x@{two}", "--locked"), 6)
    done("pull", "me/x", "--lock")
    assert done("pull", "me/x", "--locked", "--json").json["revision"] == two


def test_an_unlocked_pull_says_that_the_lock_has_another_commit(here):
    one = push(here, 1)
    done("pull", "me/x", "--lock")
    assert zoo("pull", "me/x").err == ""
    two = push(here, 2)
    pulled = done("pull", "me/x", "--json")
    assert pulled.json["revision"] == two
    (said,) = pulled.lines("warning:")
    assert f"zoo.lock has me/x at {one[:12]}, this is {two[:12]}" in said
    assert read_lock().entries["me/x"].commit == one  # said, and not changed


def test_a_name_that_was_registered_anew_is_refused(here):
    one = push(here, 1)
    done("pull", "me/x", "--lock")
    shutil.rmtree(here / "hub/me/x")
    two = push(here, 2)
    said = refused(zoo("pull", "me/x", "--locked"), 6)
    assert one[:12] in said
    assert two[:12] in said


def test_tags_are_locked_by_themselves(here):
    one = push(here, 1)
    FolderHub(here / "hub").tag("me/x", "v1", one)
    done("pull", "me/x@v1", "--lock")
    push(here, 2)
    assert done("pull", "me/x@v1", "--locked", "--json").json["revision"] == one
    assert "it has me/x@v1" in refused(zoo("pull", "me/x", "--locked"), 2)
    shutil.rmtree(here / "hub/me/x/tags/v1")  # somebody moves it
    FolderHub(here / "hub").tag("me/x", "v1", FolderHub(here / "hub").info("me/x").revision)
    assert one[:12] in refused(zoo("pull", "me/x@v1", "--locked"), 6)


def test_what_is_not_locked_is_refused(here):
    push(here, 1)
    assert "there is no 'zoo.lock' | zoo pull OWNER/NAME --lock" in refused(zoo("pull", "me/x", "--locked"), 2)
    done("pull", "me/x", "--lock")
    push(here, 3, "me/y")
    assert "me/y is not in 'zoo.lock' | zoo pull me/y --lock" in refused(zoo("pull", "me/y", "--locked"), 2)
    assert "give one of them" in refused(zoo("pull", "me/x", "--lock", "--locked"), 2)


def test_a_hub_with_other_bytes_under_the_same_commit_is_refused(here, monkeypatch):
    push(here, 1)
    done("pull", "me/x", "--lock")
    rows = json.loads(Path("zoo.lock").read_text())
    rows["models"]["me/x"]["files"]["config.json"]["sha256"] = "0" * 64
    Path("zoo.lock").write_text(json.dumps(rows))
    said = refused(zoo("pull", "me/x", "--locked"), 5)
    assert "config.json" in said
    assert "0" * 64 in said
    del rows["models"]["me/x"]["files"]["config.json"]
    Path("zoo.lock").write_text(json.dumps(rows))
    assert "config.json" in refused(zoo("pull", "me/x", "--locked"), 5)


def entry_text(asked: str = "me/x", **row: object) -> str:
    row = {"commit": "a" * 40, "files": {}, **row}
    return json.dumps({"format": 1, "models": {asked: row}})


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"format": 2, "models": {}}',
        entry_text("../x"),
        entry_text(commit="main"),
        entry_text(files={"../e": {"sha256": "b" * 64, "size": 1}}),
        entry_text(files={"e": {"sha256": "b", "size": 1}}),
        entry_text(files=[]),
        entry_text(base=[1]),
    ],
)
def test_a_damaged_lock_is_refused_and_never_overwritten(here, text):
    push(here, 1)
    Path("zoo.lock").write_text(text)
    for option in ("--locked", "--lock"):
        refused(zoo("pull", "me/x", option), 5)
        assert Path("zoo.lock").read_text() == text
    unlocked = done("pull", "me/x")
    assert len(unlocked.lines("warning:")) == 1


def test_the_lock_may_lie_elsewhere(here, monkeypatch):
    push(here, 1)
    monkeypatch.setenv("ZOO_LOCK", str(here / "my.lock"))
    done("pull", "me/x", "--lock")
    assert not Path("zoo.lock").exists()
    assert list(read_lock(here / "my.lock").entries) == ["me/x"]
    done("pull", "me/x", "--locked")


def test_in_python_a_lock_holds_for_every_hub_of_the_process(here):
    one = push(here, 1)
    pull_model("me/x", lock=Path("zoo.lock"))
    push(here, 2)
    with held() as lock:
        assert list(lock.entries) == ["me/x"]
        with pytest.raises(ConflictError):
            open_hub().file("me/x", "config.json")
        assert open_hub().file("me/x", "config.json", one).revision == one
        with pytest.raises(UsageError, match=r"has no 'other\.json'"):
            open_hub().file("me/x", "other.json", one)
        with pytest.raises(IntegrityError):
            open_hub().file("me/x", "config.json", one, sha256="0" * 64)
    assert open_hub().pull("me/x").revision != one
    with pytest.raises(UsageError, match="there is no"), held("other.lock"):
        pass


WRITER = """
import sys
from zoo.hub.base import RepoFile
from zoo.lock import Entry, write_entry
for turn in range(4):
    file = RepoFile(path="a", size=1, sha256="0" * 64)
    write_entry(Entry(asked=f"me/x{sys.argv[1]}-{turn}", commit="a" * 40, files={"a": file}))
"""


def test_eight_processes_that_write_one_lock_lose_no_entry(here):
    writers = [start_python(WRITER, number) for number in range(8)]
    for writer in writers:
        assert writer.wait(timeout=200) == 0, writer.communicate()[1]
    assert len(read_lock().entries) == 32
    assert [p.name for p in Path().iterdir()] == ["zoo.lock"]


def test_a_dead_writer_is_not_waited_for(here, monkeypatch):
    Path(".zoo.lock.busy").touch()
    monkeypatch.setattr("zoo.lock._PATIENCE", 0.0)
    assert write_entry(Entry(asked="me/x", commit="a" * 40, files={})) is None
    assert list(read_lock().entries) == ["me/x"]


# ---------------------------------------------------------------------- over a network


@pytest.fixture
def server(loopback, monkeypatch):
    """A loopback hub that commands take for theirs."""
    from huggingface_hub import constants

    started = loopback()
    monkeypatch.setenv("ZOO_HUB", started.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # a push is a process of its own
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return started


def test_locked_over_a_network_offline_and_with_the_hub_gone(here, server):
    hub = open_hub()
    one = hub.push(write_bundle(here / "bundle1", 1), "me/x", message="m").revision
    done("pull", "me/x", "--lock")
    assert done("pull", "me/x", "--locked", "--json").json["revision"] == one
    two = hub.push(write_bundle(here / "bundle2", 2), "me/x", message="m").revision
    assert f"now {two[:12]}" in refused(zoo("pull", "me/x", "--locked"), 6)
    done("pull", "me/x")  # the cache has both, and knows main as the second
    sent = len(server.log())
    assert done("pull", "me/x", "--locked", "--offline", "--json").json["revision"] == one
    assert len(server.log()) == sent
    server.stop()
    assert done("pull", f"me/x@{one}", "--locked", "--json").json["revision"] == one


def test_locked_notices_a_damaged_cache(here, server):
    open_hub().push(write_bundle(here / "bundle1", 1), "me/x", message="m")
    path = Path(done("pull", "me/x", "--lock", "--json").json["path"])
    flip((path / "config.json").resolve())
    refused(zoo("pull", "me/x", "--locked", "--offline"), 5)
    done("pull", "me/x", "--locked")  # fetched again


# ---------------------------------------------------------------------- base weights


def test_weights_of_a_backbone_and_the_base_of_a_delta_are_locked(here, photos, monkeypatch):
    put_base(here / "hub", here / "weights")
    asked = ("--backbone", TAG, "--strategy", "linear:1", "--image-size", 64, "--batch-size", 16, "--out", here / "new")
    Path("zoo.lock").write_text('{"format": 1, "models": {}}')
    said = refused(zoo("finetune", photos, *asked, "--locked"), 2)
    assert f"{TAG} is not in 'zoo.lock' | zoo pull {TAG} --lock" in said
    assert not (here / "new").exists()
    done("pull", TAG, "--lock")
    run = train(photos, here / "run", "linear:1", "--image-size", 64, "--locked", backbone=TAG)
    base = json.loads((run / "model/zoo.json").read_text())["base"]
    entry = read_lock().entries[TAG]
    assert (base["revision"], base["sha256"]) == (entry.commit, entry.files["model.safetensors"].sha256)

    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())
    done("push", run, "me/small", "--delta")
    Path("zoo.lock").unlink()
    done("pull", "me/small", "--lock")
    locked = read_lock().entries["me/small"]
    assert locked.base == base
    assert set(read_lock().entries) == {"me/small"}
    shutil.rmtree(here / "home" / "zoo" / "whole")
    done("predict", "me/small", photos / "rings" / "0.jpg", "--locked")  # made whole anew, of the locked base
    rows = json.loads(Path("zoo.lock").read_text())
    del rows["models"]["me/small"]["base"]
    Path("zoo.lock").write_text(json.dumps(rows))
    shutil.rmtree(here / "home" / "zoo" / "whole")
    assert f"{TAG}@{locked.base['revision']} is not in" in refused(zoo("pull", "me/small", "--locked"), 2)
