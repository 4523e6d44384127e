"""Plain timm, transformers, peft and huggingface_hub load what the zoo pushed: same weights, logits, labels, pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import client_env, run_python
from interop import METRICS, drawn_model, photo_files, say, write_job, write_model
from zoo_registry import Registry
from zoo_runs import CLASSES
from zoo_timm.features import pyramid_levels

from zoo.bundle.read import load_bundle

MODES = {"plain": {}, "cdn": {"cdn": True}, "xet": {"xet": True}}
LINEAR = "timm/test_resnet.r160_in1k"
ATTENTION = "timm/test_vit.r160_in1k"
NORMED = "timm/test_convnext.r160_in1k"  # the classifier stands behind a norm
CONVOLUTION = "timm/resnetv2_18.ra4_e3600_r224_in1k"  # the classifier is a 1x1 convolution
SEVERAL = "timm/deit_tiny_distilled_patch16_224.fb_in1k"  # two classifiers: the head goes beside the backbone
NONE = "timm/vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"  # published without a classifier

CLIENT = """
import json, subprocess, sys, traceback
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text())
from zoo.hub import open_hub

hub, revisions = open_hub(), {}
for row in job["repos"]:
    revisions[row["repo"]] = hub.push(Path(row["bundle"]), row["repo"], message="first", private=False).revision

import timm, torch
from PIL import Image
from safetensors.torch import load_file
torch.set_num_threads(1)
answers = {}


def off(found, wanted):
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))


def same(state, weights, without=()):
    kept = {n: t for n, t in state.items() if not n.startswith(tuple(without) or ("//",))}
    return all(n in weights and torch.equal(t, weights[n]) for n, t in kept.items()) and len(kept) > 5


def by_timm(row, told):
    name, pinned = "hf-hub:" + row["repo"], "hf-hub:" + row["repo"] + "@" + revisions[row["repo"]]
    weights, x = load_file(row["bundle"] + "/model.safetensors"), told["x"]
    out = {}
    with torch.inference_mode():
        model = timm.create_model(pinned, pretrained=True).eval()
        out["classes"] = model.num_classes
        out["labels"] = model.pretrained_cfg.get("label_names")
        wanted = told["logits"] if row["folded"] else told["features"]
        out["timm"] = off(model(x), wanted)
        out["strict"] = model.state_dict().keys() == weights.keys() and same(model.state_dict(), weights)
        local = timm.create_model("local-dir:" + row["bundle"], pretrained=True).eval()
        out["local"] = off(local(x), wanted)
        bare = timm.create_model(name, pretrained=True, num_classes=0).eval()
        out["bare"] = off(bare(x), told["features"])
        other = timm.create_model(name, pretrained=True, num_classes=5).eval()
        out["other"] = [list(other(x).shape), same(bare.state_dict(), weights), other.pretrained_cfg["label_names"]]
        if "level0" in told:
            every = list(range(sum(key.startswith("level") for key in told)))  # by itself a ViT gives its last three
            picked = row["levels"] or every
            maps = timm.create_model(name, pretrained=True, features_only=True, out_indices=picked).eval()(x)
            wanted = [told[f"level{n}"] for n in range(len(maps))]
            out["levels"] = [off(m, w) for m, w in zip(maps, wanted, strict=True)]
        config = timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg)
        transform = timm.data.create_transform(**config, is_training=False)
        out["seen by timm"] = [
            off(transform(Image.open(f).convert("RGB"))[None], told[f"fed.{n}"])
            if transform(Image.open(f).convert("RGB"))[None].shape == told[f"fed.{n}"].shape else None
            for n, f in enumerate(job["files"])
        ]
    return out


