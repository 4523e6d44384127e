"""Names, revisions, paths and locations of hubs."""

from __future__ import annotations

import pytest
from zoo_registry.errors import IntegrityError, UsageError

from zoo.hub import open_hub
from zoo.hub.names import check_name, check_path, split_revision


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
