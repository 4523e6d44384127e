"""Small results: an adapter beside the weights only where it is true, strategies that do not merge, deltas in files."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import flip, write_manifest
from safetensors.torch import load_file, save_file
from small_forms import LORA, RANK, logits, train
from zoo_registry import IntegrityError, PluginError, Registry, UsageError, ZooError
from zoo_runs import edit_bundle, zoo

from zoo.bundle import delta as deltas
from zoo.bundle.adapter import read_adapter_files
from zoo.bundle.delta import digest, rebuild_whole, write_delta
from zoo.bundle.document import read_document
from zoo.bundle.read import load_bundle, verify_bundle
from zoo.bundle.small import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DELTA
from zoo.hub.files import verify_folder

REGISTRY = Registry()


def document(folder: Path) -> dict[str, Any]:
    """What ``zoo.json`` says."""
    return json.loads((folder / "zoo.json").read_text())


def make(bundle: Path, to: Path, **arguments: Any) -> Path:
    """The bundle's delta in a new folder."""
    to.mkdir()
    write_delta(bundle, to, verify_folder(bundle, "here"), REGISTRY, **arguments)
    return to


def whole(delta: Path, to: Path) -> Path:
    """The delta made whole in a new folder."""
    to.mkdir()
    rebuild_whole(delta, to, verify_folder(delta, "here"), REGISTRY, where="here")
    return to


# ---------------------------------------------------------------- adapter/


def test_lora_leaves_an_adapter_that_plain_peft_loads(lora_run: Path, monkeypatch: pytest.MonkeyPatch):
    import timm

    bundle = lora_run / "model"
    listed = json.loads((bundle / "manifest.json").read_text())["files"]
    assert {ADAPTER_WEIGHTS, ADAPTER_CONFIG} < set(listed)
    said = document(bundle)
    assert (said["format"], said["adapter"]["merged"]) == (1, True)
    assert (said["adapter"]["strategy"], said["adapter"]["method"]) == ("peft/lora", "lora")
    assert said["adapter"]["options"]["rank"] == 8
    card = (bundle / "README.md").read_text()
    code = next(b for b in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "PeftModel" in b)
    found: dict[str, Any] = {}
    exec(code.replace("owner/name", str(bundle)), found)  # the card's own words
    trained = timm.create_model(f"local-dir:{bundle}", pretrained=True, num_classes=0).eval()
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = trained(x)
        torch.testing.assert_close(found["backbone"].eval()(x), expected, rtol=1e-5, atol=1e-5)
        base = timm.create_model("vit_tiny_patch16_224", num_classes=0, **json_arguments(bundle)).eval()
        assert (base(x) - expected).abs().max() > 0.1
    assert "pip install transfer-zoo zoo-starter zoo-basics`" in card  # peft trained it, and loading does without


def json_arguments(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "config.json").read_text())["model_args"]


UNTRUE = {
    "weights that an earlier phase moved": (("full:1,peft/lora:1",), "an earlier phase had changed the backbone"),
    "a random start": (("peft/lora:1", "--no-pretrained"), "random weights"),
    "weights changed after it": (("peft/lora+small/shrink:1",), "the weights were changed after it"),
    "no way to try it": (("small/deaf:1",), "has no apply()"),
}


