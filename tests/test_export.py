"""An export says what the model says, in the runtime it is for, and carries what a user of it must know."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny_zoo
import torch
from zoo_registry import Column, IntegrityError, Registry, UsageError, ZooError
from zoo_runs import CLASSES, done, zoo

import zoo as public
from zoo.assembly.assemble import assemble_model
from zoo.bundle.read import LoadedModel, load_bundle
from zoo.bundle.write import Findings, write_bundle
from zoo.exporting import onnx_file
from zoo.exporting.exporting import export_model
from zoo.exporting.program import output_names
from zoo.recipe import Component, Recipe, parse_strategy

GRADES = ("low", "middle", "high")
TARGET = Column(name="label", classes=GRADES)


def loaded_model(folder: Path, head: str = "linear", columns=(TARGET,), backbone: str = "tiny/plain", fit=None, **more):
    """A random small model, as a bundle that was written; ``fit`` are features and targets of its head."""
    registry = tiny_zoo.registry() if backbone.startswith("tiny/") else Registry()
    made = assemble_model(
        registry, backbone=backbone, head=f"basics/{head}", columns=columns, pretrained=False, head_options=more,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for values in [*made.model.backbone.buffers(), *made.model.head.parameters()]:
            if values.is_floating_point():
                values.copy_(torch.rand(values.shape, generator=draw) + 0.1)
    if fit is not None:
        fit(made.model)
    names = (Component(name=made.backbone.name), Component(name=made.head.name))
    recipe = Recipe(backbone=names[0], head=names[1], phases=parse_strategy("basics/linear:1"), pretrained=False)
    document = write_bundle(folder, made, recipe, Findings(), registry)
    if not backbone.startswith("tiny/"):
        return load_bundle(folder, registry)
    return LoadedModel(model=made.model.eval(), document=document, path=folder, name=str(folder))  # it loads no weights


def run_onnx(folder: Path, x: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x.numpy()}), strict=True))


def run_torch(folder: Path, x: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = torch.export.load(folder / "model.pt2").module()(x)
    return {name: values.numpy() for name, values in found.items()}


RUN = {"onnx": run_onnx, "torch-export": run_torch}


def agree(found, wanted, atol: float = 1e-4) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values.detach().numpy(), atol=atol, rtol=1e-4)


def drawn(loaded, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, *loaded.input.size, generator=torch.Generator().manual_seed(seed))


# Whole commands


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The finished run in both formats, by the command; for reading only."""
    folder = tmp_path_factory.mktemp("exported")
    for to in RUN:
        assert "agrees to" in done("export", finished_run, "--to", to, "--out", folder / to).out
    return {to: folder / to for to in RUN}


def test_a_run_becomes_an_onnx_file_that_predicts_as_the_zoo_does(finished_run: Path, photos: Path, tmp_path: Path):
    out = tmp_path / "exported"
    said = done("export", finished_run, "--to", "onnx", "--out", out, "--probabilities", "--pixels", "--json").json
    assert sorted(p.name for p in out.iterdir()) == ["export.json", "model.onnx"]
    record = json.loads((out / "export.json").read_text())
    assert said == {"model": str(finished_run), "path": str(out), **record}
    files = [photos / kind / f"{number}.jpg" for kind in CLASSES for number in (0, 3, 4)]
    rows = done("predict", finished_run, *files, "--top", 3, "--json").json

    from zoo.data.decode import decode_image
    from zoo.data.transforms import EvalView

    model = public.load(finished_run)
    view = EvalView(model.input)
    pixels = torch.stack([view(torch.from_numpy(decode_image(path)).permute(2, 0, 1), None) for path in files])
    found = run_onnx(out, pixels)["label"]
    for scores, row in zip(found, rows, strict=True):
        for place in row["top"]:
            assert scores[CLASSES.index(place["label"])] == pytest.approx(place["score"], abs=1e-4)


def test_class_names_and_transform_are_in_the_file_and_beside_it(finished_run: Path, exported: dict[str, Path]):
    file = exported["onnx"] / "model.onnx"
    record = json.loads((exported["onnx"] / "export.json").read_text())
    session = onnxruntime.InferenceSession(file)
    within = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert within == {key: value for key, value in record.items() if key not in ("checked", "files")}
    assert record["outputs"][0]["classes"] == list(CLASSES)
    assert record["outputs"][0]["values"] == "logits"
    assert record["outputs"][0]["probabilities"] == "softmax"
    config = json.loads((finished_run / "model" / "zoo.json").read_text())
    transform = dict(config["input"])
    assert transform.pop("kind") == "image"
    assert record["transform"] == transform
    assert record["made_with"]["opset"] == 18 == onnx_file.OPSET
    import onnx

    proto = onnx.load(file)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    size = [*transform["size"]]
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("input", ["batch", 3, *size], "tensor(float)")
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("label", ["batch", 3])]
    assert record["checked"]["batches"] == [2, 1, 5]
    assert record["checked"]["by"] == f"onnxruntime {onnxruntime.__version__}"
    assert 0 <= record["checked"]["largest_difference"] < 1e-3


