"""The plan of ``zoo finetune --dry-run``: what it says must be what a run does, and it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import tiny_zoo
import torch
from plan_fakes import REGISTRY, look, rows
from zoo_registry import HubError, UsageError
from zoo_runs import done, zoo

import zoo as package
from zoo import finetuning
from zoo.cli import layout
from zoo.cli.preview import group_name, merged_blocks, print_preview, size_words
from zoo.data import open_data
from zoo.planning import make_plan
from zoo.preview import report
from zoo.preview.classes import column_view
from zoo.preview.report import BlockView, Preview
from zoo.training.log import MetricsLog
from zoo.training.loop import train

ROOT = Path(__file__).parents[1]


# ------------------------------------------------------------------ who learns


def test_each_block_says_whether_it_learns():
    found = look("freeze:2,whole:2", batches=0)
    frozen, whole = rows(found, 0), rows(found, 1)
    assert list(frozen) == ["stem", "body", "head"]
    assert [frozen[name].share for name in frozen] == ["none", "none", "all"]
    assert [whole[name].share for name in whole] == ["all", "all", "all"]
    assert [frozen[name].norm_statistics for name in frozen] == ["rest", "rest", None]
    assert whole["stem"].norm_statistics == "move"
    assert frozen["stem"].from_epoch is None
    assert whole["stem"].from_epoch == 0
    model = tiny_zoo.TinyNet(norm=True)
    assert frozen["stem"].parameters == sum(p.numel() for p in model.stem.parameters())
    totals = {"total": sum(p.numel() for p in model.parameters()) + 27, "trainable": 27, "injected": 0}
    assert found.phases[0].parameters == {**totals, "trainable_at_start": 27}


def test_gradual_unfreezing_shows_the_epochs():
    found = look("late:5", batches=0)
    blocks = rows(found)
    assert (blocks["body"].from_epoch, blocks["body"].until_epoch) == (1, None)
    assert (blocks["stem"].from_epoch, blocks["stem"].until_epoch) == (2, 2)
    totals = found.phases[0].parameters
    assert totals["trainable_at_start"] < totals["trainable"] == totals["total"]


def test_what_learns_in_the_plan_is_what_moves_in_a_run(tmp_path: Path):
    for strategy in ("freeze:1", "late:3", "whole:1", "inject:1"):
        asked = tiny_runs.request(None, strategy)
        found = look(strategy, batches=0)
        run = recorded_run(asked, tmp_path / strategy[:4])
        assert found.phases[0].parameters["trainable"] == run["moved"], strategy


def recorded_run(asked, folder: Path) -> dict[str, int]:
    """Train for real and count the parameters that were trainable at any time and changed."""
    plan = make_plan(asked, REGISTRY)
    phases = finetuning.build_phases(plan.recipe, REGISTRY)
    made = finetuning.assemble_recipe(plan.recipe, plan.data, REGISTRY, torch.device("cpu"))
    run = tiny_runs.make_run(phases, plan.data, max_bad=0.0)
    run.model = made.model
    before: dict[str, torch.Tensor] = {}
    moved: dict[str, int] = {}
    reporter = tiny_runs.Reporter()

    def step(*_):
        for name, p in run.model.named_parameters():
            if name in before and not torch.equal(before[name], p):
                moved[name] = p.numel()
            before.setdefault(name, p.detach().clone())

    reporter.begin_phase = lambda *_: step()  # type: ignore[method-assign]
    reporter.step = step  # type: ignore[method-assign]
    train(run, log=MetricsLog(None), checkpoints=None, reporter=reporter)
    return {"moved": sum(moved.values())}


def test_rates_and_decay_come_from_the_owner_of_the_rates():
    found = look("whole+rates:2", batches=0, train={"lr": 0.01, "weight_decay": 0.2, "augment": "light"})
    blocks = rows(found)
    assert blocks["stem"].rate == pytest.approx((1e-4, 1e-4))
    assert blocks["stem"].decay == (0.0, 0.2)  # vectors have none
    assert (blocks["body"].rate, blocks["body"].decay) == (pytest.approx((1e-3, 1e-3)), (0.5, 0.5))
    assert blocks["head"].rate == pytest.approx((1e-2, 1e-2))
    says = {strategy.name: strategy.says for strategy in found.phases[0].strategies}
    assert says["tiny/rates"] == ("slow at the front, 8 steps",)


def test_injected_and_auxiliary_parameters_are_counted():
    found = look("inject:1", batches=1)
    blocks = rows(found)
    assert list(blocks) == ["stem", "body", "head", "judge"]
    assert (blocks["stem"].injected, blocks["stem"].trainable, blocks["stem"].share) == (6, 6, "part")
    assert (blocks["judge"].part, blocks["judge"].parameters, blocks["judge"].share) == ("auxiliary", 18, "all")
    assert found.phases[0].parameters["injected"] == 6 + 18
    assert found.not_measured == ()


def test_a_backbone_without_blocks_is_one_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(tiny_zoo.TinyNet, "blocks")
    assert list(rows(look("whole:1", batches=0))) == ["backbone", "head"]


def test_cached_features_are_said():
    found = look("freeze:2,freeze:2,whole:1", batches=1, train={})
    assert [phase.cached for phase in found.phases] == [True, True, False]
    light = look("freeze:2", batches=0, train={"augment": "light"})
    assert not light.phases[0].cached


# ------------------------------------------------------------------ errors


def test_everything_wrong_with_the_phases_is_said_at_once():
    with pytest.raises(UsageError) as caught:
        look("impossible:1,freeze:1,impossible:2")
    assert caught.value.message.count("no such block") == 2
    assert "phase 1: " in caught.value.message
    assert "phase 3: " in caught.value.message


def test_a_missing_teacher_is_said_and_the_rest_is_shown(monkeypatch: pytest.MonkeyPatch):
    def absent(name, *_, **__):
        raise HubError(f"offline, nobody is asked; {name} is not in the cache")

    monkeypatch.setattr("zoo.models.load_model", absent)
    found = look("whole+taught:2,freeze:1")
    assert rows(found)["stem"].share == "all"
    assert found.phases[0].estimate is None
    assert found.phases[1].estimate is not None
    assert found.seconds is None
    assert any(line.startswith("phase 1: 'me/teacher' is not on this machine") for line in found.not_measured)
    assert "not prepared" in {s.name: s.says for s in found.phases[0].strategies}["tiny/taught"][0]


def test_unreadable_images_are_no_error():
    every = look("whole:1,freeze:1", data={"train": tiny_zoo.Drawn(12, bad=tuple(range(12))), "val": tiny_zoo.Drawn(9)})
    assert every.phases[0].estimate is None
    assert "can be read" in (every.phases[0].not_measured or "")
    assert rows(every)["stem"].share == "all"
    one = look("whole:1", data={"train": tiny_zoo.Drawn(12, bad=(3,)), "val": tiny_zoo.Drawn(9)}, batches=3)
    assert one.phases[0].estimate is not None
    assert any("cannot be read" in note for note in one.notes)


def test_measuring_is_left_out_where_nobody_asks():
    found = look("whole:1", batches=0)
    assert (found.seconds, found.peak_bytes, found.phases[0].estimate) == (None, None, None)
    assert found.not_measured == ("time and memory: not asked for",)


# ------------------------------------------------------------------ data and transforms


def test_classes_come_with_their_counts_and_a_hint_where_some_are_rare():
    class Skewed(tiny_zoo.Drawn):
        def __init__(self, counts):
            super().__init__(sum(counts))
            self.targets = [label for label, count in enumerate(counts) for _ in range(count)]

    found = look("whole:1", data={"train": Skewed([40, 30, 2]), "val": tiny_zoo.Drawn(9)}, batches=0)
    (column,) = found.data["columns"]
    assert column.counts == {"class0": 40, "class1": 30, "class2": 2}
    hints = [note for note in found.notes if "imbalanced" in note]
    assert len(hints) == 1
    assert "40 samples of 'class0' and 2 of 'class2'" in hints[0]
    assert not [note for note in look("whole:1", batches=0).notes if "imbalanced" in note]


def test_columns_of_every_kind(tmp_path: Path):
    from PIL import Image

    lines = ["image,tags,age,kind"]
    for number in range(12):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        tags = "red;blue" if number % 2 else "red"
        lines.append(f"{number}.png,{tags},{number + 0.5},{'' if number == 4 else 'ab'[number % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    data = open_data(tmp_path / "t.csv", label_columns=("tags", "age", "kind"))
    train = data.split("train")
    tags, age, kind = (column_view(column, train) for column in data.columns)
    assert tags.counts["red"] == len(train)
    assert 0 < tags.counts["blue"] < len(train)
    values = train.encoded["age"]
    assert age.range == (values.min(), pytest.approx(values.mean()), values.max())
    assert kind.missing + sum(kind.counts.values()) == len(train)


def test_transforms_are_said_in_words():
    found = look("freeze:1,whole:1,whole:1", batches=0, train={"augment": "medium"})
    assert found.transforms["eval"] == "8 x 8 px: short edge to 8, middle cropped, bicubic"
    assert found.transforms["normalise"] == "3 channels, mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    assert found.phases[0].train_view == ("random crop of 35 to 100 %, aspect 0.75 to 1.33, flipped half of the time")
    strong = look("whole:1", batches=0, train={"augment": "strong"})
    assert "a rectangle erased with probability 0.5" in strong.phases[0].train_view


# ------------------------------------------------------------------ the command


DIGITS = ("finetune", "digits:", "--set", "data.labels_per_class=3", "--device", "cpu", "--dry-run")


def test_the_command_on_a_real_backbone_writes_nothing_and_opens_no_socket(tmp_path: Path, monkeypatch):
    def no_socket(*args, **kwargs):
        raise AssertionError("a socket was opened")

    home = tmp_path / "home"
    home.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setattr(socket.socket, "connect", no_socket)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    monkeypatch.setenv("TMPDIR", str(home))
    monkeypatch.chdir(here)
    strategy = "linear:2,gradual+llrd+l2-sp:4"
    said = done(*DIGITS, "--backbone", "starter/cnn", "--strategy", strategy, "--measure", 1, "--json").json
    hub = done(*DIGITS, "--backbone", "timm/test_vit.r160_in1k", "--strategy", "lora:2", "--measure", 1, "--json").json
    assert list(home.iterdir()) == list(here.iterdir()) == []
    probe, gradual = said["phases"]
    assert probe["cached"]
    assert [block["trainable"] for block in probe["blocks"][:-1]] == [0] * 5
    assert not gradual["cached"]
    blocks = gradual["blocks"]
    begins = [block["from_epoch"] for block in blocks]
    assert begins[-1] == 0
    assert begins == sorted(begins, reverse=True)
    assert len(set(begins)) > 2
    rates = [block["rate"][1] for block in blocks]
    assert rates == sorted(rates)
    assert rates[0] < 0.5 * rates[-1]
    penalty = next(s for s in gradual["strategies"] if s["name"] == "basics/l2-sp")
    assert "pretrained weights" in penalty["says"][0]
    assert said["weights_cached"] is True
    assert hub["weights_cached"] is False
    assert any("not on this machine" in note for note in hub["notes"])
    lora = hub["phases"][0]["parameters"]
    assert 0 < lora["injected"] < lora["trainable"] < 0.4 * lora["total"]
    assert all(block["injected"] == block["trainable"] for block in hub["phases"][0]["blocks"][:-1])
    for phase in (probe, gradual, hub["phases"][0]):
        assert phase["estimate"]["seconds"] > 0
        assert phase["estimate"]["memory"]["peak"] > phase["estimate"]["memory"]["weights"]


def test_the_command_reads_well_in_80_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layout, "width", lambda **_: 80)
    strategy = ("--strategy", "linear:2,gradual+llrd+l2-sp:4", "--lr", 0.0003)
    text = done(*DIGITS, "--backbone", "starter/cnn", *strategy, "--measure", 0).out
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert re.search(r"stem \.\.\. layer4 \(5\) +frozen", text)
    assert re.search(r"head \(linear\) +all +epoch 1 +0\.0003", text)
    assert "computed once and kept; the backbone is not run again" in text
    assert "each phase starts a fresh optimiser" in " ".join(text.split())
    assert text.endswith("dry run: nothing was downloaded, trained or written\n")


def test_measure_is_for_a_dry_run(tmp_path: Path):
    outcome = zoo("finetune", "digits:", "--measure", 1, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "--dry-run" in outcome.err
    assert not (tmp_path / "run").exists()


def test_python_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    asked = {"backbone": "starter/cnn", "strategy": "linear:1", "settings": ["data.labels_per_class=3"]}
    found = package.plan("digits:", **asked, device="cpu", batches=0)
    said = done(*DIGITS, "--backbone", "starter/cnn", "--strategy", "linear:1", "--measure", 0, "--json").json
    ours = json.loads(json.dumps(found.to_json()))
    for value in (ours, said):
        value.pop("available_bytes")
    assert ours == said
    with pytest.raises(TypeError, match="nonsense"):
        package.plan("digits:", nonsense=1)


def test_a_plan_leaves_no_trace_in_random_numbers_or_threads():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    look("whole:1")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


# ------------------------------------------------------------------ JSON and text


def test_the_json_is_plain_and_every_field_is_documented():
    value = json.loads(json.dumps(look("late+rates:3").to_json(), allow_nan=False))
    section = (ROOT / "docs" / "formats.md").read_text().split("## The plan")[1].split("\n## ")[0]
    documented = set(re.findall(r"`([a-z_]+)`", section))
    kinds = (report.Preview, report.PhaseView, report.BlockView, report.StrategyView, report.Estimate, report.Memory)
    fields = {f.name for kind in (*kinds, report.ColumnView) for f in dataclasses.fields(kind)}
    assert fields <= documented
    assert set(value) - {"format", "rule", "estimated"} == {f.name for f in dataclasses.fields(Preview)}
    assert set(value["phases"][0]["estimate"]["memory"]) >= {"peak", "weights", "activations"}


def block(name: str, **values) -> BlockView:
    return BlockView(name=name, part="backbone", parameters=10, trainable=values.pop("trainable", 10), **values)


def test_equal_neighbours_share_a_row():
    wide = [block("stem", trainable=0), *(block(f"blocks.{i}", from_epoch=0, rate=(1e-3, 1e-3)) for i in range(120))]
    groups = merged_blocks(wide)
    assert [group_name(group) for group in groups] == ["stem", "blocks.0-119"]
    assert group_name([block("stem"), block("layer1")]) == "stem ... layer1 (2)"
    graded = [block(f"blocks.{i}", from_epoch=0, rate=(i * 1e-5, i * 1e-5)) for i in range(120)]
    assert [group_name(group) for group in merged_blocks(graded)] == ["blocks.0-119"]
    assert len(merged_blocks(graded[:20])) == 20, "a few rows are all shown"


def test_a_preview_without_anything_measured_prints(capsys: pytest.CaptureFixture[str]):
    print_preview(look("freeze:1,inject:1", batches=0))
    text = capsys.readouterr().out
    assert re.search(r"judge \(auxiliary\) +all", text)
    assert "24 are added by the strategies" in text
    assert "not measured" in text


def test_sizes_in_words():
    assert [size_words(n) for n in (12, 4_500, 79_613_576, 2.4e9)] == ["12 B", "4.5 kB", "79.6 MB", "2.4 GB"]
