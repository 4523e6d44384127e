"""``zoo diff``: parts, recipe, data, metrics and tensors of two models; numbers against an independent computation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_fixtures import flip, write_bundle
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from zoo_registry import Registry
from zoo_registry.errors import IntegrityError
from zoo_runs import assembled, done, edit_bundle, written, zoo

from zoo.bundle.document import read_document
from zoo.comparing.blocks import block_names, by_name
from zoo.comparing.documents import changes
from zoo.comparing.models import compare
from zoo.comparing.tensors import compare_tensors
from zoo.hub.folder import FolderHub


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of one small model; the second has another head, one more training set, other metrics."""
    root = tmp_path_factory.mktemp("pair")
    made = assembled("basics/linear")
    data = {"fingerprint": "1" * 64, "samples": {"train": 30}}
    written(root / "a", made, metrics={"val": {"accuracy": 0.5, "nll": 1.0}}, data=data)
    with torch.no_grad():
        for parameter in made.model.head.parameters():
            parameter.add_(0.25)
        made.model.backbone.state_dict()["model.layer1.0.conv1.weight"].mul_(1.5)
    data = {"fingerprint": "2" * 64, "samples": {"train": 31}}
    written(root / "b", made, metrics={"val": {"accuracy": 0.75, "f1": 0.7}}, data=data)
    return root / "a", root / "b"


def norms(a: Path, b: Path, start: str) -> tuple[float, float]:
    """|b - a| and |a| over the floating-point tensors whose name starts so, by numpy."""
    left, right = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    names = [n for n in left if n.startswith(start) and left[n].dtype.kind == "f"]
    moved = np.concatenate([(right[n].astype(np.float64) - left[n]).ravel() for n in names])
    size = np.concatenate([left[n].astype(np.float64).ravel() for n in names])
    return float(np.linalg.norm(moved)), float(np.linalg.norm(size))


def test_blocks_and_norms_are_those_of_an_independent_computation(pair):
    a, b = pair
    found = compare(str(a), str(b), Registry())
    rows = {row["block"]: row for row in found.to_json()["tensors"]["blocks"]}
    assert list(rows) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    for block, start, changed in (("layer1", "layer1.", 1), ("head", "fc.", 2), ("layer2", "layer2.", 0)):
        moved, size = norms(a, b, start)
        assert rows[block]["changed"] == changed
        assert rows[block]["change"] == pytest.approx(moved, rel=1e-6, abs=1e-12)
        assert rows[block]["norm"] == pytest.approx(size, rel=1e-6)
        assert rows[block]["relative"] == pytest.approx(moved / size, rel=1e-6, abs=1e-12)
    moved, size = norms(a, b, "")
    assert found.tensors.total().relative == pytest.approx(moved / size, rel=1e-6)
    assert sum(row["elements"] for row in rows.values()) == sum(
        v.size for v in load_file(a / "model.safetensors").values()
    )
    assert {name for name, _ in found.tensors.largest} == {"fc.weight", "fc.bias", "layer1.0.conv1.weight"}
    assert dict(found.tensors.largest)["layer1.0.conv1.weight"] == pytest.approx(0.5)


def test_the_command_says_what_differs(pair):
    a, b = pair
    found = done("diff", a, b, "--json").json
    assert not found["same"]
    assert found["parts"] == []
    assert found["recipe"] == []
    assert {"key": "samples.train", "a": 30, "b": 31} in found["data"]
    metrics = {row["name"]: row for row in found["metrics"]}
    assert metrics["accuracy"] == {"split": "val", "name": "accuracy", "a": 0.5, "b": 0.75, "change": 0.25}
    assert metrics["f1"]["change"] is None
    assert (found["tensors"]["changed"], found["tensors"]["only_a"]) == (3, [])
    text = done("diff", a, b).out
    assert "samples.train" in text
    assert "+0.2500" in text
    assert "tensors: 3 changed" in text
    assert "layer1" in text


def test_a_model_and_its_copy_are_the_same_wherever_they_lie(pair, tmp_path):
    a, _ = pair
    copy = Path(shutil.copytree(a, tmp_path / "copy"))
    found = done("diff", a, copy, "--json").json
    assert found["same"]
    assert found["tensors"]["changed"] == 0
    assert found["tensors"]["same"] == len(load_file(a / "model.safetensors"))
    hub = FolderHub(tmp_path / "hub")
    revision = hub.push(a, "me/x", message="m").revision
    hub.tag("me/x", "v1", revision)
    said = done("diff", a, "me/x@v1", "--hub", hub.root).out
    assert f"me/x@{revision[:12]}" in said
    assert "the same: recipe, data, metrics and" in said


def test_classes_parts_and_recipe_are_told_by_name(pair, tmp_path):
    a, _ = pair
    b = edit_bundle(
        Path(shutil.copytree(a, tmp_path / "b")),
        columns__0__classes=["a", "b", "d"],
        recipe__seed=7,
        input__crop_pct=0.9,
        license="mit",
    )
    found = compare(str(a), str(b), Registry())
    rows = {row.key: (row.a, row.b) for row in found.parts}
    assert rows["columns.label.classes"] == (["c"], ["d"])
    assert rows["input.crop_pct"][1] == 0.9
    assert rows["license"][1] == "mit"
    assert [(row.key, row.a, row.b) for row in found.recipe] == [("seed", 0, 7)]
    c = edit_bundle(Path(shutil.copytree(a, tmp_path / "c")), columns__0__classes=["b", "a", "c"])
    assert [row.key for row in compare(str(a), str(c), Registry()).parts] == ["columns.label.order"]