@pytest.mark.parametrize(("asked", "reason"), UNTRUE.values(), ids=UNTRUE.keys())
@pytest.mark.slow
def test_an_adapter_that_is_not_true_is_left_out_and_said(
    asked: tuple[str, ...], reason: str, photos: Path, tmp_path: Path, small_plugin: Path
):
    strategy, *more = asked
    ran = zoo("finetune", photos, "--backbone", "starter/vit", "--strategy", strategy, *more, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    bundle = tmp_path / "run" / "model"
    assert not (bundle / "adapter").exists()
    assert "adapter" not in document(bundle)
    assert reason in (bundle / "README.md").read_text()
    assert reason in ran.out
    verify_bundle(bundle, Registry())


@pytest.mark.slow
def test_the_adapter_is_there_again_after_a_stop_behind_the_last_step(
    photos: Path, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from zoo import finetuning

    with monkeypatch.context() as patched:
        patched.setattr(finetuning, "write_result", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        asked = ("--backbone", "starter/vit", "--strategy", LORA, *RANK, "--batch-size", 16)
        assert zoo("finetune", photos, *asked, "--out", tmp_path / "run").code == 130
    assert not (tmp_path / "run" / "model").exists()
    assert zoo("finetune", "--resume", "--out", tmp_path / "run").code == 0
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, "model.safetensors", "zoo.json"):
        assert (tmp_path / "run" / "model" / name).read_bytes() == (lora_run / "model" / name).read_bytes(), name


# ---------------------------------------------------------------- strategies that do not merge


@pytest.mark.slow
def test_what_does_not_merge_is_applied_on_loading(shifted: Path, shifted_run: Path, photos: Path):
    import timm

    said = document(shifted)
    assert (said["format"], said["head"]["form"], said["adapter"]["merged"]) == (2, "module", False)
    assert torch.equal(logits(shifted, Registry()), logits(shifted, Registry()))
    assert verify_bundle(shifted, Registry()) < 1e-4
    kept = json.loads((shifted_run / "report.json").read_text())["val"]
    measured = zoo("evaluate", shifted, photos, "--json")
    assert measured.json["metrics"] == pytest.approx(kept["metrics"])
    loaded = load_bundle(shifted, Registry()).model.backbone
    plain = timm.create_model(f"local-dir:{shifted}", pretrained=True).eval()
    assert plain.num_classes == 0  # no logits that could be taken for the model's
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        gap = loaded(x) - plain(x)
    shift = load_file(shifted / ADAPTER_WEIGHTS)["shift"]
    torch.testing.assert_close(gap, shift.expand_as(gap), rtol=1e-4, atol=1e-5)
    assert shift.std() > 0  # it learned
    card = (shifted / "README.md").read_text()
    assert "the zoo applies it" in card
    assert "With timm alone" not in card
    assert "library_name" not in card
    assert "zoo-small`" in card


def test_a_missing_plugin_is_named_with_its_install_line(
    shifted: Path, small_plugin: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(small_plugin)])
    refused = zoo("predict", shifted, shifted / "confusion.png", "--json")
    error = refused.json["error"]
    assert refused.code == 7
    assert "small/shift" in error["message"]
    assert "pip install zoo-small==1.2" in error["hint"]


SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "a strategy that is a path": ({"adapter__strategy": "small/../os"}, "adapter"),
    "a strategy that is a module": ({"adapter__strategy": "os:system"}, "adapter"),
    "a strategy nobody offers": ({"adapter__strategy": "small/none"}, "small/none"),
    "a method that is none": ({"adapter__method": "a b\n"}, "adapter"),
    "an unknown option": ({"adapter__options": {"module": "os"}}, "module"),
    "merged that is no truth": ({"adapter__merged": "no"}, "adapter"),
    "an adapter that is a list": ({"adapter": []}, "adapter"),
    "merged for whom it is not": ({"adapter__merged": True}, "golden"),
}


@pytest.mark.parametrize(("changes", "word"), SPOILT.values(), ids=SPOILT.keys())
def test_a_hostile_adapter_record_is_refused(changes: dict[str, Any], word: str, shifted: Path):
    edit_bundle(shifted, **changes)
    with pytest.raises(ZooError, match=word) as caught:
        verify_bundle(shifted, Registry())
    assert caught.value.exit_code in (5, 7)
    assert "\n" not in caught.value.message


@pytest.mark.slow
def test_a_damaged_adapter_is_refused(shifted: Path):
    def refusal() -> str:
        write_manifest(shifted)
        with pytest.raises(IntegrityError) as caught:
            verify_bundle(shifted, Registry())
        return caught.value.message

    config, weights = shifted / ADAPTER_CONFIG, shifted / ADAPTER_WEIGHTS
    good, tensors = config.read_bytes(), load_file(weights)
    config.write_text("[1]")
    assert "no JSON object" in refusal()
    config.write_text("{")
    assert "not JSON" in refusal()
    config.write_text('{"width": 3}')
    assert "cannot be applied: ValueError: widths differ" in refusal()
    config.write_bytes(good)
    save_file({"shift": tensors["shift"] * float("nan")}, weights)
    assert "NaN" in refusal()
    save_file({"shift": tensors["shift"] * 3}, weights)
    assert "golden" in refusal()
    weights.write_bytes(b"x" * 50)
    assert "no safetensors file" in refusal()
    weights.unlink()
    assert ADAPTER_WEIGHTS in refusal()