def by_transformers(row, told):
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
    from PIL import ImageOps
    out, repo = {}, row["repo"]
    with torch.inference_mode():
        processor = AutoImageProcessor.from_pretrained(repo)
        turned = [ImageOps.exif_transpose(Image.open(f)).convert("RGB") for f in job["files"]]
        given = [processor(image, return_tensors="pt")["pixel_values"] for image in turned]
        out["pixels"] = [off(pixels, told[f"fed.{n}"]) for n, pixels in enumerate(given)]
        plain = processor(Image.open(job["files"][1]).convert("RGB"), return_tensors="pt")["pixel_values"]
        out["unturned"] = off(plain, told["fed.1"])
        if not row["folded"]:
            model = AutoModel.from_pretrained(repo).eval()
            out["features"] = off(model(told["x"]).pooler_output, told["features"])
            return out
        model = AutoModelForImageClassification.from_pretrained(repo, revision=revisions[repo]).eval()
        out["logits"] = off(model(told["x"]).logits, told["logits"])
        out["labels"] = [model.config.id2label[n] for n in range(len(model.config.id2label))]
        out["problem"] = model.config.problem_type
        classify = pipeline("image-classification", model=repo)
        rows = [classify(f, top_k=None) for f in job["files"]]
        out["pipeline"] = [{r["label"]: r["score"] for r in found} for found in rows]
    return out


for row in job["repos"]:
    told, answer = load_file(row["told"]), {}
    for name, ask in (("timm", by_timm), ("transformers", by_transformers)):
        try:
            answer[name] = ask(row, told)
        except Exception:
            answer["failed"] = name + ": " + traceback.format_exc()
    answers[row["repo"]] = answer

if "adapter" in job:
    from peft import PeftModel
    row, told = job["adapter"], load_file(job["adapter"]["told"])
    from importlib.resources import files
    base = str(files(row["package"]) / row["resource"])
    backbone = timm.create_model(
        row["architecture"], pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": base}, **row["arguments"]
    )
    bare = {n: t.clone() for n, t in backbone.state_dict().items()}
    model = PeftModel.from_pretrained(backbone, row["repo"], subfolder="adapter").eval()
    with torch.inference_mode():
        answers["adapter"] = {"applied": off(model(told["x"]), told["features"])}
        merged = model.merge_and_unload().eval()
        answers["adapter"]["merged"] = off(merged(told["x"]), told["features"])
        plain = timm.create_model("hf-hub:" + row["repo"], pretrained=True, num_classes=0).state_dict()
        answers["adapter"]["moved"] = max(off(plain[n], t) for n, t in bare.items() if t.is_floating_point())
        state = merged.state_dict()
        answers["adapter"]["weights"] = max(off(state[n], t) for n, t in plain.items() if t.is_floating_point())

from huggingface_hub import HfApi, ModelCard
api, first = HfApi(), job["repos"][0]["repo"]
card = ModelCard.load(first)
at = {"revision": revisions[first], "local_dir": job["repos"][0]["bundle"]}
answers["hub"] = {
    "tagged": sorted(m.id for m in api.list_models(filter="zoo")),
    "library": sorted(m.id for m in api.list_models(filter="timm")),
    "results": [[r.dataset_split, r.metric_type, r.metric_value] for r in card.data.eval_results],
    "card": {k: card.data.get(k) for k in ("license", "library_name", "pipeline_tag", "tags")},
    "sha": api.model_info(first).sha == revisions[first],
    "mismatches": len(api.verify_repo_checksums(first, **at).mismatches),
}
command = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", first, "--local-dir", job["copy"]]
done = subprocess.run(command, capture_output=True, text=True)
assert done.returncode == 0, done.stderr
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, lora_run: Path, finished_run: Path) -> dict[str, Any]:
    """Repo -> bundle: one architecture of each kind of classifier, one head beside the backbone, trained ones."""
    root = tmp_path_factory.mktemp("bundles")
    made = {
        "me/linear": drawn_model(LINEAR),
        "me/attention": drawn_model(ATTENTION),
        "me/normed": drawn_model(NORMED),
        "me/convolution": drawn_model(CONVOLUTION, backbone_options={"model_args": '{"layers": [1, 1, 1, 1]}'}),
        "me/several": drawn_model(SEVERAL),
        "me/none": drawn_model(NONE, backbone_options={"model_args": '{"depth": 3}'}),
        "me/beside": drawn_model(LINEAR, "basics/mlp"),
        "me/labels": drawn_model(LINEAR, "basics/multilabel", kind="multilabel"),
    }
    found = {repo: write_model(root / repo.partition("/")[2], model) for repo, model in made.items()}
    found |= {"me/lora": lora_run / "model", "me/trained": finished_run / "model"}
    files = photo_files(root / "photos")
    told = {repo: say(path, files, told_file(root, path)) for repo, path in found.items()}
    return {"root": root, "paths": found, "files": files, "told": told}


