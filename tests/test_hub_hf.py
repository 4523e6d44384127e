"""The Hugging Face Hub through the real client against a loopback hub: pushing, and getting it back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_fixtures import client_env, contents, one_line, run_python, write_bundle
from zoo_registry.errors import ConflictError, DataError, IntegrityError, ZooError


@pytest.mark.parametrize("options", [{}, {"cdn": True}], ids=["plain", "cdn"])
def test_a_push_comes_back_whole(loopback, connect, bundle, options):
    server = loopback(**options)
    hub, steps = connect(server), []
    pushed = hub.push(bundle, "me/x", message="first")
    assert pushed.created
    pulled = hub.pull("me/x", progress=lambda *step: steps.append(step))
    assert pulled.revision == pushed.revision
    assert contents(pulled.path, pulled.files) == contents(bundle)
    assert steps[-1][1] == steps[-1][2] == sum(len(data) for data in contents(bundle).values())
    info = hub.info("me/x")
    assert info.private
    assert {"zoo", "license:apache-2.0"} <= set(info.tags)
    assert info.metadata["base_model"] == "timm/test_resnet.r160_in1k"
    assert [row.name for row in hub.models()] == ["me/x"]
    assert hub.models("me/y*") == []
    assert server.log("commit")[-1]["status"] == 200


XET = """
import sys
from pathlib import Path
from hub_fixtures import contents, write_bundle
from zoo.hub import open_hub

hub, folder = open_hub(), write_bundle(Path(sys.argv[1]), size=200_000)
first = hub.push(folder, "me/x", message="first")
write_bundle(folder, seed=1, size=200_000)
second = hub.push(folder, "me/x", message="second", parent=first.revision)
again = hub.push(folder, "me/x", message="again")
pulled = hub.pull("me/x")
assert (pulled.revision, again.created) == (second.revision, False)
assert contents(pulled.path, pulled.files) == contents(folder)
"""


def test_xet_transfers_come_back_whole(loopback, tmp_path):
    server = loopback(xet=True)
    support = str(Path(__file__).parent / "support")
    run_python(XET, tmp_path / "b", env=client_env(server, tmp_path / "home", PYTHONPATH=support))
    assert server.log("xet")
    assert not server.log("put")  # the bytes went through hf_xet, not through LFS


def test_an_unchanged_push_makes_no_commit(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    first = hub.push(bundle, "me/x", message="first")
    again = hub.push(bundle, "me/x", message="again", parent="0" * 40)
    assert (again.revision, again.created) == (first.revision, False)
    assert len(server.log("commit")) == 1


def test_a_second_push_sends_what_changed_and_clears_what_was_ours(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    hub.push(write_bundle(bundle, files={"old.json": "{}"}), "me/x", message="first")
    server.commit_files("me/x", {"NOTICE": b"by hand"})
    server.clear_log()
    (bundle / "old.json").unlink()
    hub.push(write_bundle(bundle, files={"new.json": "{}"}), "me/x", message="second")
    assert server.log("put") == []  # the weights are there already
    names = {file.path for file in hub.info("me/x").files}
    assert "new.json" in names
    assert "NOTICE" in names  # what somebody added on the hub is not ours to remove
    assert "old.json" not in names


def test_a_stale_parent_is_a_conflict_that_names_both(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    first = hub.push(bundle, "me/x", message="first")
    head = server.commit_files("me/x", {"NOTICE": b"by hand"})
    with pytest.raises(ConflictError, match=rf"{first.revision[:7]}.*{head[:7]}"):
        hub.push(write_bundle(bundle, seed=1), "me/x", message="second", parent=first.revision)
    assert len(server.log("commit")) == 1


def test_a_push_that_is_overtaken_is_a_conflict(loopback, connect, bundle, monkeypatch):
    server = loopback()
    hub = connect(server)
    hub.push(bundle, "me/x", message="first")
    commit = hub.api.create_commit

    def overtaken(*args, **kwargs):
        server.commit_files("me/x", {"NOTICE": b"by hand"})
        return commit(*args, **kwargs)

    monkeypatch.setattr(hub.api, "create_commit", overtaken)
    with pytest.raises(ConflictError) as caught:
        hub.push(write_bundle(bundle, seed=1), "me/x", message="second")
    assert caught.value.exit_code == 6
    assert server.log("commit")[-1]["status"] == 412


@pytest.mark.parametrize("fault", ["commit:lost:1", "commit:503:1", "commit:reset:2", "put:503:1", "preupload:503:1"])
def test_a_push_survives_an_outage_with_one_commit(loopback, connect, bundle, fault):
    server = loopback()
    hub = connect(server)
    server.set_faults(fault)
    pushed = hub.push(bundle, "me/x", message="first")
    assert hub.pull("me/x").revision == pushed.revision
    assert server.store.commit("me/x", pushed.revision)["parent"] is not None
    parents = [server.store.commit("me/x", pushed.revision)["parent"]]
    assert server.store.commit("me/x", parents[0])["parent"] is None  # the initial commit and ours, no third


@pytest.mark.parametrize("fault", ["commit:503:*", "commit:html:1", "put:corrupt:1"])
def test_a_push_that_fails_leaves_the_head_as_it_was(loopback, connect, bundle, fault):
    server = loopback()
    hub = connect(server)
    first = hub.push(bundle, "me/x", message="first")
    server.set_faults(fault)
    with pytest.raises(ZooError) as caught:
        hub.push(write_bundle(bundle, seed=1), "me/x", message="second")
    one_line(caught.value)
    server.set_faults("")
    assert hub.info("me/x").revision == first.revision
    assert hub.push(bundle, "me/x", message="second").created  # and it can be repeated


def test_a_push_that_did_not_arrive_whole_is_told(loopback, connect, bundle, monkeypatch):
    server = loopback()
    hub, make_commit = connect(server), server.store.make_commit

    def garbled(repo, files, *rest):
        if "config.json" in files:
            files = {**files, "config.json": server.store.put_blob(repo, b"garbled")}
        return make_commit(repo, files, *rest)

    monkeypatch.setattr(server.store, "make_commit", garbled)
    with pytest.raises(IntegrityError, match=r"config.json did not arrive whole"):
        hub.push(bundle, "me/x", message="first")


def test_a_card_that_the_hub_refuses_is_a_data_error(loopback, connect, bundle):
    server = loopback()
    hub = connect(server)
    write_bundle(bundle, files={"README.md": "---\ntags: [zoo\n---\n"})
    with pytest.raises(DataError, match="no hub takes the card"):
        hub.push(bundle, "me/x", message="first")
    assert server.log("put") == []
