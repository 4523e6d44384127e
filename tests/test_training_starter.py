"""The real walk on the starter's network, with random weights."""

from __future__ import annotations

import pytest
import tiny_zoo
import torch
from tiny_runs import Halt, outcome
from zoo_registry import Registry

from zoo import finetuning
from zoo.planning import Request
from zoo.training.progress import Reporter


class Bursts(Reporter):
    """Stops the second phase after its first step."""

    def begin_phase(self, index, count, label, total_steps):
        self.phase = index

    def step(self, step, epoch, loss, samples):
        if self.phase == 1 and step == 2:
            raise Halt


def test_the_starter_resumes_with_the_same_bits(tmp_path):
    """On a few image files, through zoo-basics' strategies and cached features."""
    asked = Request(
        data=str(tiny_zoo.write_images(tmp_path / "data")), backbone="starter/cnn", head="basics/linear",
        strategy="linear:1,full:1", pretrained=False,
        settings=("train.batch_size=8", "train.threads=1", "train.checkpoint_every=1e-9"),
    )  # fmt: skip
    registry = Registry()
    whole = finetuning.start(asked, registry, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Halt):
        finetuning.start(asked, registry, out=tmp_path / "run", device="cpu", reporter=Bursts())
    resumed = finetuning.resume(registry, out=tmp_path / "run", device="cpu")
    assert resumed.metrics == whole.metrics
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.gpu
def test_digits_on_a_gpu(tmp_path):
    """The same job on CUDA: it learns as on the CPU, and a stopped run ends with the bits of the whole one."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    registry = Registry()
    asked = Request(
        data="digits:?labels=20", backbone="starter/cnn", head="basics/linear", strategy="linear:2,full:6",
        settings=("train.batch_size=32", "train.checkpoint_every=1e-9"), pretrained=False,
    )  # fmt: skip
    here = finetuning.start(asked, registry, out=tmp_path / "cpu", device="cpu")
    whole = finetuning.start(asked, registry, out=tmp_path / "cuda", device="cuda")
    assert abs(whole.metrics["accuracy"] - here.metrics["accuracy"]) < 0.15
    with pytest.raises(Halt):
        finetuning.start(asked, registry, out=tmp_path / "run", device="cuda", reporter=Bursts())
    finetuning.resume(registry, out=tmp_path / "run", device="cuda")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "cuda")