def told_file(root: Path, bundle: Path) -> Path:
    """Where it is written what the zoo says of a bundle."""
    return root / f"{bundle.parent.name}-{bundle.name}.safetensors"


def job_of(bundles: dict[str, Any], copy: Path) -> dict[str, Any]:
    """What the client is told of them."""
    rows = []
    for repo, path in bundles["paths"].items():
        folded = json.loads((path / "zoo.json").read_text())["head"]["form"] == "folded"
        told = told_file(bundles["root"], path)
        levels = pyramid_levels(load_bundle(path, Registry()).model.backbone.model)
        rows.append({"repo": repo, "bundle": path, "folded": folded, "told": told, "levels": levels})
    document = json.loads((bundles["paths"]["me/lora"] / "zoo.json").read_text())
    config = json.loads((bundles["paths"]["me/lora"] / "config.json").read_text())
    lora = next(row for row in rows if row["repo"] == "me/lora")
    adapter = {
        "repo": "me/lora", "told": lora["told"], "architecture": config["architecture"],
        "arguments": config.get("model_args", {}), **{k: document["base"][k] for k in ("package", "resource")},
    }  # fmt: skip
    return {"repos": rows, "files": bundles["files"], "adapter": adapter, "copy": copy}


@pytest.mark.parametrize("mode", ["plain", *(pytest.param(m, marks=pytest.mark.slow) for m in ("cdn", "xet"))])
@pytest.mark.slow
def test_the_real_clients_load_every_kind_of_bundle(loopback: Any, bundles: dict[str, Any], tmp_path: Path, mode: str):
    server = loopback(**MODES[mode])
    job = job_of(bundles, tmp_path / "copy")
    out = run_python(CLIENT, write_job(tmp_path / "job.json", **job), env=client_env(server, tmp_path / "home"))
    answers = json.loads(out.splitlines()[-1])
    (tmp_path / "answers.json").write_text(json.dumps(answers, indent=1))
    failed = {repo: answer["failed"] for repo, answer in answers.items() if "failed" in answer}
    assert not failed, "\n".join(f"{repo}: {why}" for repo, why in failed.items())
    for row in job["repos"]:
        check_timm(answers[row["repo"]]["timm"], row)
        check_transformers(answers[row["repo"]]["transformers"], row, bundles["told"][row["repo"]])
    adapter = answers["adapter"]
    assert max(adapter["applied"], adapter["merged"], adapter["weights"]) < 1e-5
    assert adapter["moved"] > 1e-3  # the adapter does something
    check_hub(answers["hub"], job)
    copied = {p.relative_to(job["copy"]).as_posix() for p in job["copy"].rglob("*") if p.is_file()}
    first = job["repos"][0]["bundle"]
    assert {n for n in copied if not n.startswith(".cache")} >= {p.name for p in first.iterdir()}
    assert load_bundle(job["copy"], Registry()).document == load_bundle(first, Registry()).document
    if mode == "cdn":
        assert any(r["cdn"] for r in server.log("resolve") if r["target"] == "model.safetensors")
    assert bool(server.log("xet")) == (mode == "xet")


