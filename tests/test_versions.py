"""Tags on both hubs: set with a push, found by pull, taken ones are conflicts and are never moved."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hub_fixtures import TOKEN, contents, one_line, start_python, write_bundle
from zoo_registry.errors import ConflictError, HubError, UsageError
from zoo_runs import done, zoo

from zoo.bundle.verify import Checked
from zoo.hub.folder import FolderHub
from zoo.hub.tags import require_free, set_tag


@pytest.fixture(params=["folder", "http"])
def hub(request, tmp_path):
    if request.param == "folder":
        return FolderHub(tmp_path / "hub")
    start, connect = request.getfixturevalue("loopback"), request.getfixturevalue("connect")
    return connect(start())


def publish(hub, tmp_path: Path, seed: int) -> tuple[Path, str]:
    folder = write_bundle(tmp_path / f"bundle{seed}", seed)
    return folder, hub.push(folder, "me/x", message="a push").revision


def test_a_tag_is_a_revision_that_stays(hub, tmp_path):
    first, one = publish(hub, tmp_path, 1)
    assert hub.tags("me/x") == {}
    assert hub.tag("me/x", "v1", one)
    second, two = publish(hub, tmp_path, 2)
    assert hub.tag("me/x", "v2.0", two)
    assert hub.tags("me/x") == {"v1": one, "v2.0": two}
    for revision, folder in (("v1", first), ("v2.0", second), (None, second), (one[:9], first)):
        pulled = hub.pull("me/x", revision)
        assert contents(pulled.path, pulled.files) == contents(folder)
    assert hub.info("me/x", "v1").revision == one
    assert hub.file("me/x", "config.json", "v1").revision == one


def test_a_taken_tag_is_a_conflict_that_names_both(hub, tmp_path):
    _, one = publish(hub, tmp_path, 1)
    hub.tag("me/x", "v1", one)
    assert not hub.tag("me/x", "v1", one)  # the same again is no conflict, and makes nothing
    folder, two = publish(hub, tmp_path, 2)
    with pytest.raises(ConflictError) as error:
        hub.tag("me/x", "v1", two)
    assert one[:12] in one_line(error.value)
    assert two[:12] in one_line(error.value)
    assert hub.tags("me/x") == {"v1": one}
    with pytest.raises(ConflictError, match="never moved"):
        require_free(hub, "me/x", "v1", folder)


def test_before_a_push_a_tag_is_free_or_names_these_very_files(hub, tmp_path):
    folder = write_bundle(tmp_path / "bundle1", 1)
    require_free(hub, "me/x", "v1", folder)  # no repo yet
    one = hub.push(folder, "me/x", message="a push").revision
    hub.tag("me/x", "v1", one)
    require_free(hub, "me/x", "v1", folder)
    other = write_bundle(tmp_path / "bundle2", 2)
    with pytest.raises(ConflictError, match="what this push would publish"):
        require_free(hub, "me/x", "v1", other)
    publish(hub, tmp_path, 2)
    with pytest.raises(ConflictError):  # the first files again would be a third revision
        require_free(hub, "me/x", "v1", folder)


@pytest.mark.parametrize(
    "tag", ["main", "latest", "HEAD", "deadbeef", "", "a/b", "../v1", "v1..2", "v1.lock", "-v", "é"]
)
def test_what_cannot_be_a_tag_is_refused_and_nothing_is_written(hub, tmp_path, tag):
    _, one = publish(hub, tmp_path, 1)
    with pytest.raises(UsageError, match="is no tag"):
        hub.tag("me/x", tag, one)
    assert hub.tags("me/x") == {}


def test_tags_of_what_is_not_there(hub, tmp_path):
    publish(hub, tmp_path, 1)
    assert hub.tags("me/other") == {}
    with pytest.raises(HubError):
        hub.tag("me/x", "v1", "0" * 40)
    with pytest.raises(HubError, match="no revision 'v9'"):
        hub.pull("me/x", "v9")


# ---------------------------------------------------------------------- the folder hub


def test_an_unknown_revision_names_the_tags_that_there_are(tmp_path):
    hub = FolderHub(tmp_path / "hub")
    _, one = publish(hub, tmp_path, 1)
    hub.tag("me/x", "v1", one)
    with pytest.raises(HubError) as error:
        hub.info("me/x", "v2")
    assert "tags: v1" in one_line(error.value)


def test_a_damaged_tag_is_an_error_where_it_is_asked_for_and_hides_no_other(tmp_path, caplog):
    hub = FolderHub(tmp_path / "hub")
    _, one = publish(hub, tmp_path, 1)
    hub.tag("me/x", "v1", one)
    hub.tag("me/x", "v2", one)
    record = hub.root / "me/x/tags/v1/tag.json"
    record.write_text(record.read_text().replace(one, "../../evil"))
    assert hub.tags("me/x") == {"v2": one}
    assert "v1 is left out" in caplog.text
    assert zoo("pull", "me/x@v1", "--hub", hub.root).code == 5


def test_a_lost_answer_of_the_rename_is_recognised(tmp_path, monkeypatch):
    hub = FolderHub(tmp_path / "hub")
    _, one = publish(hub, tmp_path, 1)
    rename = os.rename

    def lost(source, target):
        rename(source, target)
        raise OSError(errno.EIO, "the answer is lost")

    monkeypatch.setattr("zoo.hub.tags.os.rename", lost)
    assert hub.tag("me/x", "v1", one)
    assert hub.tags("me/x") == {"v1": one}


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    hub = FolderHub(tmp_path / "hub")
    _, one = publish(hub, tmp_path, 1)

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zoo.hub.tags.write_synced", full)
    with pytest.raises(HubError, match="No space left"):
        hub.tag("me/x", "v1", one)
    assert hub.tags("me/x") == {}
    assert list((hub.root / "me/x/incoming").iterdir()) == []


TAGGER = """
import sys
from zoo.hub.folder import FolderHub
from zoo_registry.errors import ConflictError
try:
    print("made" if FolderHub(sys.argv[1]).tag("me/x", "v1", sys.argv[2]) else "there")
