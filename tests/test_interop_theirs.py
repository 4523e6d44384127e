"""The zoo reads what plain timm and transformers pushed: show, predict, evaluate, and fine-tune from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import client_env, run_python
from interop import drawn_model, photo_files, write_model
from safetensors.torch import load_file, save_file
from zoo_registry import IntegrityError, Registry, UsageError
from zoo_runs import CLASSES, done, zoo

from zoo.bundle.read import load_bundle
from zoo.hub.folder import FolderHub
from zoo.models import load_model

THEIRS = """
import json, shutil, sys
from pathlib import Path

import timm, torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import push_to_hf_hub
from timm.models import save_for_hf
torch.set_num_threads(1)
folder, files, labels = Path(sys.argv[1]), sys.argv[2].split(","), ["checks", "rings", "stripes"]
shas, said = {}, {}


def drawn(architecture, seed=0, classes=3, **arguments):
    torch.manual_seed(seed)
    model = timm.create_model(architecture, num_classes=classes, **arguments).eval()
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    for name, tensor in model.named_parameters():
        if classes and tensor.shape[0] == classes:
            torch.nn.init.normal_(tensor)
    return model


def tell(repo, model):
    given = {}
    if repo == "me/shaped":  # timm looks at the size and channels of the tag, not at those of the model
        given = {"input_size": (1, 96, 96), "mean": (0.5,), "std": (0.5,)}
    config = timm.data.resolve_data_config(given, model=model)
    channels = config["input_size"][0]
    transform = timm.data.create_transform(**config, is_training=False)
    images = [Image.open(f).convert("RGB" if channels == 3 else "L") for f in files]
    with torch.inference_mode():
        said[repo] = model(torch.stack([transform(i) for i in images])).softmax(-1).tolist()


def keep(repo):
    from huggingface_hub import HfApi
    shas[repo] = HfApi().model_info(repo).sha


pushed = {
    "me/plain": drawn("test_resnet"),
    "me/shaped": drawn("test_vit", global_pool="avg", img_size=96, in_chans=1),
    "me/normed": drawn("test_convnext"),
    "me/several": drawn("deit_tiny_distilled_patch16_224", img_size=64),
    "me/backbone": drawn("test_efficientnet", classes=0),
}
for repo, model in pushed.items():
    push_to_hf_hub(model, repo, private=False, safe_serialization=True,
                   model_config={"label_names": labels} if model.num_classes else {},
                   model_card={"license": "mit", "description": "a test"})
    if model.num_classes and repo != "me/several":
        tell(repo, model)
    keep(repo)
push_to_hf_hub(drawn("test_resnet"), "me/pickled", private=False, safe_serialization=False)
save_for_hf(pushed["me/plain"], folder / "saved", model_config={"label_names": labels}, safe_serialization=True)
save_file(pushed["me/plain"].state_dict(), folder / "weights.safetensors")

from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, ViTConfig, ViTForImageClassification
import transformers
raw = json.loads((folder / "saved" / "config.json").read_text())
raw["model_args"].pop("num_classes")
torch.manual_seed(4)
shutil.copytree(folder / "saved", folder / "wrapped")
(folder / "wrapped" / "config.json").write_text(json.dumps(raw))
wrapped = TimmWrapperForImageClassification.from_pretrained(folder / "wrapped").eval()
shutil.rmtree(folder / "wrapped")
TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(raw)).push_to_hub("me/fresh", private=False)
for name, tensor in wrapped.named_parameters():
    if tensor.shape[0] == 3:
        torch.nn.init.normal_(tensor)
wrapped.push_to_hub("me/wrapped", private=False)
from transformers import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained("me/wrapped")
with torch.inference_mode():
    pixels = [processor(Image.open(f).convert("RGB"), return_tensors="pt")["pixel_values"] for f in files]
    said["me/wrapped"] = wrapped(torch.cat(pixels)).logits.softmax(-1).tolist()
