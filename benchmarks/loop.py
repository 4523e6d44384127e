"""What the training loop adds to a step: a tiny model on batches that lie ready in memory, against a bare loop.

Three rows, their turns alternating within one process, on equal models and batches, with AdamW of equal settings. Each
takes AdamW as it does unless told otherwise: torch and the peers as separate operations, ours as one kernel. With
``--fused`` all take that kernel, so that nothing but the loop differs:

    bare      forward, cross-entropy, backward, AdamW
    careful   the same with what keeps a run safe: gradient norm, finite or not, clipping, rate schedule
    zoo       the application's own loop (``zoo.training.loop.train``), fed the same batches

With ``--peers`` also accelerate and transformers' Trainer where they are importable. Medians over the turns; the ratio
and the difference are medians of the differences of neighbouring turns, as the machine's speed drifts.

    python benchmarks/loop.py [--turns 40] [--steps 250] [--device cpu] [--fused] [--peers]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from machine import describe_machine, describe_versions
from torch import Tensor, nn
from zoo_registry import Batch, Column, ImageInput, Registry, Strategy, StrategySpec
from zoo_registry.options import parse_options

from zoo.assembly.model import TransferModel
from zoo.data import open_data
from zoo.determinism import reproducible
from zoo.recipe.recipe import Component, PhaseRecipe, TrainOptions
from zoo.training.feed import Feed
from zoo.training.log import MetricsLog
from zoo.training.loop import train
from zoo.training.progress import Reporter
from zoo.training.run import Phase, TrainingRun

RESULTS = Path(__file__).parent / "results"
SIZE, WIDTH, CLASSES, BATCH, READY = 8, 64, 10, 32, 16
RATE, DECAY, CLIP = 1e-6, 0.01, 1.0
BOUNDS = {"share": 0.05, "microseconds": 50.0}
INPUT = ImageInput(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1.0)
Turn = Callable[[], float | None]
"""Takes the steps of a turn; says the seconds a step itself, or leaves the timing to the caller."""


class Mlp(nn.Module):
    """Flattens, then two layers: [B, 3, 8, 8] -> [B, 64]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * SIZE**2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


class Drawn:
    """Images of noise, class ``i % CLASSES``."""

    def __init__(self, count: int) -> None:
        self.classes = [f"c{i}" for i in range(CLASSES)]
        self.targets = [i % CLASSES for i in range(count)]
        self.images = np.random.default_rng(0).integers(0, 255, (count, SIZE, SIZE, 3)).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], self.targets[index]


def make_model(device: torch.device) -> TransferModel:
    """The MLP under the plain linear head of the application."""
    torch.manual_seed(0)
    column = Column(name="label", classes=tuple(f"c{i}" for i in range(CLASSES)))
    entry = Registry().head("linear")
    build: Any = entry.factory()
    head = build(entry.spec, parse_options(entry.spec.options, {}, where="linear"), width=WIDTH, targets=(column,))
    return TransferModel(Mlp(), head, (column,), INPUT).to(device)