WRONG_STRATEGIES = {
    "put first": ("small/shift:1,linear:1", 2, "small/shift does not merge"),
    "two of them": ("small/shift+small/liar:1", 2, "at most one tuning"),
    "one that lies": ("small/liar:1", 1, "small/liar does not give its model back"),
    "one that says nothing": ("small/silent:1", 7, "its delta() returned none"),
}


@pytest.mark.parametrize(("strategy", "code", "message"), WRONG_STRATEGIES.values(), ids=WRONG_STRATEGIES.keys())
def test_a_strategy_that_cannot_stay_a_delta_is_refused(
    strategy: str, code: int, message: str, photos: Path, tmp_path: Path, small_plugin: Path
):
    asked = ("--backbone", "starter/vit", "--strategy", strategy, "--json")
    refused = zoo("finetune", photos, *asked, "--out", tmp_path / "run")
    assert (refused.code, message in refused.json["error"]["message"]) == (code, True), refused.out


# ---------------------------------------------------------------- deltas


def test_a_probe_is_stored_as_its_classifier_and_comes_back_bit_by_bit(probe_run: Path, tmp_path: Path):
    bundle = probe_run / "model"
    small = make(bundle, tmp_path / "small")
    names = {p.relative_to(small).as_posix() for p in small.rglob("*") if p.is_file()}
    assert names == {p.name for p in bundle.iterdir()} - {"model.safetensors"} | {DELTA}
    counters = {n for n in load_file(bundle / "model.safetensors") if n.endswith("num_batches_tracked")}  # no base's
    assert set(load_file(small / DELTA)) == {*document(bundle)["classifier"], *counters}
    said = document(small)
    assert said["format"] == 2
    assert said["delta"]["base"]["kind"] == "package"
    assert said["delta"]["base"]["sha256"] == document(bundle)["base"]["sha256"]
    assert (small / DELTA).stat().st_size < 0.01 * (bundle / "model.safetensors").stat().st_size
    again = whole(small, tmp_path / "again")
    for name in ("model.safetensors", "zoo.json", "config.json", "confusion.png"):
        assert (again / name).read_bytes() == (bundle / name).read_bytes(), name
    assert torch.equal(logits(again), logits(bundle))
    card = (small / "README.md").read_text()
    assert "a delta on `starter/cnn of zoo-starter`" in card
    assert "hf-hub:" not in card
    assert "library_name" not in card


def test_a_delta_is_no_model_before_it_is_made_whole(probe_run: Path, tmp_path: Path):
    small = make(probe_run / "model", tmp_path / "small")
    with pytest.raises(IntegrityError, match="a delta") as caught:
        load_bundle(small, REGISTRY)
    assert "zoo pull" in str(caught.value.hint)


def test_lora_is_stored_as_its_adapter(lora_run: Path, tmp_path: Path):
    bundle = lora_run / "model"
    small = make(bundle, tmp_path / "small")
    said = document(small)["delta"]
    assert len(said["from_adapter"]) == 16  # four linear layers in each of four blocks
    assert set(load_file(small / DELTA)) == set(document(bundle)["classifier"])
    stored = (small / DELTA).stat().st_size + (small / ADAPTER_WEIGHTS).stat().st_size
    assert stored < 0.12 * (bundle / "model.safetensors").stat().st_size
    again = whole(small, tmp_path / "again")
    torch.testing.assert_close(logits(again), logits(bundle), rtol=1e-5, atol=1e-5)
    assert verify_bundle(again, REGISTRY) < 1e-4
    assert "zoo-peft`" in (small / "README.md").read_text()  # here peft is needed
    assert 'subfolder="adapter"' in (small / "README.md").read_text()


def test_a_matrix_that_the_adapter_does_not_give_is_stored(own_lora: Path, tmp_path: Path):
    tensors = load_file(own_lora / ADAPTER_WEIGHTS)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, own_lora / ADAPTER_WEIGHTS)
    write_manifest(own_lora)
    small = make(own_lora, tmp_path / "small")
    assert len(document(small)["delta"]["from_adapter"]) == 15
    assert len(load_file(small / DELTA)) == 3
    torch.testing.assert_close(logits(whole(small, tmp_path / "again")), logits(own_lora), rtol=1e-5, atol=1e-5)