keep("me/wrapped")
small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
ViTForImageClassification(ViTConfig(**small, image_size=32, patch_size=16)).push_to_hub("me/vit", private=False)
print(json.dumps({"shas": shas, "said": said}))
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A loopback hub to which timm and transformers pushed; what they say of two photographs; folders that timm saved.

    ``hub`` its address, ``shas``, ``said`` (repo -> scores of the upright files), ``files``, ``folder``.
    """
    from hub_fixtures import READER, TOKEN
    from huggingface_hub import constants
    from loopback_hub import LoopbackHub

    root = tmp_path_factory.mktemp("theirs")
    files = [path for path in photo_files(root / "photos") if path.stem != "rings"]  # the turned one is no matter here
    server = LoopbackHub(root / "hub", tokens=[TOKEN, f"bob={READER}:read"]).start()
    out = run_python(THEIRS, root, ",".join(map(str, files)), env=client_env(server, root / "home"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patched.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patched.setattr(constants, "HF_HOME", str(root / "ours"))
        patched.setenv("HF_TOKEN", TOKEN)
        yield {"hub": server.url, "files": files, "folder": root, **json.loads(out.splitlines()[-1])}
    server.stop()


def test_a_wrapper_that_was_never_loaded_has_names_that_only_transformers_knows(theirs: Any):
    outcome = zoo("predict", "me/fresh", theirs["files"][0], "--hub", theirs["hub"])
    assert outcome.code == 5
    assert "timm_model." in outcome.err
    assert "from_pretrained" in outcome.err


def scores_of(rows: list[dict[str, Any]]) -> list[list[float]]:
    """Scores in the order of :data:`CLASSES`."""
    return [[{t["label"]: t["score"] for t in row["top"]}[name] for name in CLASSES] for row in rows]


@pytest.mark.parametrize("repo", ["me/plain", "me/shaped", "me/normed", "me/wrapped"])
def test_predictions_are_those_of_the_library_that_pushed(theirs: Any, repo: str):
    asked = (
        "predict",
        f"{repo}@{theirs['shas'][repo]}",
        *theirs["files"],
        "--top",
        3,
        "--hub",
        theirs["hub"],
        "--json",
    )
    rows = done(*asked).json
    wanted = theirs["said"][repo]
    assert max(max(row) - min(row) for row in wanted) > 0.05  # they say something
    for found, expected in zip(scores_of(rows), wanted, strict=True):
        assert found == pytest.approx(expected, abs=2e-5)


def test_evaluate_holds_the_classes_by_name(theirs: Any, photos: Path, tmp_path: Path):
    report = done("evaluate", "hf:me/plain", photos, "--split", "all", "--hub", theirs["hub"], "--json").json
    assert report["samples"] == 30
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "rings").rename(tmp_path / "photos" / "circles")
    refused = zoo("evaluate", "me/plain", tmp_path / "photos", "--hub", theirs["hub"], "--json")
    assert refused.code == 3
    assert "circles" in refused.json["error"]["message"]


def test_show_says_what_a_repo_is_and_what_it_cannot(theirs: Any):
    shown = {name: done("show", f"hf:me/{name}", "--hub", theirs["hub"], "--json").json for name in ("shaped", "vit")}
    found = shown["shaped"]["foreign"]
    assert found["backbone"]["name"] == "timm/test_vit.r160_in1k"
    assert json.loads(found["backbone"]["options"]["model_args"]) == {"global_pool": "avg"}
    assert (found["labels"], found["license"], found["predicts"]) == (list(CLASSES), "mit", True)
    assert (found["input"]["size"], found["input"]["channels"]) == ([96, 96], 1)
    assert "foreign" not in shown["vit"]
    said = done("show", "hf:me/several", "--hub", theirs["hub"]).out
    assert "not one linear layer" in said
    assert "without a classifier" in done("show", "hf:me/backbone", "--hub", theirs["hub"]).out
    assert "timm/timm form" in done("show", theirs["folder"] / "saved").out


@pytest.mark.parametrize(
    ("repo", "code", "words"),
    [
        ("me/several", 2, "not one linear layer"),
        ("me/backbone", 2, "without a classifier"),
        ("me/vit", 7, "a model of type 'vit', which no installed plugin reads"),
        ("me/pickled", 4, "no safe weights"),
    ],
)
def test_what_cannot_predict_is_refused_in_one_line(theirs: Any, repo: str, code: int, words: str):
    refused = zoo("predict", repo, theirs["files"][0], "--hub", theirs["hub"], "--json")
    assert refused.code == code
    error = refused.json["error"]
    assert words in error["message"]
    assert "\n" not in error["message"]
    if code == 2:
        assert f"--backbone hf:{repo}" in error["hint"]


QUICK = ("--strategy", "linear:1", "--batch-size", 16, "--json")


MORE = [pytest.param(repo, marks=pytest.mark.slow) for repo in ("me/several", "me/backbone")]


@pytest.mark.parametrize("repo", ["me/shaped", "me/wrapped", *MORE])
def test_a_fine_tuning_starts_from_their_weights_and_input(theirs: Any, photos: Path, tmp_path: Path, repo: str):
    sha, out = theirs["shas"][repo], tmp_path / "run"
    done("finetune", photos, "--backbone", f"hf:{repo}@{sha}", *QUICK, "--hub", theirs["hub"], "--out", out)
    document = json.loads((out / "model" / "zoo.json").read_text())
    base = document["base"]
    assert (base["kind"], base["repo"], base["revision"], base["file"]) == ("hub", repo, sha, "model.safetensors")
    assert len(base["sha256"]) == 64
    assert document["license"] == ("mit" if repo != "me/wrapped" else None)  # its card says nothing
    assert f"base_model: {repo}" in (out / "model" / "README.md").read_text()
    if repo == "me/shaped":
        assert (document["input"]["size"], document["input"]["channels"]) == ([96, 96], 1)
        assert json.loads(document["backbone"]["options"]["model_args"]) == {"global_pool": "avg"}
    source = FolderOrHub(theirs).weights(repo, sha)
    trained = load_file(out / "model" / "model.safetensors")
    shared = [n for n in trained if n in source and "head" not in n and "fc." not in n and "classifier" not in n]
    assert len(shared) > 20
    assert all(torch.equal(trained[n], source[n]) for n in shared)  # the head alone learned


class FolderOrHub:
    """Reads weights from the loopback hub with the plain client."""

    def __init__(self, theirs: Any) -> None:
        self.theirs = theirs

    def weights(self, repo: str, sha: str) -> dict[str, torch.Tensor]:
        """The tensors that were pushed."""
        from huggingface_hub import hf_hub_download

        at = {"endpoint": self.theirs["hub"], "cache_dir": self.theirs["folder"] / "plain"}
        return load_file(hf_hub_download(repo, "model.safetensors", revision=sha, **at))


def test_the_recipe_of_such_a_run_gives_the_same_bits_again(theirs: Any, photos: Path, tmp_path: Path):
    hub = ("--hub", theirs["hub"])
    done("finetune", photos, "--backbone", "hf:me/plain", "--image-size", 64, *QUICK, *hub, "--out", tmp_path / "one")
    recipe = (tmp_path / "one" / "recipe.toml").read_text()
    assert 'given = "hf:me/plain"' in recipe
    assert theirs["shas"]["me/plain"] in recipe
    done("finetune", "--recipe", tmp_path / "one" / "recipe.toml", *hub, "--out", tmp_path / "two")
    for name in ("model.safetensors", "zoo.json"):
        assert (tmp_path / "one/model" / name).read_bytes() == (tmp_path / "two/model" / name).read_bytes(), name
    recorded = load_bundle(tmp_path / "one" / "model", Registry()).document
    assert "given" not in recorded.base
    assert recorded.input.mean == (0.5, 0.5, 0.5)


def test_a_dry_run_fetches_no_weights(theirs: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    asked = ("finetune", photos, "--backbone", "hf:me/normed", "--strategy", "linear:1", "--measure", 0)
    said = done(*asked, "--hub", theirs["hub"], "--dry-run", "--json").json
    assert said["weights"].startswith("hub repo me/normed at ")
    assert said["weights_cached"] is False
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_folders_files_and_runs_are_starts_too(
    theirs: Any, photos: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = theirs["folder"]
    starts = {
        "saved": ("--backbone", folder / "saved"),
        "file": ("--backbone", "timm/test_resnet.r160_in1k", "--weights", folder / "weights.safetensors"),
        "run": ("--backbone", finished_run),
        "bundle": ("--backbone", finished_run / "model"),
    }
    pushed, trained = load_file(folder / "weights.safetensors"), load_file(finished_run / "model/model.safetensors")
    for name, start in starts.items():
        out = tmp_path / name
        done("finetune", photos, *start, "--image-size", 64, *QUICK, "--out", out)
        text = (out / "model" / "zoo.json").read_text()
        base = json.loads(text)["base"]
        assert set(base) <= {"kind", "sha256", "license", "license_source"}
        assert base["kind"] == "file"
        assert str(folder) not in text + (out / "model" / "README.md").read_text()
        assert str(finished_run) not in text
        found = load_file(out / "model" / "model.safetensors")
        source = trained if name in ("run", "bundle") else pushed
        assert all(torch.equal(found[n], source[n]) for n in source if not n.startswith("fc."))
    spoiled = tmp_path / "spoiled.safetensors"
    shutil.copy(folder / "weights.safetensors", spoiled)
    recipe = tmp_path / "recipe.toml"
    text = (tmp_path / "file" / "recipe.toml").read_text()
    recipe.write_text(text.replace(str(folder / "weights.safetensors"), str(spoiled)))
    save_file({n: t + 1 for n, t in pushed.items()}, spoiled)
    refused = zoo("finetune", "--recipe", recipe, "--out", tmp_path / "other", "--json")
    assert refused.code == 5
    assert "another file" in refused.json["error"]["message"]
    spoiled.unlink()
    assert zoo("finetune", "--recipe", recipe, "--out", tmp_path / "other", "--json").code == 2


def test_a_bundle_on_a_hub_is_a_start_whole_or_as_a_delta(
    photos: Path, probe_run: Path, tmp_path: Path, own_cache: Path
):
    hub = FolderHub(tmp_path / "hub")
    whole = hub.push(probe_run / "model", "me/whole", message="m")
    from zoo_registry import Registry

    from zoo.bundle.delta import write_delta
    from zoo.hub.files import verify_folder

    small = tmp_path / "delta"
    small.mkdir()
    write_delta(probe_run / "model", small, verify_folder(probe_run / "model", "run"), Registry())
    hub.push(small, "me/small", message="m")
    found = {}
    for name in ("whole", "small"):
        asked = ("--backbone", f"hf:me/{name}", *QUICK, "--hub", tmp_path / "hub", "--out", tmp_path / name)
        done("finetune", photos, *asked)
        found[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    assert found["whole"].keys() == found["small"].keys()
    assert all(torch.equal(found["whole"][n], found["small"][n]) for n in found["whole"])
    base = json.loads((tmp_path / "whole" / "model" / "zoo.json").read_text())["base"]
    assert (base["repo"], base["revision"]) == ("me/whole", whole.revision)
    refused = zoo("push", tmp_path / "small", "me/again", "--hub", tmp_path / "hub", "--delta", "--json")
    assert refused.code == 2
    assert "published as a delta" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "code", "words", "hint"),
    [
        (("--backbone", "me/thing"), 2, "unknown backbone 'me/thing'", "hf:me/thing"),
        (("--backbone", "x.safetensors"), 2, "does not say what it is of", "--weights FILE.safetensors"),
        (("--backbone", "resnet18", "--weights", "x.pth"), 2, "may hold code", ".safetensors"),
        (("--backbone", "resnet18", "--weights", "x.safetensors"), 2, "no weights file", "path"),
        (("--weights", "x.safetensors"), 2, "no weights file", "path"),
        (("--backbone", "resnet18", "--weights", "x.safetensors", "--no-pretrained"), 2, "the opposite", "leave one"),
        (("--backbone", "hf:me/none"), 4, "me/none", ""),
        (("--backbone", "hf:not-a-name"), 2, "not-a-name", "owner/name"),
        (("--backbone", "timm/resnet18.nope"), 2, "unknown backbone", "did you mean"),
    ],
)
def test_a_start_that_is_none_is_refused_in_one_line(
    photos: Path, tmp_path: Path, asked: tuple[str, ...], code: int, words: str, hint: str, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub").mkdir()
    refused = zoo("finetune", photos, *asked, "--hub", tmp_path / "hub", "--json")
    error = refused.json["error"]
    assert (refused.code, words in error["message"]) == (code, True), error
    assert hint in (error["hint"] or ""), error
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------- what a stranger may write


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small network; for reading only."""
    return write_model(tmp_path_factory.mktemp("ours") / "bundle", drawn_model("timm/test_resnet.r160_in1k"))


