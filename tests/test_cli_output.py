"""What the commands print: public JSON, help with examples, tables for people, and generated pages without drift."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from zoo_runs import CLASSES, done, zoo

from zoo.bundle.verify import Checked
from zoo.cli.main import COMMANDS, cli
from zoo.cli.output import one_line, short_number, table
from zoo.cli.progress import BarReporter, LineReporter, duration
from zoo.patterns import matches

ROOT = Path(__file__).parent.parent


def commands() -> dict[str, click.Command]:
    """Every command by its words."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {part}": child for part, child in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("words", commands())
def test_every_command_has_an_example_that_parses_and_speaks_json(words: str):
    command = commands()[words]
    text = zoo(*words.split(), "--help").out
    lines = text.split("Example:")[1].splitlines()
    examples = [line.strip() for line in lines[1:5] if " zoo " in f" {line.strip()}"]
    assert examples, text
    assert any(words in example for example in examples)
    assert "--json" in text
    options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    for example in examples:
        for flag in re.findall(r"(?<!\S)--[a-z-]+", example):
            assert flag in options or f"zoo {words}" not in example, f"{flag} in {example!r}"


def test_the_pages_of_the_commands_are_what_help_says():
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.drift() == [], "run: python docs/generate_cli.py"


def test_the_top_help_lists_every_command_and_the_exit_codes():
    text = zoo("--help").out
    assert all(f"\n  {name}" in text for name in COMMANDS)
    assert "Exit codes: 0 done" in text
    assert zoo("--version").out.startswith("zoo, version ")
    assert zoo().code == 2


# ------------------------------------------------------------------ JSON


def test_json_of_list():
    rows = done("list", "backbones", "starter/", "--json").json
    assert {row["name"] for row in rows} == {"starter/cnn", "starter/vit"}
    wanted = {"name", "kind", "summary", "deprecated", "family", "parameters", "features", "input", "size", "weights"}
    wanted |= {"license", "capabilities", "recommended", "facts"}
    assert set(rows[0]) == wanted
    heads = done("list", "heads", "--json").json
    assert {"name", "kind", "summary", "deprecated", "tasks", "features", "gradient"} == set(heads[0])
    strategies = done("list", "strategies", "--role", "tuning", "--json").json
    assert {row["role"] for row in strategies} == {"tuning"}
    plugins = done("list", "plugins", "--json").json
    assert {row["status"] for row in plugins} <= {"ok", "broken", "disabled"}
    assert zoo("list", "backbones", "no-such-thing", "--json").json == []


def test_filters_and_order_of_list():
    small = done("list", "backbones", "--max-parameters", 2, "--sort", "parameters", "--json").json
    sizes = [row["parameters"] for row in small]
    assert sizes == sorted(sizes)
    assert all(size <= 2e6 for size in sizes)
    best = done("list", "backbones", "--sort", "accuracy", "--limit", 5, "--json").json
    tops = [row["facts"]["imagenet_top1"] for row in best]
    assert tops == sorted(tops, reverse=True)
    assert len(best) == 5
    assert {row["weights"] for row in done("list", "--weights", "installed", "--json").json} == {"package"}
    assert all("blocks" in row["capabilities"] for row in done("list", "--capability", "blocks", "--json").json)
    licensed = done("list", "--license", "cc-by-nc-4.0", "--json").json
    assert {row["license"] for row in licensed} <= {"cc-by-nc-4.0"}
    assert [row["name"] for row in done("list", "starter/*", "--json").json] == ["starter/cnn", "starter/vit"]
    assert {row["family"] for row in done("list", "--family", "resnet", "--json").json} == {"resnet"}


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("timm/resnet18.a1", None, True),
        ("timm/resnet18.a1", "net18", True),
        ("timm/resnet18.a1", "resnet*", True),
        ("timm/resnet18.a1", "timm/*", True),
        ("timm/resnet18.a1", "*18", False),
        ("timm/resnet18.a1", "vit", False),
    ],
)
def test_a_pattern_is_a_part_of_the_name_or_a_glob(name: str, pattern: str | None, expected: bool):
    assert matches(name, pattern) == expected