def test_another_machines_rounding_passes_and_another_model_does_not(
    lora_run: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from zoo.models import find_model

    small = make(lora_run / "model", tmp_path / "small")
    apply = deltas.apply_to_base

    def elsewhere(factor: float) -> None:
        def applied(*arguments: Any) -> dict[str, torch.Tensor]:
            return {n: t * factor if t.is_floating_point() else t for n, t in apply(*arguments).items()}

        monkeypatch.setattr(deltas, "apply_to_base", applied)

    elsewhere(1.05)
    with pytest.raises(IntegrityError, match="golden logits"):
        find_model(str(small))
    assert list((own_cache / "zoo" / "whole").iterdir()) == []
    elsewhere(1 + 1e-7)
    assert verify_bundle(find_model(str(small)).path, REGISTRY) < 1e-3


def test_what_does_not_merge_may_be_a_delta_too(shifted: Path, tmp_path: Path):
    registry = Registry()
    small, again = tmp_path / "small", tmp_path / "again"
    small.mkdir()
    again.mkdir()
    write_delta(shifted, small, verify_folder(shifted, "x"), registry)
    assert load_file(small / DELTA) == {}  # the backbone is the base, the head and the adapter have files of their own
    rebuild_whole(small, again, verify_folder(small, "x"), registry, where="x")
    assert torch.equal(logits(again, registry), logits(shifted, registry))


@pytest.mark.slow
def test_a_delta_that_saves_nothing_or_has_no_base_is_refused(finished_run: Path, photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="hardly less") as caught:
        make(finished_run / "model", tmp_path / "small")
    assert "without --delta" in str(caught.value.hint)
    scratch = train(photos, tmp_path / "run", "full:1", "--no-pretrained", backbone="starter/cnn")
    with pytest.raises(UsageError, match="random weights"):
        make(scratch / "model", tmp_path / "none")
    bundle = Path(shutil.copytree(finished_run / "model", tmp_path / "local"))
    edit_bundle(bundle, base={"kind": "file"})
    with pytest.raises(UsageError, match="local file"):
        make(bundle, tmp_path / "neither")


def test_the_digest_sees_everything_but_the_order():
    one, two = torch.arange(6.0), torch.ones(2, 3)
    known = digest([("a", one), ("b", two)])
    assert digest([("b", two), ("a", one)]) == known
    bent = one.clone()
    bent[5] = torch.nextafter(bent[5], torch.tensor(9.0))
    others = [
        [("a", one)],
        [("a", two), ("b", one)],
        [("a", one), ("c", two)],
        [("a", bent), ("b", two)],
        [("a", one.reshape(2, 3)), ("b", two)],
        [("a", one.view(torch.int32)), ("b", two)],
        [("a", one), ("b", -0.0 * two + 1)],
    ]
    found = {digest(rows) for rows in others[:-1]}
    assert len(found | {known}) == 7
    assert digest(others[-1]) == known
    assert digest([("a", bent), ("b", two)], ["a"]) == digest([("a", one), ("b", two)], ["a"]) != known
    assert digest([("a", one.reshape(2, 3)), ("b", two)], ["a"]) != digest([("a", one), ("b", two)], ["a"])


SHA = "0" * 64
COMMIT = "a" * 40
HUB_BASE = {"kind": "hub", "repo": "me/x", "file": "model.safetensors", "revision": COMMIT, "sha256": SHA}
HOSTILE_DELTAS: dict[str, tuple[dict[str, Any], str]] = {
    "a delta that is a list": ({"delta": []}, "delta"),
    "no base": ({"delta__base": None}, "delta.base"),
    "a base of another kind": ({"delta__base": {**HUB_BASE, "kind": "url"}}, "delta.base"),
    "a kind that is a list": ({"delta__base": {**HUB_BASE, "kind": []}}, "delta.base"),
    "a base with more keys": ({"delta__base": {**HUB_BASE, "path": "/etc/passwd"}}, "delta.base"),
    "a repo that is a link": ({"delta__base": {**HUB_BASE, "repo": "http://x/y"}}, "repo name"),
    "a file that climbs": ({"delta__base": {**HUB_BASE, "file": "../../x.safetensors"}}, "safe path"),
    "a pickle": ({"delta__base": {**HUB_BASE, "file": "pytorch_model.bin"}}, "safetensors"),
    "a branch": ({"delta__base": {**HUB_BASE, "revision": "main"}}, "commit"),
    "no hash": ({"delta__base": {**HUB_BASE, "sha256": "x"}}, "sha256"),
    "a package that is code": ({"delta__base__package": "os;x"}, "delta.base"),
    "another package": ({"delta__base__package": "this"}, "does not bring"),
    "another file of the package": ({"delta__base__resource": "weights/vit.safetensors"}, "does not bring"),
    "another version of the package": ({"delta__base__sha256": SHA}, "the installed zoo-starter brings"),
    "names that are none": ({"delta__from_base": [1]}, "list"),
    "a name twice": ({"delta__from_adapter": ["conv1.0.weight"]}, "twice"),
    "an adapter that is not there": ({"delta__from_base": [], "delta__from_adapter": ["conv1.0.weight"]}, "adapter"),
    "a tensor of both": ({"delta__from_base": ["fc.weight"]}, "twice"),
    "a tensor of nobody": ({"delta__from_base": ["x.y"]}, "not in its base"),
    "tensors left out": ({"delta__from_base": ["conv1.0.weight"]}, "do not make the tensors"),
    "another sum": ({"delta__sha256": SHA}, "do not make the tensors"),
}


@pytest.fixture(scope="module")
def probe_delta(probe_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe's delta; for reading only."""
    return make(probe_run / "model", tmp_path_factory.mktemp("deltas") / "probe")


@pytest.mark.parametrize(("changes", "word"), HOSTILE_DELTAS.values(), ids=HOSTILE_DELTAS.keys())
def test_a_hostile_delta_is_refused_in_one_line(changes: dict[str, Any], word: str, probe_delta: Path, tmp_path: Path):
    small = Path(shutil.copytree(probe_delta, tmp_path / "small"))
    edit_bundle(small, **changes)
    before = set(sys.modules)
    with pytest.raises(IntegrityError) as caught:
        whole(small, tmp_path / "again")
    assert word in caught.value.message
    assert "\n" not in caught.value.message
    assert "this" not in set(sys.modules) - before  # a name in the file imports nothing
    assert not (tmp_path / "again" / "manifest.json").exists()


def test_a_damaged_delta_is_refused(probe_run: Path, tmp_path: Path):
    small = make(probe_run / "model", tmp_path / "small")
    flip(small / DELTA)
    with pytest.raises(IntegrityError, match=r"delta\.safetensors"):
        whole(small, tmp_path / "a")
    write_manifest(small)  # whoever lies in the manifest too meets the digest
    with pytest.raises(IntegrityError, match="do not make the tensors"):
        whole(small, tmp_path / "b")
    (small / DELTA).write_bytes(b"\x00" * 20)
    write_manifest(small)
    with pytest.raises(IntegrityError, match="no safetensors"):
        whole(small, tmp_path / "c")
    (small / DELTA).unlink()
    write_manifest(small)
    with pytest.raises(IntegrityError, match="no delta"):
        whole(small, tmp_path / "d")


def test_a_hostile_peft_configuration_chooses_no_code(own_lora: Path, tmp_path: Path):
    small = make(own_lora, tmp_path / "small")
    config = json.loads((small / ADAPTER_CONFIG).read_text())
    for name, value in {"megatron_config": {"a": 1}, "target_modules": "(a+)+$", "auto_mapping": {"x": "os"}}.items():
        (small / ADAPTER_CONFIG).write_text(json.dumps({**config, name: value, "megatron_core": "antigravity"}))
        write_manifest(small)
        with pytest.raises((IntegrityError, PluginError)):
            whole(small, tmp_path / f"again-{name}")
        assert "antigravity" not in sys.modules


def test_the_adapter_reads_back_as_it_was_written(lora_run: Path):
    bundle = lora_run / "model"
    said = read_document(bundle / "zoo.json", where="here")
    found = read_adapter_files(said, bundle, frozenset(verify_folder(bundle, "here")), "here")
    assert found.method == "lora"
    assert found.config["r"] == 8
    assert set(found.tensors) == set(load_file(bundle / ADAPTER_WEIGHTS))
