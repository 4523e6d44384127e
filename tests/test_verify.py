"""``zoo verify``: every byte, then the golden logits, and no request."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from hub_fixtures import TOKEN, flip, write_bundle, write_manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zoo_registry.errors import IntegrityError
from zoo_runs import assembled, done, edit_bundle, written, zoo

from zoo.hub.folder import FolderHub
from zoo.verifying import check_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights; for reading only."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    written(folder, assembled("basics/linear"))
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, own_cache: Path) -> None:
    """No socket is opened to anywhere, but where the test has a server of its own."""
    if "loopback" in request.fixturenames:
        return

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_whole_bundle_a_run_and_a_name_on_a_folder_hub(made, tmp_path):
    found = done("verify", made, "--json").json
    assert found["golden"]["difference"] < 1e-5
    assert found["not_proved"] is None
    assert {row["path"] for row in found["files"]} == set(json.loads((made / "manifest.json").read_text())["files"])
    assert "golden logits reproduced" in done("verify", made).out
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").touch()
    shutil.copytree(made, run / "model")
    assert done("verify", run, "--json").json["path"] == str(run / "model")
    hub = FolderHub(tmp_path / "hub")
    revision = hub.push(made, "me/x", message="m").revision
    named = done("verify", "me/x", "--hub", hub.root, "--json").json
    assert (named["revision"], named["not_proved"]) == (revision, None)
    bytes_only = done("verify", made, "--files", "--json").json
    assert (bytes_only["golden"], bytes_only["not_proved"]) == (None, "golden logits were not asked for")


def test_every_damage_is_named(bundle):
    flip(bundle / "model.safetensors")
    (bundle / "config.json").unlink()
    (bundle / "extra.json").write_text("{}")
    ran = zoo("verify", bundle)
    assert ran.code == 5
    (line,) = ran.lines("error:")
    for words in ("config.json is missing", "model.safetensors has sha256", "extra.json does not stand in"):
        assert words in line


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_anywhere_is_found(made, tmp_path_factory, data):
    names = sorted(json.loads((made / "manifest.json").read_text())["files"])
    name = data.draw(st.sampled_from([n for n in names if n != "README.md"]))
    at = data.draw(st.integers(0, (made / name).stat().st_size - 1))
    spoilt = tmp_path_factory.mktemp("spoilt") / "bundle"
    shutil.copytree(made, spoilt)
    flip(spoilt / name, at)
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        check_bundle(spoilt, "x")
    shutil.rmtree(spoilt)


def test_an_edited_card_and_hidden_files_are_no_damage(bundle):
    (bundle / "README.md").write_text("my own words")
    (bundle / ".cache").mkdir()
    (bundle / ".cache" / ".lock").touch()
    assert zoo("verify", bundle, "--files").code == 0


def test_a_link_that_was_put_in_is_damage(bundle):
    (bundle / "more.safetensors").symlink_to("/etc/hostname")
    assert "more.safetensors does not stand in" in zoo("verify", bundle).lines("error:")[0]


def test_files_that_are_whole_and_another_model_are_found_by_the_logits(bundle):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(bundle / "model.safetensors")
    tensors["fc.weight"] = tensors["fc.weight"] * 2
    save_file(tensors, bundle / "model.safetensors")
    write_manifest(bundle)
    assert zoo("verify", bundle, "--files").code == 0
    ran = zoo("verify", bundle)
    assert ran.code == 5
    assert "golden logits" in ran.lines("error:")[0]


def test_a_missing_plugin_leaves_the_logits_not_proved(bundle):
    edit_bundle(bundle, backbone__name="nobody/nothing")
    found = done("verify", bundle, "--json").json
    assert found["golden"] is None
    assert "nobody" in found["not_proved"]
    assert "not proved" in done("verify", bundle).out


@pytest.mark.parametrize(("model", "code"), [("nothing", 2), ("me/x", 4), ("me/../x", 2)])
def test_what_is_not_here_is_one_line(model, code, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HUB", "https://hub.invalid")
    monkeypatch.chdir(tmp_path)
    ran = zoo("verify", model)
    assert ran.code == code
    assert len(ran.lines("error:")) == 1


def test_what_was_pulled_is_verified_without_a_request(loopback, tmp_path, monkeypatch):
    from huggingface_hub import constants

    from zoo.hub import open_hub

    server = loopback()
    monkeypatch.setenv("ZOO_HUB", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    open_hub().push(write_bundle(tmp_path / "b"), "me/x", message="m")
    path = Path(done("pull", "me/x", "--json").json["path"])
    sent = len(server.log())
    found = done("verify", "me/x", "--json").json
    assert found["path"] == str(path)
    assert "another library" in found["not_proved"]
    flip((path / "config.json").resolve())
    ran = zoo("verify", "me/x")
    assert ran.code == 5
    assert "config.json" in ran.lines("error:")[0]
    assert len(server.log()) == sent