def test_the_golden_logits_of_the_bundle_come_out_of_the_file(finished_run: Path, exported: dict[str, Path]):
    from zoo.bundle.golden import golden_inputs

    model = public.load(finished_run)
    recorded = np.array(model.document.golden["outputs"]["label"])
    for to, run in RUN.items():
        found = run(exported[to], golden_inputs(model.input))["label"]
        assert np.abs(found - recorded).max() <= 1e-4 + 1e-3 * np.abs(recorded).max()


def test_a_torch_archive_has_the_record_and_no_pickle(exported: dict[str, Path]):
    out = exported["torch-export"]
    record = json.loads((out / "export.json").read_text())
    extra = {"export.json": ""}
    torch.export.load(out / "model.pt2", extra_files=extra)
    assert json.loads(extra["export.json"]) == {k: v for k, v in record.items() if k not in ("checked", "files")}
    with zipfile.ZipFile(out / "model.pt2") as archive:
        pickles = [i for i in archive.infolist() if i.filename.endswith(".pt") and i.file_size]
    assert pickles == []


@pytest.mark.parametrize("to", RUN)
def test_nothing_in_an_export_names_files_of_this_machine(to: str, tmp_path: Path):
    loaded = loaded_model(tmp_path / "secret-place")
    result = export_model(loaded, to, tmp_path / "out")
    packages = Path(torch.__file__).parents[1]
    for path in result.path.iterdir():
        parts = [path.read_bytes()]
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                parts = [archive.read(name) for name in archive.namelist()]
        for word in (str(packages), str(Path(public.__file__).parent), str(tmp_path), "secret-place", "test_export"):
            assert not any(word.encode() in part for part in parts), (path.name, word)


@pytest.mark.slow
def test_a_model_on_a_hub_keeps_its_name_and_revision(finished_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pushed = done("push", finished_run, "me/photos", "--hub", "hub", "--json").json
    done("export", "me/photos", "--to", "torch-export", "--hub", "hub")
    record = json.loads(Path("photos-torch-export/export.json").read_text())
    assert record["model"]["name"] == "me/photos"
    assert record["model"]["revision"] == pushed["revision"]
    refused = zoo("push", "photos-torch-export", "me/other", "--hub", "hub")
    assert refused.code == 2
    assert "neither a run nor a bundle" in refused.err


# Every head


def whole(model) -> None:
    """Fit the head on drawn samples around three places; some have no label."""
    labels = torch.arange(30) % 3
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(30, 8, generator=draw) * 0.1 + 2 * torch.nn.functional.one_hot(labels, 8)
    model.head.fit(features, {"label": labels.where(torch.arange(30) % 7 != 3, -1)})


HEADS = {
    "linear": {},
    "mlp": {"hidden": 16},
    "cosine": {},
    "prototype": {"fit": whole},
    "prototype-normalised": {"fit": whole, "normalise": True},
    "ridge": {"fit": whole},
    "knn": {"fit": whole, "k": 3},
    "knn-cosine": {"fit": whole, "k": 3, "metric": "cosine", "weights": "distance"},
    "ordinal": {"order": GRADES},
    "ordinal-coral": {"order": ("middle", "high", "low"), "method": "coral"},
    "multilabel": {"columns": (Column(name="label", kind="multilabel", classes=GRADES),)},
    "regression": {"columns": (Column(name="label", kind="regression"),)},
    "multi-task": {
        "columns": (
            Column(name="grade", classes=GRADES),
            Column(name="seen with", kind="multilabel", classes=("dog", "cat")),
            Column(name="height", kind="regression"),
        )
    },
}
NAMES = {"prototype-normalised": "prototype", "knn-cosine": "knn", "ordinal-coral": "ordinal"}
QUICK = ("knn", "ordinal-coral", "multi-task")
CASES = [
    pytest.param(head, to, marks=[pytest.mark.slow] if to == "onnx" and head not in QUICK else [])
    for head in HEADS
    for to in RUN
]


@pytest.mark.parametrize(("head", "to"), CASES)
def test_every_head_says_the_same_at_any_batch_size(head: str, to: str, tmp_path: Path):
    loaded = loaded_model(tmp_path / "bundle", NAMES.get(head, head), **HEADS[head])
    result = export_model(loaded, to, tmp_path / "out")
    for count in (1, 7, 33):
        x = drawn(loaded, count)
        agree(RUN[to](result.path, x), loaded.model.predict(x))
    columns = [(o["name"], o["kind"], o["classes"]) for o in result.record["outputs"]]
    assert columns == [(c.name, c.kind, list(c.classes)) for c in loaded.document.columns]
    chances = [o.get("probabilities") for o in result.record["outputs"]]
    wanted = {"classification": "softmax", "multilabel": "sigmoid", "regression": None}
    assert chances == [wanted[c.kind] for c in loaded.document.columns]


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "torch-export"])
@pytest.mark.parametrize("head", ["multilabel", "multi-task", "knn"])
def test_probabilities_are_what_the_head_decodes(head: str, to: str, tmp_path: Path):
    loaded = loaded_model(tmp_path / "bundle", head, **HEADS[head])
    result = export_model(loaded, to, tmp_path / "out", probabilities=True)
    x = drawn(loaded, 4)
    agree(RUN[to](result.path, x), loaded.model.head.decode(loaded.model.predict(x)))
    assert {o["values"] for o in result.record["outputs"]} <= {"probabilities", "values"}


