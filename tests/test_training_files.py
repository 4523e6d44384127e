"""Writing files whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from zoo.files import remove_leftovers, write_bytes, write_folder, write_json, write_tensors
from zoo.training.checkpoint import CheckpointFolder


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "same": whole, "row": whole[1], "turned": whole.T, "one": whole[0, 0]}
    tensors["empty"] = torch.empty(0)
    write_tensors(tmp_path / "a.safetensors", tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_files_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o644


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("one", "two"):
        write_folder(tmp_path / "folder", lambda to, text=text: write_bytes(to / text, text.encode()))
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "two"]


def test_leftovers_go_and_the_lock_stays(tmp_path):
    (tmp_path / ".model.1234").mkdir()
    (tmp_path / ".model.1234" / "x").write_text("")
    for name in (".recipe.toml.ab", ".lock", "recipe.toml"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, keep=".lock")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "recipe.toml"]


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    """Nested values, keys that are no strings or look alike when joined, numbers that JSON lacks."""
    state = {
        "a/b": torch.ones(2), "a": {"b": torch.zeros(3, dtype=torch.int64)}, "deep": [{"x": (torch.tensor(1.5), "s")}],
        "numbers": {0: {"step": torch.tensor(3.0)}, 1: None}, "odd": [float("inf"), float("-inf")], "flag": True,
        "half": torch.ones(2, dtype=torch.bfloat16), "names": {"q", "p"},
    }  # fmt: skip
    CheckpointFolder(tmp_path).save(0, 3, state)
    found = CheckpointFolder(tmp_path).newest()[0]
    assert (found.phase, found.step) == (0, 3)
    got = found.state
    assert torch.equal(got["a/b"], state["a/b"])
    assert torch.equal(got["a"]["b"], state["a"]["b"])
    assert got["deep"][0]["x"][0] == 1.5
    assert got["deep"][0]["x"][1] == "s"
    assert list(got["numbers"]) == [0, 1]
    assert got["numbers"][0]["step"] == 3
    assert got["odd"] == state["odd"]
    assert got["flag"] is True
    assert got["half"].dtype == torch.bfloat16
    assert got["names"] == ["p", "q"]


def test_the_last_two_checkpoints_and_what_they_need_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in range(5):
        folder.save_weights(f"best-0-{step}", {"x": torch.tensor(float(step))})
        folder.save(0, step, {}, needs=(f"best-0-{step}",))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["best-0-3.safetensors", "best-0-4.safetensors", "step-0-00000003", "step-0-00000004"]
    folder.save(0, 1, {})  # gone back, because the later ones were damaged
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0-00000001"]
