"""What a later phase cannot do is said before anything is trained or written; teachers are pinned in the recipe."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from zoo_registry import IntegrityError, Registry, UsageError

from zoo.finetuning import start
from zoo.planning import Request
from zoo.recipe import read_recipe, write_recipe
from zoo.recipe.toml import recipe_to_dict

REGISTRY = Registry()
QUICK = {"labels_per_class": 2}


def request(strategy: str, *settings: str, **more) -> Request:
    return Request(
        data="digits:",
        backbone="starter/cnn",
        strategy=strategy,
        settings=settings,
        data_options=QUICK,
        train={"augment": "none"},
        **more,
    )


@pytest.mark.parametrize(
    ("strategy", "settings", "part"),
    [
        ("linear:1,partial:1", ("strategy.partial.blocks=99",), "blocks=99"),
        ("linear:1,gradual:1s", (), "no block would ever learn"),
        ("linear:1,full+distill:1", ("strategy.distill.teacher=no/such/run",), "no/such/run"),
    ],
)
def test_a_second_phase_is_refused_before_the_first_begins(strategy: str, settings: tuple, part: str, tmp_path: Path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=part):
        start(request(strategy, *settings), REGISTRY, out=out, device="cpu")
    assert not out.exists()


@pytest.mark.slow
def test_a_teacher_is_pinned_and_another_one_is_refused(tmp_path: Path):
    teacher = tmp_path / "teacher"
    start(request("linear:1"), REGISTRY, out=teacher, device="cpu")
    told = f"strategy.distill.teacher={teacher}"
    run = start(request("linear+distill:1", told), REGISTRY, out=tmp_path / "pupil", device="cpu")
    pins = tomllib.loads((run.run / "recipe.toml").read_text())["teachers"]
    assert list(pins) == [str(teacher)]
    assert len(pins[str(teacher)]["sha256"]) == 64
    assert str(tmp_path) not in str(recipe_to_dict(run.recipe, private=False))
    recipe = read_recipe(run.run / "recipe.toml")
    again = start(Request(recipe=recipe), REGISTRY, out=tmp_path / "again", device="cpu")
    assert again.metrics == run.metrics
    shutil.rmtree(teacher)
    start(request("linear:2"), REGISTRY, out=teacher, device="cpu")
    with pytest.raises(IntegrityError, match=r"pins .*teacher.* to a manifest"):
        start(Request(recipe=recipe), REGISTRY, out=tmp_path / "refused", device="cpu")
    assert not (tmp_path / "refused").exists()


def test_pins_survive_the_recipe_file(tmp_path: Path):
    plain = recipe_to_dict(read_recipe(_recipe(tmp_path, {})))
    assert "teachers" not in plain
    pins = {"me/model": {"revision": "a" * 40, "sha256": "b" * 64}}
    assert read_recipe(_recipe(tmp_path, pins)).teachers == pins
    (tmp_path / "bad.toml").write_text(_recipe(tmp_path, {}).read_text() + '\n[teachers]\n"me/model" = 3\n')
    with pytest.raises(UsageError, match=r"\[teachers\] holds"):
        read_recipe(tmp_path / "bad.toml")


def _recipe(folder: Path, teachers: dict) -> Path:
    import dataclasses

    from zoo.planning import make_plan

    path = folder / "recipe.toml"
    recipe = make_plan(request("linear:1"), REGISTRY).recipe
    write_recipe(path, dataclasses.replace(recipe, teachers=teachers))
    return path