def test_json_of_show(finished_run: Path):
    shown = done("show", "starter/cnn", "--json").json
    assert shown["kind"] == "backbone"
    assert {"options", "plugin", "input", "weights", "facts", "aliases"} <= set(shown)
    assert shown["input"]["kind"] == "image"
    both = done("show", "linear", "--json").json  # a head and a strategy
    assert [row["kind"] for row in both] == ["head", "strategy"]
    assert done("show", "strategy", "linear", "--json").json["role"] == "tuning"
    model = done("show", finished_run, "--json").json
    assert (model["kind"], model["backbone"]["name"]) == ("model", "starter/cnn")


def test_json_of_finetune_evaluate_predict(finished_run: Path, photos: Path, tmp_path: Path):
    options = ("--backbone", "starter/cnn", "--head", "prototype", "--out", tmp_path / "run")
    ran = done("finetune", photos, *options, "--json")
    assert set(ran.json) >= {"run", "model", "metrics"}
    assert Path(ran.json["model"]) == tmp_path / "run" / "model"
    assert "phase 1 of 1: fit" in ran.err  # text for people stays off the standard output
    measured = done("evaluate", finished_run, photos, "--split", "all", "--json").json
    assert {"metrics", "samples", "skipped", "per_class"} <= set(measured)
    assert {"accuracy", "macro_f1"} <= set(measured["metrics"])
    assert (measured["samples"], measured["skipped"]) == (30, [])
    assert {row["label"] for row in measured["per_class"]} == set(CLASSES)
    rows = done("predict", finished_run, photos / "rings", "--top", 2, "--json").json
    assert set(rows[0]) == {"file", "column", "label", "score", "top"}
    assert [set(entry) for entry in rows[0]["top"]] == [{"label", "score"}] * 2
    every = done("predict", finished_run, photos / "rings" / "0.jpg", "--top", 9, "--json").json[0]["top"]
    assert sum(entry["score"] for entry in every) == pytest.approx(1, abs=1e-5)


def test_json_of_push_and_pull(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())
    pushed = done("push", finished_run, "me/x", "--hub", tmp_path / "hub", "--json").json
    assert set(pushed) == {"name", "revision", "url", "files"}
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    pulled = done("pull", "me/x", "--json").json
    assert set(pulled) == {"name", "revision", "path"}
    assert pulled["revision"] == pushed["revision"]
    rows = done("list", "models", "x", "--json").json
    assert {"name", "kind", "summary", "revision", "private", "modified", "url", "where"} == set(rows[0])
    assert rows[0]["summary"] == "cnn fine-tuned for label"
    again = done("push", finished_run, "me/x")
    assert "already published me/x" in again.out


# ------------------------------------------------------------------ text


def test_prediction_as_lines_and_csv(finished_run: Path, photos: Path):
    lines = done("predict", finished_run, photos / "rings" / "0.jpg", photos / "checks").out.splitlines()
    assert len(lines) == 11
    assert lines[0].split("\t")[:2] == [str(photos / "rings" / "0.jpg"), "label"]
    rows = done("predict", finished_run, photos / "rings", "--csv", "--top", 2).out.splitlines()
    assert rows[0] == "file,column,label,score,label_2,score_2,error"
    assert len(rows) == 11
    assert all(len(row.split(",")) == 7 for row in rows)


def test_evaluation_shows_the_worst_classes_first_and_draws_figures(finished_run: Path, photos: Path, tmp_path: Path):
    shown = done("evaluate", finished_run, photos, "--split", "all", "--figures", tmp_path / "figures").out
    assert "accuracy" in shown
    scores = [float(line.split()[3]) for line in shown.splitlines() if line.split()[:1] and line.split()[0] in CLASSES]
    assert len(scores) == 3
    assert scores == sorted(scores)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"confusion_label.png", "calibration_label.png"}