@pytest.mark.parametrize("to", RUN)
def test_a_head_that_abstains_does_so_in_the_file(to: str, tmp_path: Path):
    def on_own_features(model) -> None:
        with torch.no_grad():
            x = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(9))
            model.head.fit(model.backbone.eval()(x), {"label": torch.arange(40) % 3})

    loaded = loaded_model(tmp_path / "bundle", "knn", fit=on_own_features, k=3)
    result = export_model(loaded, to, tmp_path / "out", probabilities=True)
    x = torch.cat([drawn(loaded, 12), 5 * drawn(loaded, 12, 1)])
    found = RUN[to](result.path, x)
    agree(found, loaded.model.head.decode(loaded.model.predict(x)))
    silent = found["label"].sum(axis=1) == 0
    assert 0 < silent.sum() < 24
    assert result.record["outputs"][0]["abstains"] == "a row of zeros"


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "torch-export"])
@pytest.mark.parametrize(("backbone", "head"), [("starter/cnn", "attention"), ("starter/vit", "attention")])
def test_attention_over_maps_and_tokens(backbone: str, head: str, to: str, tmp_path: Path):
    loaded = loaded_model(tmp_path / "bundle", head, backbone=backbone)
    result = export_model(loaded, to, tmp_path / "out")
    x = drawn(loaded, 3)
    agree(RUN[to](result.path, x), loaded.model.predict(x))


TIMM = ("test_vit", "test_resnet", "test_efficientnet", "test_convnext", "test_byobnet", "test_nfnet")


@pytest.mark.slow
@pytest.mark.parametrize("to", RUN)
@pytest.mark.parametrize("backbone", ["starter/vit", *(f"timm/{name}" for name in TIMM)])
def test_backbones_of_several_kinds(backbone: str, to: str, tmp_path: Path):
    loaded = loaded_model(tmp_path / "bundle", backbone=backbone)
    result = export_model(loaded, to, tmp_path / "out")
    x = drawn(loaded, 3)
    agree(RUN[to](result.path, x), loaded.model.predict(x), atol=1e-3)


# What goes in and out


def test_outputs_may_be_called_as_they_like(tmp_path: Path):
    names = ("input", "mul", "conv2d", "relu", "output:0", "a b/ü", "input_output")
    loaded = loaded_model(tmp_path / "bundle", columns=tuple(Column(name=n, classes=GRADES) for n in names))
    result = export_model(loaded, "onnx", tmp_path / "out")
    x = drawn(loaded, 3)
    found, wanted = run_onnx(result.path, x), loaded.model.predict(x)
    outputs = {o["column"]: o["name"] for o in result.record["outputs"]}
    assert outputs == {**{n: n for n in names}, "input": outputs["input"]}
    assert outputs["input"] not in names
    agree(found, {outputs[name]: values for name, values in wanted.items()})


def test_names_of_outputs_are_unique():
    assert output_names(["a", "b"], "input") == {"a": "a", "b": "b"}
    assert output_names(["input", "input_output"], "input") == {
        "input": "input_output_output",
        "input_output": "input_output",
    }
    assert output_names(["", "output"], "input") == {"": "output_output", "output": "output"}


def test_operators_keep_their_digits_in_onnx(tmp_path: Path):
    """torch's own translation is -inf or 0 where a logit is large, and has no digits for thresholds that lie close."""

    def steep(model) -> None:
        with torch.no_grad():
            model.head.layer.weight.mul_(300)
            for gaps in model.head.gaps:
                gaps.fill_(-9)

    more = {"order": GRADES, "method": "coral", "fit": steep}
    loaded = loaded_model(tmp_path / "bundle", "ordinal", **more)
    x = drawn(loaded, 6)
    wanted = loaded.model.predict(x)["label"]
    assert wanted.min() < -110
    found = run_onnx(export_model(loaded, "onnx", tmp_path / "out").path, x)["label"]
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("to", RUN)
def test_pixels_are_normalised_within(to: str, tmp_path: Path):
    from zoo.data.transforms import normalise

    loaded = loaded_model(tmp_path / "bundle")
    result = export_model(loaded, to, tmp_path / "out", pixels=True)
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    agree(RUN[to](result.path, x), loaded.model.predict(normalise(x, loaded.input)))
    assert result.record["input"]["dtype"] == "uint8"
    assert result.record["input"]["name"] == "pixels"


