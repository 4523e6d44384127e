"""The real timm and huggingface_hub clients pull what the zoo pushed, in every way a hub moves bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hub_fixtures import CARD, client_env, run_python, write_manifest
from safetensors.torch import save_file

LABELS = ["cat", "dog", "emu", "fox"]
MODES = {"plain": {}, "cdn": {"cdn": True}, "xet": {"xet": True}}

CLIENT = """
import logging, sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from zoo.hub import open_hub

folder, out, revision = Path(sys.argv[1]), Path(sys.argv[2]), None
hub = open_hub()
first = hub.push(folder, "me/animals", message="first")

import timm

model = timm.create_model("hf-hub:me/animals@" + first.revision, pretrained=True).eval()
image = load_file(folder.parent / "image.safetensors")["image"]
with torch.inference_mode():
    torch.save({"logits": model(image), "labels": model.pretrained_cfg["label_names"]}, out)
features = timm.create_model("hf-hub:me/animals", pretrained=True, num_classes=0)
assert features.num_classes == 0
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A tiny network in timm's own form, its input and its logits beside it."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=len(LABELS)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("timm") / "model"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"input_size": [3, 160, 160], "num_classes": len(LABELS), "first_conv": "conv1.0", "classifier": "fc"}
    config |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "crop_pct": 0.95}
    document = {"architecture": "test_resnet", "num_classes": len(LABELS), "label_names": LABELS}
    (folder / "config.json").write_text(json.dumps({**document, "pretrained_cfg": config}))
    (folder / "README.md").write_text(CARD)
    write_manifest(folder)
    image = torch.randn(2, 3, 64, 64)
    save_file({"image": image}, folder.parent / "image.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the client has it: equal bits want equal sums
    with torch.inference_mode():
        save_file({"logits": model(image)}, folder.parent / "logits.safetensors")
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_timm_pulls_what_was_pushed_with_equal_logits(loopback, published, tmp_path, mode):
    from safetensors.torch import load_file

    server = loopback(**MODES[mode])
    run_python(CLIENT, published, tmp_path / "out.pt", env=client_env(server, tmp_path / "home"))
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = load_file(published.parent / "logits.safetensors")["logits"]
    assert expected.std() > 0
    torch.testing.assert_close(found["logits"], expected, rtol=0, atol=0)
    assert found["labels"] == LABELS
    moved = {row["cdn"] for row in server.log("resolve") if row["target"] == "model.safetensors"}
    assert moved == {"plain": {False}, "cdn": {True}, "xet": set()}[mode]  # each way was really taken
    assert bool(server.log("xet")) == (mode == "xet")
    agents = {row["ua"] or "" for row in server.log()}
    assert any("timm/" in agent for agent in agents)
    assert any("transfer-zoo" in agent for agent in agents)


DOWNLOAD = """
import sys
from pathlib import Path
from huggingface_hub import HfApi, ModelCard, snapshot_download
from zoo.hub import open_hub

pushed = open_hub().push(Path(sys.argv[1]), "me/animals", message="first", private=False)
folder = Path(snapshot_download("me/animals", local_dir=sys.argv[2]))
card = ModelCard.load("me/animals")
assert card.data.base_model == "timm/test_resnet.r160_in1k", card.data
assert [m.id for m in HfApi().list_models(filter="zoo")] == ["me/animals"]
checked = HfApi().verify_repo_checksums("me/animals", local_dir=sys.argv[2])
print(pushed.revision == HfApi().model_info("me/animals").sha, len(checked.mismatches))
"""


def test_huggingface_hub_reads_what_was_pushed(loopback, published, tmp_path):
    from zoo.hub.files import verify_folder

    server = loopback()
    out = run_python(DOWNLOAD, published, tmp_path / "copy", env=client_env(server, tmp_path / "home"))
    assert out.split() == ["True", "0"]
    verify_folder(tmp_path / "copy", "the copy")