def test_what_one_side_alone_has_and_other_shapes(tmp_path):
    left = {"x.0.w": np.ones((2, 2), np.float32), "x.1.w": np.ones(3, np.float32), "gone.w": np.zeros(1, np.float32)}
    right = {"x.0.w": np.ones((2, 3), np.float32), "x.1.w": np.ones(3, np.float64), "new.w": np.zeros(1, np.float32)}
    save_file(left, tmp_path / "a.safetensors")
    save_file(right, tmp_path / "b.safetensors")
    files = [{"model.safetensors": tmp_path / f"{name}.safetensors"} for name in "ab"]
    files[1]["head.safetensors"] = tmp_path / "a.safetensors"
    found = compare_tensors(*files, block=lambda file, name: by_name(name))
    assert found.only_a == ["gone.w"]
    assert found.only_b[0] == "new.w"
    assert "head.safetensors: x.0.w" in found.only_b
    assert found.reshaped["x.0.w"] == ("float32 [2, 2]", "float32 [2, 3]")
    assert found.reshaped["x.1.w"] == ("float32 [3]", "float64 [3]")
    assert not found.none


def test_equality_is_of_bits_and_counters_have_no_norm(tmp_path):
    nan, zero = torch.tensor([float("nan"), 1.0]), torch.zeros(2)
    left = {
        "n": nan,
        "z": zero,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "e": torch.ones(0),
    }
    right = {**left, "z": -zero, "half": torch.full((2,), 2.0, dtype=torch.bfloat16), "count": torch.tensor(9000)}
    save_torch(left, tmp_path / "a.safetensors")
    save_torch(right, tmp_path / "b.safetensors")
    files = [{"model.safetensors": tmp_path / f"{name}.safetensors"} for name in "ab"]
    found = compare_tensors(*files, block=lambda file, name: name)
    assert {name: block.changed for name, block in found.blocks.items()} == {
        "n": 0,
        "z": 1,
        "half": 1,
        "count": 1,
        "e": 0,
    }
    assert found.blocks["count"].squares == found.blocks["count"].moved == 0
    assert found.blocks["half"].relative == pytest.approx(1.0)
    assert found.blocks["z"].relative is None
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["blocks"]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layer1.0.conv1.weight", "layer1.0"),
        ("stages.2.blocks.5.mlp.fc1.weight", "stages.2"),
        ("blocks.3.attn.qkv.bias", "blocks.3"),
        ("patch_embed.proj.weight", "patch_embed"),
        ("encoder.layer.7.output.dense.bias", "encoder.layer.7"),
        ("cls_token", "cls_token"),
    ],
)
def test_without_the_plugin_a_block_is_made_of_the_name(name, block):
    assert by_name(name) == block
    named, order = block_names(None, [name], Registry(), "x")
    assert (named("model.safetensors", name), order) == (block, ())
    assert named("head.safetensors", "weight") == "head"


def test_a_backbone_that_cannot_be_asked_leaves_the_names(pair):
    a, _ = pair
    document = read_document(edit := a / "zoo.json", where="a")
    assert edit.is_file()
    import dataclasses

    unknown = dataclasses.replace(document, backbone="nobody/nothing")
    named, _ = block_names(unknown, ["layer1.0.conv1.weight"], Registry(), "a")
    assert named("model.safetensors", "layer1.0.conv1.weight") == "layer1.0"
    assert named("model.safetensors", "fc.weight") == "head"


def test_nested_values_differ_by_their_leaves():
    a = {"x": {"y": [1, 2], "z": [{"n": "p"}, {"n": "q"}]}, "e": {}}
    b = {"x": {"y": [1, 3], "z": [{"n": "p"}]}, "e": {"f": None}, "g": 1}
    rows = [(row.key, row.a, row.b) for row in changes(a, b)]
    assert rows == [("x.y", [1, 2], [1, 3]), ("x.z.1.n", "q", None), ("e", {}, None), ("g", None, 1)]


def test_other_libraries_models_are_compared_by_their_tensors(tmp_path):
    hub = FolderHub(tmp_path / "hub")
    for seed in (1, 2):
        hub.push(write_bundle(tmp_path / f"b{seed}", seed), f"me/x{seed}", message="m")
    found = done("diff", "me/x1", "me/x2", "--hub", hub.root, "--json").json
    assert (found["tensors"]["changed"], found["recipe"]) == (1, [])
    assert "no zoo.json" in done("diff", "me/x1", "me/x2", "--hub", hub.root).out


def test_damaged_and_missing_models_are_one_line(pair, tmp_path):
    a, b = pair
    spoilt = Path(shutil.copytree(b, tmp_path / "spoilt"))
    flip(spoilt / "model.safetensors")
    for code, other in ((5, spoilt), (2, tmp_path / "nothing"), (2, tmp_path)):
        ran = zoo("diff", a, other)
        assert ran.code == code
        assert len(ran.lines("error:")) == 1
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 20)
    files = [{"model.safetensors": tmp_path / "x.safetensors"}, {"model.safetensors": a / "model.safetensors"}]
    with pytest.raises(IntegrityError, match="is no safetensors file"):
        compare_tensors(*files, block=lambda file, name: name)