def write_foreign(bundle: Path, folder: Path, **changes: Any) -> Path:
    """A folder as timm saves it, with changes to its ``config.json``; dots are written ``__``."""
    folder.mkdir()
    shutil.copy(bundle / "model.safetensors", folder)
    config = json.loads((bundle / "config.json").read_text())
    for name, value in changes.items():
        *parts, last = name.split("__")
        spot = config
        for part in parts:
            spot = spot.setdefault(part, {})
        spot[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_args__checkpoint_path": "/etc/passwd"}, "checkpoint_path"),
        ({"model_args__pretrained_cfg": {"file": "x"}}, "pretrained_cfg"),
        ({"model_args__layers": [10**9] * 4}, "layers"),
        ({"model_args__act_layer": "../../x"}, "act_layer"),
        ({"num_classes": 10**12}, "num_classes"),
        ({"num_classes": 4}, "different names"),
        ({"label_names": ["a", "a", "b"]}, "different names"),
        ({"pretrained_cfg__input_size": [3, 10**6, 10**6]}, "input_size"),
        ({"pretrained_cfg__std": [0, 0, 0]}, "std"),
        ({"pretrained_cfg__classifier": "layer1.0.conv1"}, "classifier"),
        ({"architecture": "resnet18"}, "classifier is (3, 96)"),
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
    ],
)
def test_what_cannot_be_in_a_config_is_named(ours: Path, tmp_path: Path, changes: dict[str, Any], words: str):
    folder = write_foreign(ours, tmp_path / "theirs", **changes)
    with pytest.raises(IntegrityError) as caught:
        load_model(str(folder), Registry())
    assert words in str(caught.value)
    assert "\n" not in caught.value.message