def test_large_weights_lie_beside_the_model_and_move_with_it(tmp_path: Path, monkeypatch):
    loaded = loaded_model(tmp_path / "bundle", "mlp")
    monkeypatch.setattr(onnx_file, "LARGEST", 0)
    result = export_model(loaded, "onnx", tmp_path / "out")
    assert sorted(result.record["files"]) == ["model.onnx", "model.onnx.data"]
    moved = Path(shutil.move(result.path, tmp_path / "moved"))
    x = drawn(loaded, 2)
    agree(run_onnx(moved, x), loaded.model.predict(x))


# What is refused


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("to", RUN)
def test_a_file_that_disagrees_never_appears(to: str, tmp_path: Path, monkeypatch):
    loaded = loaded_model(tmp_path / "bundle")
    import zoo.exporting.program as program

    def wrong(module, example, *, where):
        with torch.no_grad():
            module.head.layer.weight.mul_(1.01)
        return true(module, example, where=where)

    true = program.trace
    monkeypatch.setattr(program, "trace", wrong)
    before = loaded.model.head.layer.weight.detach().clone()

    def unharmed(self, x):  # the model says what it said before the trace
        return {"label": torch.nn.functional.linear(self.backbone(x), before, self.head.layer.bias)}

    monkeypatch.setattr(type(loaded.model), "predict", unharmed)
    with pytest.raises(IntegrityError, match=r"output 'label', batch of 2: off by .* so nothing was written"):
        export_model(loaded, to, tmp_path / "out")
    assert leftovers(tmp_path) == ["bundle"]


def test_a_model_that_is_not_what_was_published_is_not_exported(tmp_path: Path):
    loaded = loaded_model(tmp_path / "bundle")
    with torch.no_grad():
        loaded.model.head.layer.bias.add_(1)
    with pytest.raises(IntegrityError, match="does not reproduce its golden logits"):
        export_model(loaded, "torch-export", tmp_path / "out")
    assert leftovers(tmp_path) == ["bundle"]


def test_what_cannot_be_traced_is_named(tmp_path: Path, monkeypatch):
    loaded = loaded_model(tmp_path / "bundle")

    def forward(self, x):
        return x.mean((2, 3)).repeat(1, 3)[:, :8] * (2 if x.mean() > 0 else 1)

    monkeypatch.setattr(type(loaded.model.backbone), "forward", forward)
    object.__setattr__(loaded.document, "golden", {})
    with pytest.raises(ZooError, match=r"cannot be exported: torch\.export cannot trace its backbone: ") as caught:
        export_model(loaded, "torch-export", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == ["bundle"]


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line_before_anything_is_loaded(missing: str, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    said = zoo("export", "nobody/nothing", "--out", tmp_path / "out")
    assert said.code == 7
    assert said.lines("error:") == [f"exporting to onnx needs {missing}, which is not installed"]
    assert said.lines("hint:") == ["pip install onnx onnxscript onnxruntime"]
    assert leftovers(tmp_path) == []


def test_torch_export_needs_no_further_package(tmp_path: Path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    loaded = loaded_model(tmp_path / "bundle")
    result = public.export(loaded, "torch-export", out=tmp_path / "out")
    assert result.file == tmp_path / "out" / "model.pt2"
    assert result.record == json.loads((tmp_path / "out" / "export.json").read_text())


def test_wrong_turns(finished_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = zoo("export", finished_run, "--out", "model.onnx")
    assert (said.code, said.lines("error:")) == (2, ["--out 'model.onnx' is called like a file"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("work")
    said = zoo("export", finished_run, "--out", "full")
    assert (said.code, said.lines("error:")) == (6, ["'full' exists and is not empty"])
    assert (tmp_path / "full" / "thesis.tex").read_text() == "work"
    said = zoo("export", finished_run, "--to", "tflite")
    assert said.code == 2
    assert "'tflite' is not one of 'onnx', 'torch-export'" in said.err
    said = zoo("export", finished_run, "--to", "torch-export", "--out", finished_run / "model" / "exported")
    assert said.code == 2
    assert "lies within the model's own folder" in said.err
    said = zoo("export", tmp_path / "nothing", "--to", "torch-export")
    assert said.code == 2
    assert leftovers(tmp_path) == ["full"]
    with pytest.raises(UsageError, match="unknown export format 'onx'") as caught:
        public.export(finished_run, "onx")
    assert caught.value.hint == "did you mean 'onnx'?"