def test_show_reads_as_words():
    text = done("show", "starter/cnn").out
    assert "64 x 64 px, 3 channels, bicubic, center crop 1, mean 0.5 0.5 0.5" in text
    assert not re.search(r"[{}]|mappingproxy|frozenset|None", text)
    assert "  paper" in done("show", "strategy", "linear").out


def test_the_plan_of_a_dry_run_is_a_table(photos: Path):
    text = done("finetune", photos, "--backbone", "starter/cnn", "--strategy", "linear:1,full:2", "--dry-run").out
    assert "30" not in text.split("data ")[0]
    assert "label: classification, 3 classes; 24 train, 6 val" in text
    assert re.search(r"1  basics/linear +1 epoch ", text)
    assert re.search(r"2  basics/full +2 epochs ", text)


def test_colours_are_left_out_where_nobody_sees_them(monkeypatch: pytest.MonkeyPatch):
    assert "\x1b" not in done("show", "starter/cnn").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in zoo("show", "starter/nope").err


def test_a_pipe_that_closes_is_no_error(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any, **__: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout", open("/dev/null", "w"))
    monkeypatch.setattr("zoo.cli.listing.table", broken)
    from zoo.cli.main import main

    assert main(["list", "heads"]) == 0


def test_names_from_outside_cannot_speak_to_the_terminal():
    assert one_line("a\x1b[31m\nb\t\x07c") == "a?[31m b ?c"
    assert one_line("émile 日本") == "émile 日本"


def test_tables_align_numbers_to_the_right(capsys: pytest.CaptureFixture[str]):
    table([["a", "1.5M", "80686eb7"], ["bcd", "12k", "x"]], ["name", "size", "sha"])
    assert capsys.readouterr().out.splitlines() == ["name  size  sha", "a     1.5M  80686eb7", "bcd    12k  x"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (12, "12"), (350_000, "350k"), (11_689_512, "11.7M"), (2e9, "2G")]
)
def test_short_numbers(value: float | None, text: str):
    assert short_number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (200, "3 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def _walk(reporter: LineReporter) -> None:
    reporter.begin_phase(0, 1, "full:2", 4)
    reporter.begun -= 20.0  # as if the steps had taken so long
    for step in range(1, 3):
        reporter.step(step, 0, 0.5, 8)
    reporter.epoch({"epoch": 0, "step": 2, "train_loss": 0.5, "val": {"accuracy": 0.75, "nll": 0.6}})
    reporter.step(3, 1, 0.25, 8)


def test_progress_lines_show_loss_metric_speed_and_time_left(capsys: pytest.CaptureFixture[str]):
    _walk(LineReporter())
    text = capsys.readouterr().out
    assert "phase 1 of 1: full:2 (4 steps)" in text
    assert re.search(r"epoch 1/2, loss 0\.5000, accuracy 0\.7500, \d+ samples/s, 20 s left", text)


def test_the_bar_shows_loss_metric_and_speed(monkeypatch: pytest.MonkeyPatch):
    from rich.console import Console

    monkeypatch.setattr("zoo.cli.progress.SHOWN_EVERY", 0.0)
    bar = BarReporter()
    bar.progress.live.console = bar.console = Console(
        file=io.StringIO(), force_terminal=True, width=110, highlight=False
    )
    _walk(bar)
    task = bar.progress.tasks[0]
    assert (task.completed, task.total) == (3, 4)
    assert re.fullmatch(r"loss 0\.475  accuracy 0\.7500  [\d,]+ samples/s  \d+ s left", task.fields["detail"])
    assert "epoch 1" in bar.console.file.getvalue()


def test_json_is_valid_where_the_command_fails_late(finished_run: Path, photos: Path, tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    outcome = zoo("predict", finished_run, tmp_path / "bad.jpg", photos / "rings" / "0.jpg", "--json")
    assert outcome.code == 3
    rows = json.loads(outcome.out)
    assert outcome.lines("error:") == ["1 file could not be read"]
    assert "error" in rows[0]
    assert rows[1]["label"] in CLASSES