def test_what_a_config_says_of_files_and_addresses_is_never_followed(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trap = {"url": "http://127.0.0.1:9/x.pth", "hf_hub_id": "evil/x", "file": "/etc/passwd", "custom_load": True}
    changes = {f"pretrained_cfg__{name}": value for name, value in trap.items()}
    folder = write_foreign(ours, tmp_path / "theirs", **changes)

    def refuse(*arguments: Any, **_: Any) -> Any:
        raise AssertionError(f"a socket was opened: {arguments}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    loaded = load_model(str(folder), Registry())
    plain = load_bundle(ours, Registry())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.model.predict(x)["label"], plain.model.predict(x)["label"])
    assert loaded.document.columns[0].classes == CLASSES


def test_weights_with_a_foreign_tensor_a_missing_one_or_nan_are_refused(ours: Path, tmp_path: Path):
    folder = write_foreign(ours, tmp_path / "theirs")
    good = load_file(folder / "model.safetensors")
    name = next(n for n, t in good.items() if t.ndim == 4)
    spoiled = {
        "extra": {**good, "evil.weight": torch.ones(3)},
        "missing": {n: t for n, t in good.items() if n != name},
        "nan": {**good, name: torch.full_like(good[name], float("nan"))},
    }
    for what, tensors in spoiled.items():
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(IntegrityError) as caught:
            load_model(str(folder), Registry())
        assert "\n" not in caught.value.message, what
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(IntegrityError, match=r"pytorch_model\.bin is of a kind that may hold code"):
        load_model(str(folder), Registry())


def test_a_model_of_imagenet_without_names_has_timms(tmp_path: Path):
    made = drawn_model("timm/test_resnet.r160_in1k", classes=tuple(f"c{n}" for n in range(1000)))
    bundle = write_model(tmp_path / "bundle", made)
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copy(bundle / "model.safetensors", folder)
    config = json.loads((bundle / "config.json").read_text())
    del config["label_names"]
    (folder / "config.json").write_text(json.dumps(config))
    classes = load_model(str(folder), Registry()).document.columns[0].classes
    assert len(set(classes)) == 1000
    assert not any(name.isdigit() for name in classes)


def test_model_args_that_change_the_width_are_refused():
    with pytest.raises(UsageError, match="pooled features"):
        drawn_model("timm/test_vit.r160_in1k", backbone_options={"model_args": '{"embed_dim": 32}'})
    with pytest.raises(UsageError, match="model_args holds img_size"):
        drawn_model("timm/test_vit.r160_in1k", backbone_options={"model_args": '{"img_size": 32}'})
