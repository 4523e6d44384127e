"""Pretrain the starter networks on drawings: ``python plugins/zoo-starter/pretrain/pretrain.py --network cnn --out D``.

Task: which of about 1,200 signs, invented characters and textures is this (cross-entropy, no label smoothing: it makes
features transfer worse, Kornblith et al. 2021, arXiv 2010.16402). AdamW, warm-up, cosine. The batch is a function of
(seed, step), so a run resumed from its last checkpoint draws what an unbroken one would have drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from drawings import SIZE, Drawings
from glyphs import glyph_set
from safetensors.torch import save_file
from teacher import Teacher
from torch import Tensor, nn
from zoo_starter.networks import NETWORKS

RATES = {"cnn": 3e-3, "vit": 2e-3}
STEPS = {"cnn": 10_000, "vit": 4_000}
BATCH = {"cnn": 128, "vit": 64}


def arguments() -> argparse.Namespace:
    """The command line; defaults are those of the published weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(NETWORKS), required=True, help="which of the two to train")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, weights and log")
    parser.add_argument("--steps", type=int, help=f"optimiser steps of the schedule (default {STEPS})")
    parser.add_argument("--batch", type=int, help=f"pictures a step (default {BATCH})")
    parser.add_argument("--seed", type=int, default=0, help="decides weights and drawings (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints (default %(default)s)")
    parser.add_argument("--stop", type=int, help="stop after this step of the schedule, with a checkpoint")
    parser.add_argument("--teacher", type=Path, help="weights of the cnn, from which the vit learns besides")
    options = parser.parse_args()
    if options.teacher and options.network != "vit":
        parser.error("--teacher is for --network vit")
    options.steps = options.steps or STEPS[options.network]
    options.batch = options.batch or BATCH[options.network]
    return options


def build(network: str, classes: int) -> nn.Module:
    """The network of that name with a classifier for ``classes``, by timm's own factory, randomly initialised."""
    shape = NETWORKS[network]
    return timm.create_model(shape.architecture, num_classes=classes, **shape.model_args)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only."""
    learning = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learning if p.ndim > 1]
    return [
        {"params": decayed, "weight_decay": 0.05},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]


def save_weights(model: nn.Module, path: Path, facts: dict[str, Any]) -> None:
    """The network without its classifier, float32, with what made it in the file's metadata."""
    keep = {k: v.float().contiguous() for k, v in model.state_dict().items() if not k.startswith(("fc.", "head."))}
    save_file(keep, path, metadata={"format": "pt", "pretraining": json.dumps(facts)})


class Pretraining:
    """Model, optimiser, schedule and place in the run; resumes from ``out/last.pt`` where there is one."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.data = Drawings(glyph_set(), options.seed)
        self.model = build(options.network, self.data.classes).to(memory_format=torch.channels_last)
        self.teacher = Teacher(build("cnn", 0), options.teacher, self.model) if options.teacher else None
        rate, learning = RATES[options.network], nn.ModuleList([self.model, self.teacher or nn.Identity()])
        self.optimiser = torch.optim.AdamW(parameter_groups(learning), lr=rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, rate, total_steps=options.steps, pct_start=0.05, cycle_momentum=False
        )
        self.step, self.seconds, self.last = 0, 0.0, options.out / "last.pt"
        if self.last.exists():
            self.resume()

    def resume(self) -> None:
        """Go on from the last checkpoint."""
        saved = torch.load(self.last, weights_only=True)
        for name, state in saved["states"].items():
            getattr(self, name).load_state_dict(state)
        self.step, self.seconds = saved["step"], saved["seconds"]

    def checkpoint(self) -> None:
        """Write what a resume needs, and the weights as they are now."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        asked = {key: getattr(self.options, key) for key in ("network", "seed", "batch", "bf16")}
        facts = {**asked, "size": SIZE, "classes": self.data.classes, "signs": len(self.data.glyphs.signs)}
        facts |= {"steps": self.step, "of": self.options.steps, "seconds": round(self.seconds)}
        save_weights(self.model, self.options.out / f"{self.options.network}.safetensors", facts)
        names = ["model", "optimiser", "schedule"] + ["teacher"] * (self.teacher is not None)
        states = {name: getattr(self, name).state_dict() for name in names}
        torch.save({"states": states, "step": self.step, "seconds": self.seconds}, self.last)

    def advance(self) -> tuple[float, float]:
        """One step; its loss and the share of pictures told right."""
        began = time.monotonic()
        pictures, labels = self.data.batch(self.step, self.options.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.options.bf16):
            outputs, hints = self._outputs(pictures.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(outputs.float(), labels) + hints
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        self.seconds += time.monotonic() - began
        return loss.item(), (outputs.argmax(1) == labels).float().mean().item()

    def _outputs(self, pictures: Tensor) -> tuple[Tensor, Tensor | float]:
        return (self.model(pictures), 0.0) if self.teacher is None else self.teacher.loss(self.model, pictures)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    run, recent = Pretraining(options), []
    end = min(options.steps, options.stop or options.steps)
    while run.step < end:
        recent.append(run.advance())
        if run.step % 100 == 0:
            loss, right = (sum(column) / len(recent) for column in zip(*recent))
            print(f"step {run.step} loss {loss:.3f} right {right:.3f} seconds {run.seconds:.0f}", flush=True)
            recent.clear()
        if run.step % options.every == 0 or run.step == end:
            run.checkpoint()


if __name__ == "__main__":
    main()
