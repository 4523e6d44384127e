"""What is pulled is what was published: damage, strangers' files, unsafe repos; the real client, a loopback hub."""

from __future__ import annotations

import json
import re

import pytest
from hub_fixtures import contents, flip, one_line
from zoo_registry.errors import HubError, IntegrityError


def blob(hub, name, filename):
    """The real file behind a cached one."""
    return hub.pull(name, offline=True).path.joinpath(filename).resolve()


@pytest.mark.parametrize("filename", ["model.safetensors", "config.json"])
def test_a_damaged_cache_entry_is_fetched_once_more(loopback, connect, bundle, caplog, filename):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    flip(blob(hub, "me/x", filename), -3)
    server.clear_log()
    pulled = connect(server).pull("me/x")
    assert contents(pulled.path, pulled.files) == contents(bundle)
    assert [row["target"] for row in server.log("resolve")] == [filename]
    assert f"{filename} is damaged in the cache" in caplog.text


def test_a_file_that_stays_damaged_is_refused_with_both_hashes_and_not_kept(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    server.set_faults("resolve[model.safetensors]:corrupt:*")
    for call in (lambda: hub.pull("me/x"), lambda: hub.file("me/x", "model.safetensors")):
        with pytest.raises(IntegrityError, match=r"model.safetensors is damaged: .*[0-9a-f]{64}.*[0-9a-f]{64}") as e:
            call()
        assert e.value.exit_code == 5
    assert len(server.log("resolve")) >= 2
    kept = [p.name for p in hub.cache.folder.rglob("*") if "model.safetensors" in p.name and "zoo" not in p.parts]
    assert kept == []


def test_offline_a_damaged_file_is_refused(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    hub.pull("me/x")
    flip(blob(hub, "me/x", "model.safetensors"))
    with pytest.raises(IntegrityError, match=r"model.safetensors is damaged"):
        connect(server).pull("me/x", offline=True)


def test_files_that_do_not_fit_the_manifest_are_refused(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    server.commit_files("me/x", {"config.json": b'{"architecture": "other"}'})
    with pytest.raises(IntegrityError, match=r"config.json is damaged: manifest.json says"):
        hub.pull("me/x")
    server.commit_files("me/x", {"config.json": (bundle / "config.json").read_bytes(), "README.md": b"edited by hand"})
    assert contents(hub.pull("me/x").path, ("README.md",))["README.md"] == b"edited by hand"  # a card may be


def test_what_the_manifest_does_not_list_is_not_downloaded(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    strangers = {"pytorch_model.bin": b"pickle", "code.py": b"print()", "later.json": b"{}", "more.safetensors": b"x"}
    server.commit_files("me/x", strangers)
    pulled = hub.pull("me/x")
    assert not set(strangers) & set(pulled.files)
    assert not set(strangers) & set(contents(pulled.path))


def test_without_a_manifest_all_that_is_safe_comes_and_nothing_else(loopback, connect):
    server = loopback()
    weights = (2).to_bytes(8, "little") + b"{}"
    files = {"config.json": b"{}", "model.safetensors": weights, "pytorch_model.bin": b"p", "code.py": b"p"}
    server.commit_files("you/theirs", files)
    assert set(connect(server).pull("you/theirs").files) == {"config.json", "model.safetensors"}


def listing(path):
    """A manifest that lists one file."""
    return json.dumps({"files": {path: {"sha256": "0" * 64, "size": 1}}}).encode()


@pytest.mark.parametrize(
    ("files", "says", "error"),
    [
        (
            {"pytorch_model.bin": b"p" * 2000, "config.json": b"{}"},
            r"no safe weights: pytorch_model.bin .* may hold code",
            HubError,
        ),
        ({"model.safetensors": b"x", "../evil.json": b"{}"}, r"'\.\./evil.json'.* not a safe path", IntegrityError),
        ({"model.safetensors": b"x", "manifest.json": b"{"}, "manifest.json is not JSON", IntegrityError),
        (
            {
                "model.safetensors": b"x",
                "manifest.json": listing("a.py"),
            },
            "'a.py', which is never read",
            IntegrityError,
        ),
        (
            {
                "model.safetensors": b"x",
                "manifest.json": listing("../a.json"),
            },
            "not a safe path",
            IntegrityError,
        ),
        (
            {
                "model.safetensors": b"x",
                "manifest.json": listing("b.json"),
            },
            "b.json stands in manifest.json and is missing",
            IntegrityError,
        ),
    ],
    ids=["only a pickle", "a path out", "no manifest", "code in it", "a path out in it", "a missing file"],
)
def test_a_repo_that_may_not_be_read_is_refused(loopback, connect, files, says, error):
    server = loopback()
    server.commit_files("you/evil", files)
    with pytest.raises(error) as caught:
        connect(server).pull("you/evil")
    assert re.search(says, one_line(caught.value))


def test_only_safe_weights_are_fetched_as_a_file(loopback, connect):
    server = loopback()
    server.commit_files("you/theirs", {"pytorch_model.bin": b"p" * 2000, "config.json": b"{}"})
    hub = connect(server)
    with pytest.raises(HubError, match=r"no safe weights: pytorch_model.bin"):
        hub.file("you/theirs", "model.safetensors")
    with pytest.raises(HubError, match="may hold code"):
        hub.file("you/theirs", "pytorch_model.bin")
    with pytest.raises(IntegrityError):
        hub.file("you/theirs", "../model.safetensors")
    assert server.log("resolve") == []


def test_a_file_is_pinned_and_a_known_commit_needs_no_request(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    pushed = hub.push(bundle, "me/x", message="first")
    file = hub.file("me/x", "model.safetensors")
    assert file.revision == pushed.revision
    assert file.path.read_bytes() == (bundle / "model.safetensors").read_bytes()
    server.clear_log()
    again = connect(server).file("me/x", "model.safetensors", file.revision, sha256=file.sha256)
    assert (again, server.log()) == (file, [])
    with pytest.raises(IntegrityError, match=f"{'f' * 64}.*{file.sha256}"):
        hub.file("me/x", "model.safetensors", file.revision, sha256="f" * 64)