def make_batches(device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets on the device."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(READY, BATCH, 3, SIZE, SIZE, generator=draw).to(device)
    labels = torch.randint(CLASSES, (READY, BATCH), generator=draw).to(device)
    return list(zip(images, labels, strict=True))


def make_optimiser(model: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """AdamW with the application's groups: no decay on vectors."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE, **({"fused": True} if fused else {}))


def now(device: torch.device) -> float:
    """Seconds on the process's own clock; on the wall's for a device of its own, once that has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def bare_turn(device: torch.device, steps: int, fused: bool, *, careful: bool) -> Turn:
    """A plain loop; ``careful`` with norm, checks, clipping, schedule and the loss as a number."""
    model, batches = make_model(device), make_batches(device)
    optimiser = make_optimiser(model, fused)
    parameters = list(model.parameters())

    def turn() -> None:
        for step in range(steps):
            images, labels = batches[step % READY]
            loss = nn.functional.cross_entropy(model.predict(images)["label"], labels)
            loss.backward()
            if careful:
                norm = nn.utils.clip_grad_norm_(parameters, CLIP)
                for group in optimiser.param_groups:
                    group["lr"] = RATE * (1 - step / steps)
                if not (bool(torch.isfinite(loss)) and bool(torch.isfinite(norm))):
                    raise FloatingPointError(float(loss))
            optimiser.step()
            optimiser.zero_grad()

    return turn


class Preloaded(Feed):
    """A feed of batches that lie ready; between turns it runs the others."""

    steps = 0
    turns = 0
    others: ClassVar[dict[str, Turn]] = {}
    times: ClassVar[dict[str, list[float]]] = {}

    def __init__(self, run: TrainingRun, phase: Phase) -> None:
        super().__init__(run, phase)
        self.steps_per_epoch = run.total_steps

    def open(self) -> None:
        """Nothing is loaded."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[dict[str, Batch]]]:
        """The turns of all rows, ours by giving away batches."""
        device, ids = self.run.device, range(BATCH)
        made = [Batch(views={"train": x}, targets={"label": y}, ids=ids) for x, y in make_batches(device)]
        ready = [[{"train": batch}] for batch in made]
        for _ in range(self.turns):
            for name, turn in self.others.items():
                begun = now(device)
                said = turn()
                self.times[name].append((now(device) - begun) / self.steps if said is None else said)
            begun = now(device)
            for step in range(self.steps):
                yield ready[step % READY]
            self.times["zoo"].append((now(device) - begun) / self.steps)
        yield ready[0]  # the phase's last step, after which it is evaluated


def measure(
    device: torch.device, turns: int, steps: int, others: dict[str, Turn], fused: bool
) -> dict[str, list[float]]:
    """Row -> seconds a step of each turn, the first of which is thrown away."""
    Preloaded.steps, Preloaded.turns, Preloaded.others = steps, turns, others
    Preloaded.times = {name: [] for name in (*others, "zoo")}
    spec = StrategySpec(name="all", summary="everything learns", factory="a:b", touches=frozenset({"backbone"}))
    recipe = PhaseRecipe(
        strategies=(Component(name="benchmark/all"),), steps=turns * steps + 1, rate=RATE, decay=DECAY, warmup=0.0,
        augment="none",
    )  # fmt: skip
    options = {"batch_size": BATCH, "clip": CLIP, "keep": "last", "fused": fused or "auto"}
    run = TrainingRun(
        model=make_model(device), phases=[Phase(recipe, [(spec, Strategy())])],
        data=open_data({"train": Drawn(2 * BATCH), "val": Drawn(BATCH)}), input=INPUT,
        options=TrainOptions(**options), seed=0, device=device,
    )  # fmt: skip
    with mock.patch("zoo.training.preparing.Feed", Preloaded), reproducible(threads=1):
        train(run, log=MetricsLog(None), checkpoints=None, reporter=Reporter())
    return {name: values[1:] for name, values in Preloaded.times.items()}


def accelerate_turn(device: torch.device, steps: int, fused: bool) -> Turn | None:
    """Hugging Face accelerate, as its guide writes the loop; None where it is not installed."""
    try:
        from accelerate import Accelerator
    except ImportError:
        return None
    accelerator = Accelerator(cpu=device.type == "cpu")
    plain, batches = make_model(device), make_batches(device)
    model, optimiser = accelerator.prepare(plain, make_optimiser(plain, fused))

    def turn() -> None:
        for step in range(steps):
            images, labels = batches[step % READY]
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model.predict(images)["label"], labels)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimiser.step()
                optimiser.zero_grad()

    return turn


class ForTrainer(nn.Module):
    """The model as transformers' Trainer calls it."""

    def __init__(self, model: TransferModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss, and the logits."""
        logits = self.model.predict(pixel_values)["label"]
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer_turn(device: torch.device, steps: int, fused: bool) -> Turn | None:
    """transformers' Trainer without logging, saving and evaluating; None where it is not installed.

    Its own loader stacks the samples, which the other rows are spared: batches are its samples, taken one at a time.
    """
    try:
        import transformers
    except ImportError:
        return None
    batches = make_batches(torch.device("cpu"))
    ready = [{"pixel_values": x, "labels": y} for x, y in batches] * -(-steps // READY)
    arguments = transformers.TrainingArguments(
        output_dir="/tmp/unused", max_steps=steps, per_device_train_batch_size=1, learning_rate=RATE,
        weight_decay=DECAY, max_grad_norm=CLIP, logging_strategy="no", save_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=device.type == "cpu", optim="adamw_torch_fused" if fused else "adamw_torch",
        remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    transformers.utils.logging.set_verbosity_error()
    model = ForTrainer(make_model(device))

    class Clock(transformers.TrainerCallback):
        """From the end of the first step to the end of the last: what is built before counts for nothing."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                self.begun = now(device)
            if state.global_step == steps:
                self.seconds = (now(device) - self.begun) / max(1, steps - 1)

    def turn() -> float:
        clock = Clock()
        transformers.Trainer(
            model=model, args=arguments, train_dataset=ready, data_collator=lambda samples: samples[0],
            callbacks=[clock],
        ).train()  # fmt: skip
        return clock.seconds

    return turn


PEERS = {"accelerate": accelerate_turn, "transformers Trainer": trainer_turn}


def summarise(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Row -> microseconds a step, and what it is more than the bare loop: paired by turn, medians."""
    found = {}
    for name, values in times.items():
        more = [1e6 * (own - bare) for own, bare in zip(values, times["bare"], strict=True)]
        ratio = [own / bare for own, bare in zip(values, times["bare"], strict=True)]
        found[name] = {
            "microseconds": 1e6 * statistics.median(values),
            "added": statistics.median(more),
            "ratio": statistics.median(ratio),
        }
    return found


def report(value: dict[str, Any]) -> str:
    """The result as a page."""
    rows = [
        f"| {name} | {row['microseconds']:.0f} | {row['added']:+.0f} | {row['ratio']:.3f} |"
        for name, row in value["rows"].items()
    ]
    return "\n".join(
        [
            "# What the loop adds to a step",
            "",
            "AdamW is one kernel in every row."
            if value["fused"]
            else "AdamW is what each takes by default: one kernel in ours, separate operations elsewhere.",
            "",
            f"Command: `{value['command']}`.",
            f"Machine: {value['machine']}, device {value['device']}. {value['versions']}.",
            f"A two-layer MLP with a linear head, batch {BATCH}; {value['turns']} alternating turns of "
            f"{value['steps']} steps, medians. On a CPU the process's own time is counted. `careful` is the bare loop "
            "with what the others do too: gradient norm, clipping, a check "
            "that norm and loss are finite, a rate schedule.",
            "",
            "| loop | us a step | more than bare | ratio to bare |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Wanted: at most {BOUNDS['share']:.0%} and at most {BOUNDS['microseconds']:.0f} us more than bare.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40, help="turns of each row, and one more to warm up")
    parser.add_argument("--steps", type=int, default=250, help="steps a turn")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--fused", action="store_true", help="the fused AdamW for every row")
    parser.add_argument("--peers", action="store_true", help="accelerate and transformers' Trainer too")
    parser.add_argument("--profile", action="store_true", help="our turns alone under cProfile; no result is written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where loop.json and loop.md go")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(asked.device)
    if asked.profile:
        profile(device, asked)
        return
    rows: dict[str, dict[str, float]] = {}
    for peer in (None, *(PEERS if asked.peers else ())):  # one at a time: they do not get along in one process
        others: dict[str, Turn] = {"bare": bare_turn(device, asked.steps, asked.fused, careful=False)}
        if peer is None:
            others["careful"] = bare_turn(device, asked.steps, asked.fused, careful=True)
        elif (turn := PEERS[peer](device, asked.steps, asked.fused)) is not None:
            others[peer] = turn
        else:
            continue
        rows = summarise(measure(device, asked.turns + 1, asked.steps, others, asked.fused)) | rows
    name = "-".join(["loop", *["fused"] * asked.fused, *[device.type] * (device.type != "cpu")])
    flags = "".join(f" --{flag}" for flag in ("fused", "peers") if getattr(asked, flag))
    value = {
        "command": f"python benchmarks/loop.py --turns {asked.turns} --steps {asked.steps} --device {device}{flags}",
        "machine": describe_machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread",
        "versions": describe_versions("transfer-zoo", "torch", "accelerate", "transformers"),
        "turns": asked.turns,
        "steps": asked.steps,
        "fused": asked.fused,
        "bounds": BOUNDS,
        "rows": {name: rows[name] for name in ("bare", "careful", "zoo", *PEERS) if name in rows},
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (asked.out / f"{name}.md").write_text(report(value), encoding="utf-8")
    print(report(value))


def profile(device: torch.device, asked: argparse.Namespace) -> None:
    """Where our time goes."""
    import cProfile
    import pstats

    with cProfile.Profile() as found:
        measure(device, asked.turns, asked.steps, {}, asked.fused)
    pstats.Stats(found).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