def check_timm(found: dict[str, Any], row: dict[str, Any]) -> None:
    """Same weights bit by bit, same logits, class names kept, and what timm makes of the backbone in other ways."""
    repo = row["repo"]
    assert found["timm"] <= 1e-6, repo
    assert found["local"] <= 1e-6, repo
    assert found["strict"], repo
    assert found["classes"] == (len(CLASSES) if row["folded"] else 0), repo
    assert found["labels"] == list(CLASSES), repo
    assert found["bare"] <= 1e-6, repo
    shape, backbone, labels = found["other"]
    assert shape == [2, 5], repo
    assert backbone, repo
    assert labels == list(CLASSES), repo
    assert all(level <= 1e-5 for level in found.get("levels", [0])), (repo, found["levels"])
    upright = [found["seen by timm"][n] for n in (0, 2)]
    assert all(difference is None or difference == 0 for difference in upright), repo
    assert found["seen by timm"][1] is None or found["seen by timm"][1] > 0.1, repo  # timm does not turn photographs


def check_transformers(found: dict[str, Any], row: dict[str, Any], told: dict[str, torch.Tensor]) -> None:
    """Same pixels (of a photograph turned as its EXIF says), same logits, same labels; the pipeline turns by itself."""
    repo = row["repo"]
    assert max(found["pixels"]) <= 1e-6, repo
    assert found["unturned"] > 0.1, repo
    if not row["folded"]:
        assert found["features"] <= 1e-6, repo
        return
    assert found["logits"] <= 1e-6, repo
    assert found["labels"] == list(CLASSES), repo
    several = repo == "me/labels"
    assert found["problem"] == ("multi_label_classification" if several else "single_label_classification"), repo
    for number, scores in enumerate(found["pipeline"]):
        logits = told[f"said.{number}"][0]
        wanted = logits.sigmoid() if several else logits.softmax(0)
        assert scores == pytest.approx(dict(zip(CLASSES, wanted.tolist(), strict=True)), abs=1e-5), repo


def check_hub(found: dict[str, Any], job: dict[str, Any]) -> None:
    """Card, tags, eval results, checksums."""
    repos = sorted(row["repo"] for row in job["repos"])
    assert found["tagged"] == repos
    assert found["library"] == repos
    assert sorted(map(tuple, found["results"])) == sorted(
        (split, name, value) for split, metrics in METRICS.items() for name, value in metrics.items()
    )
    assert found["card"]["pipeline_tag"] == "image-classification"
    assert found["card"]["library_name"] == "timm"
    assert {"zoo", "image-classification"} <= set(found["card"]["tags"])
    assert found["sha"]
    assert found["mismatches"] == 0


HEADS = [e.name for e in Registry().entries("head") if "classification" in e.spec.tasks]
OPTIONS = {"basics/ordinal": {"head_options": {"order": CLASSES}}}
EVERYDAY = ("basics/linear", "basics/mlp", "basics/prototype", "basics/attention")


@pytest.mark.parametrize("head", [pytest.param(h, marks=() if h in EVERYDAY else pytest.mark.slow) for h in HEADS])
def test_under_every_head_timm_gets_the_backbone_bit_by_bit(head: str, tmp_path: Path):
    import timm

    bundle = write_model(tmp_path / "bundle", drawn_model(LINEAR, head, **OPTIONS.get(head, {})))
    told = say(bundle, [], tmp_path / "told.safetensors")
    document = json.loads((bundle / "zoo.json").read_text())
    with torch.inference_mode():
        model = timm.create_model(f"local-dir:{bundle}", pretrained=True).eval()
        folded = document["head"]["form"] == "folded"
        assert model.num_classes == (len(CLASSES) if folded else 0)
        if folded:
            torch.testing.assert_close(model(told["x"]), told["logits"], rtol=1e-5, atol=1e-5)
        bare = timm.create_model(f"local-dir:{bundle}", pretrained=True, num_classes=0).eval()
        assert bare(told["x"]).shape == (2, 96)
        if document["backbone"]["features"] == "pooled":
            torch.testing.assert_close(bare(told["x"]), told["features"], rtol=1e-6, atol=1e-6)