except ConflictError:
    print("conflict")
"""


def test_of_eight_processes_that_set_one_tag_one_wins(tmp_path):
    hub = FolderHub(tmp_path / "hub")
    commits = [publish(hub, tmp_path, seed)[1] for seed in (1, 2)]
    racers = [start_python(TAGGER, hub.root, commits[n % 2]) for n in range(8)]
    ends = [racer.communicate(timeout=120) for racer in racers]
    assert not any(racer.returncode for racer in racers), ends[0][1]
    told = [out.strip() for out, _ in ends]
    assert told.count("made") == 1
    winner = told.index("made") % 2
    assert hub.tags("me/x") == {"v1": commits[winner]}
    assert all(word == ("conflict" if n % 2 != winner else word) for n, word in enumerate(told))
    assert "conflict" not in told[winner::2]


# ---------------------------------------------------------------------- the other hub


def test_a_lost_answer_to_create_tag_is_no_conflict(loopback, connect, tmp_path):
    server = loopback()
    hub = connect(server)
    _, one = publish(hub, tmp_path, 1)
    server.set_faults("tag:lost:1")
    assert hub.tag("me/x", "v1", one)
    assert hub.tags("me/x") == {"v1": one}


def test_a_busy_hub_is_asked_again_for_a_tag(loopback, connect, tmp_path):
    server = loopback()
    hub = connect(server)
    _, one = publish(hub, tmp_path, 1)
    server.set_faults("tag:503:1")
    assert hub.tag("me/x", "v1", one)
    assert hub.tags("me/x") == {"v1": one}


def test_a_push_whose_tag_fails_says_that_it_is_published(loopback, connect, tmp_path):
    server = loopback()
    hub = connect(server)
    _, one = publish(hub, tmp_path, 1)
    server.set_faults("tag:503:*")
    with pytest.raises(HubError) as error:
        set_tag(hub, "me/x", "v1", one)
    assert f"me/x@{one[:12]} is published, but without tag" in one_line(error.value)
    assert "push again" in one_line(error.value)


# ---------------------------------------------------------------------- the command line


def test_push_and_pull_by_tag_through_the_command_line(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    pushed = done("push", finished_run, "me/x", "--tag", "v1", "--json").json
    assert pushed["tag"] == "v1"
    again = done("push", finished_run, "me/x", "--tag", "v1")  # safe to repeat
    assert "already published" in again.out
    assert done("pull", "me/x@v1", "--json").json["revision"] == pushed["revision"]
    assert "tag: v2" in done("push", finished_run, "me/x", "--tag", "v2").out  # a second name for it
    assert sorted(os.listdir(tmp_path / "hub/me/x/versions")) == ["000001"]


def test_a_taken_tag_stops_a_push_before_anything_is_published(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())
    hub = FolderHub(tmp_path / "hub")
    _, one = publish(hub, tmp_path, 1)
    hub.tag("me/x", "v1", one)
    for more in ((), ("--dry-run",)):
        refused = zoo("push", finished_run, "me/x", "--tag", "v1", "--hub", hub.root, *more)
        assert refused.code == 6
        assert f"tag 'v1' of 'me/x' is at {one[:12]}" in refused.err
    assert zoo("push", finished_run, "me/x", "--tag", "main", "--hub", hub.root).code == 2
    assert hub.info("me/x").revision == one
    assert json.loads((hub.root / "me/x/tags/v1/tag.json").read_text())["revision"] == one
    assert TOKEN not in refused.err
