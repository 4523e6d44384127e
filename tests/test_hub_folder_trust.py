"""The folder hub: damage and tampering are found, what is not there is named, what may not travel stays."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hub_fixtures import contents, flip, write_bundle, write_manifest
from zoo_registry.errors import DataError, HubError, IntegrityError, ZooError

from zoo.hub.files import verify_folder
from zoo.hub.folder import FolderHub


@pytest.fixture
def hub(tmp_path):
    return FolderHub(tmp_path / "hub")


def strays(hub, name="me/x"):
    return list((hub.root / name / "incoming").iterdir())


def versions(hub, name="me/x"):
    return sorted(os.listdir(hub.root / name / "versions"))


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


def test_a_folder_is_verified_for_reading_through_links_and_without_strangers(bundle, tmp_path):
    linked, blobs = tmp_path / "models--me--x" / "snapshots" / ("a" * 40), tmp_path / "models--me--x" / "blobs"
    shutil.copytree(bundle, blobs)
    for path in contents(bundle):
        (linked / path).parent.mkdir(parents=True, exist_ok=True)
        (linked / path).symlink_to(blobs / path)
    (linked / "stranger.py").write_text("")
    assert set(verify_folder(linked, "it")) == set(contents(bundle)) - {"manifest.json"}
    flip(blobs / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"it: model.safetensors is damaged"):
        verify_folder(linked, "it")
    shutil.copytree(bundle, tmp_path / "plain")
    for out in (tmp_path / "plain" / "config.json", tmp_path / "plain" / "manifest.json"):
        out.unlink()
        out.symlink_to(bundle / out.name)
        with pytest.raises(IntegrityError, match=rf"{out.name} is a link that leads out of the folder"):
            verify_folder(tmp_path / "plain", "it")
    (linked / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"it has no manifest.json"):
        verify_folder(linked, "it")
