"""zoo-timm's catalogue: complete, honest, cheap to read, and right for the installed timm."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from zoo_registry import BackboneSpec, PluginError
from zoo_timm import catalogue, generating, measuring, refresh

SPECS = {spec.name: spec for spec in catalogue.read_catalogue()}
GENERATOR = Path(__file__).parents[1] / "plugins" / "zoo-timm" / "generate_catalogue.py"


def generator():
    found = importlib.util.spec_from_file_location("generate_catalogue", GENERATOR)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_pretrained_tag_and_every_architecture_is_listed():
    assert set(timm.list_models(pretrained=True)) <= set(SPECS)
    assert set(timm.list_models()) == {spec.extra["architecture"] for spec in SPECS.values()}


def test_the_check_of_the_generator_passes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generate_catalogue.py", "--check"])
    assert generator().main() == 0
    assert "fits" in capsys.readouterr().out


def test_the_check_finds_drift():
    data = json.loads(catalogue.PATH.read_text())
    index = data["name"].index("resnet18.a1_in1k")
    data["license"][index] = None
    data["name"][data["name"].index("resnet34.a1_in1k")] = "resnet34.gone"
    problems = generating.drift(data)
    assert "resnet18.a1_in1k: license None in the catalogue, apache-2.0 in timm" in problems
    assert "resnet34.a1_in1k: not in the catalogue" in problems
    assert "resnet34.gone: not in timm" in problems
    assert len(problems) == 3


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "mobilenetv3_small_050.lamb_in1k", "test_mambaout"])
def test_rows_are_what_measuring_gives(name):
    found = measuring.measure(name)
    spec = SPECS[name]
    assert dict(spec.features) == {k: tuple(w) if isinstance(w, list) else w for k, w in found.widths.items()}
    assert spec.parameters == found.parameters
    assert spec.capabilities - {"native_head"} == set(found.capabilities)


def test_rows_pass_the_checks_of_their_type():
    for spec in SPECS.values():
        fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(BackboneSpec)}
        assert BackboneSpec(**fields) == spec
        if spec.weights is not None:
            assert dataclasses.replace(spec.weights) == spec.weights
        assert all(dataclasses.replace(fact) == fact for fact in spec.facts[:1])
        assert "pooled" in spec.features or spec.extra["architecture"].endswith("_enc")  # encoders for language models
        assert "blocks" in spec.capabilities


def test_a_bare_architecture_is_the_alias_of_its_default_tag():
    assert SPECS["resnet18.a1_in1k"].aliases == ("resnet18",)
    aliases = [alias for spec in SPECS.values() for alias in spec.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(SPECS)
    for name in ("resnet18", "vit_base_patch16_224", "convnext_tiny"):
        [spec] = [s for s in SPECS.values() if name in s.aliases]
        assert timm.get_pretrained_cfg(name).tag == spec.extra["tag"]


def test_where_weights_lie():
    hub = SPECS["resnet18.a1_in1k"].weights
    assert (hub.where, hub.repo, hub.file) == ("hub", "timm/resnet18.a1_in1k", "model.safetensors")
    assert SPECS["cspnext_tiny.rsb_a1_in1k"].weights.repo == "munehiro-k/cspnext_tiny.rsb_a1_in1k"
    url = SPECS["vit_huge_patch14_gap_224.in1k_ijepa"].weights
    assert url.where == "none"
    assert "ijepa/IN1K-vit.h.14-300e.pth.tar" in url.unsafe
    assert SPECS["test_mambaout"].weights is None


def test_licences_are_timms_and_never_guessed():
    assert SPECS["resnet18.a1_in1k"].weights.license == "apache-2.0"
    assert SPECS["convnextv2_base.fcmae"].weights.license == "cc-by-nc-4.0"
    for spec in SPECS.values():
        if spec.weights is not None:
            stated = timm.get_pretrained_cfg(spec.name).license
            assert spec.weights.license == (None if stated == "unknown" else stated)
            assert (spec.weights.license_source is None) == (spec.weights.license is None)


@pytest.mark.parametrize(
    "name",
    [
        "deit_base_distilled_patch16_224.fb_in1k",
        "efficientformer_l1.snap_dist_in1k",
        "efficientformerv2_s0.snap_dist_in1k",
        "levit_128.fb_dist_in1k",
        "repvit_m1.dist_in1k",
        "volo_d1_224.sail_in1k",
        "vit_base_patch16_siglip_224.webli",
        "vit_small_patch16_dinov3.lvd1689m",
        "vit_small_patch14_dinov2.lvd142m",
        "crossvit_9_240.in1k",
        "caformer_s18.sail_in1k",
    ],
)
def test_no_plain_classifier_where_there_is_none(name):
    assert not SPECS[name].capabilities & {"classifier", "native_head"}


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "vit_base_patch16_224.augreg_in21k", "dpn68.mx_in1k"])
def test_a_plain_classifier_where_there_is_one(name):
    assert {"classifier", "native_head", "in_chans", "image_size"} <= SPECS[name].capabilities


def test_a_projection_is_no_native_head():
    able = SPECS["vit_base_patch16_clip_224.openai"].capabilities
    assert "classifier" in able
    assert "native_head" not in able


def test_facts_name_their_source_and_size():
    spec = SPECS["resnet50.a1_in1k"]
    assert spec.fact("imagenet_top1") == 80.382
    assert spec.fact("cpu_images_per_second") == 67.2
    assert spec.fact("gpu_images_per_second") == 4302.84
    [fact] = [f for f in spec.facts if f.name == "imagenet_top1"]
    assert fact.source == "timm results/results-imagenet.csv of 2026-08-08, 224 px"
    assert len({f.name for f in spec.facts}) == len(spec.facts) == 9
    assert sum(bool(s.facts) for s in SPECS.values()) > 1500


def test_the_first_choice_is_free_small_and_exportable():
    ranked = sorted((s for s in SPECS.values() if s.recommended), key=lambda s: -s.recommended)
    assert len({s.recommended for s in ranked}) == len(ranked) == len(generating.RECOMMENDED)
    assert all(s.weights.license in ("apache-2.0", "mit", "bsd-3-clause") for s in ranked)
    assert {"classifier", "image_size", "blocks"} <= ranked[0].capabilities
    assert ranked[0].parameters < 30e6


def test_hooks_import_neither_torch_nor_timm():
    code = (
        "import sys, zoo_timm; zoo_timm.zoo_plugin(); rows = zoo_timm.zoo_backbones();"
        "print(len(rows), sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(SPECS)), "[]"]


def test_the_catalogue_is_small_and_columns_are_equally_long():
    assert catalogue.PATH.stat().st_size < 1_000_000
    data = json.loads(catalogue.PATH.read_text())
    assert {len(data[key]) for key in catalogue.COLUMNS} == {len(SPECS)}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}'])
def test_a_damaged_catalogue_is_one_clear_error(content, tmp_path):
    path = tmp_path / "catalogue.json"
    path.write_bytes(content)
    with pytest.raises(PluginError, match="the timm catalogue"):
        catalogue.load(path)


def test_a_newer_timm_is_refreshed_into_the_users_cache(tmp_path, monkeypatch):
    missing = "test_resnet.r160_in1k"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shortened = tmp_path / "shipped.json"
    shortened.write_text(json.dumps(without(json.loads(catalogue.PATH.read_text()), missing)))
    monkeypatch.setattr(catalogue, "PATH", shortened)
    monkeypatch.setattr(refresh, "PATH", shortened)
    assert missing not in {spec.name for spec in catalogue.read_catalogue()}
    path, count = refresh.refresh()
    assert (path, count) == (tmp_path / "zoo-timm" / f"timm-{timm.__version__}.json", 1)
    [found] = [spec for spec in catalogue.read_catalogue() if spec.name == missing]
    assert found == dataclasses.replace(SPECS[missing], facts=())
    (tmp_path / "zoo-timm" / f"timm-{timm.__version__}.json").rename(tmp_path / "zoo-timm" / "timm-0.9.0.json")
    assert missing not in {spec.name for spec in catalogue.read_catalogue()}


def test_nothing_to_refresh_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert refresh.refresh() == (None, 0)
    assert not list(tmp_path.rglob("*.json"))


def test_the_generator_survives_a_dying_worker_and_goes_on(tmp_path, monkeypatch):
    module = generator()
    log = tmp_path / "measured.jsonl"
    log.write_text(json.dumps({"started": "resnet18"}) + "\n")  # a worker died here
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, -11))
    rows = module.measure_all(tmp_path, ["resnet18"])
    assert rows == {"resnet18": {"name": "resnet18", "failed": "the process ended with -11"}}


def test_measuring_needs_no_memory_for_weights():
    with torch.device("meta"):
        probe = measuring.Probe("test_vit", "meta")
        assert all(p.is_meta for p in probe.create().parameters())


def without(data: dict, name: str) -> dict:
    """The catalogue without one row and without facts."""
    index = data["name"].index(name)
    for key in catalogue.COLUMNS:
        del data[key][index]
    return {**data, "facts": {}}
