"""Each way to fine-tune, in a process of its own: ``python contestants.py NAME JSON``; prints a line of JSON.

The line is ``{"images": of an epoch, "seconds": [of the training part of each epoch], "whole": seconds of everything
after the imports}``. All train the same timm architecture from random weights on the same folder, 224 px, the same
batch and threads; each in the way that its own documentation shows first.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Found = dict[str, Any]


def _folders(asked: Namespace) -> dict[str, Any]:
    """The folder as torchvision's tutorial reads it."""
    from torchvision import datasets, transforms

    norm = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *norm])
    test = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *norm])
    return {s: datasets.ImageFolder(f"{asked.data}/{s}", t) for s, t in (("train", train), ("val", test))}


def tutorial(asked: Namespace) -> Found:
    """The loop of the torchvision tutorial: SGD, a scheduler, train and val in every epoch, no prefetch."""
    import timm
    import torch
    from torch import nn

    device = torch.device(asked.device)
    sets = _folders(asked)
    loaders = {
        split: torch.utils.data.DataLoader(found, batch_size=asked.batch, shuffle=True, num_workers=asked.workers)
        for split, found in sets.items()
    }
    model = timm.create_model(asked.model, num_classes=len(sets["train"].classes)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=7, gamma=0.1)
    seconds = []
    for _ in range(asked.epochs):
        for split in ("train", "val"):
            model.train(split == "train")
            start, total, right = time.perf_counter(), 0.0, 0
            for images, labels in loaders[split]:
                images, labels = images.to(device), labels.to(device)
                optimiser.zero_grad()
                with torch.set_grad_enabled(split == "train"):
                    outputs = model(images)
                    loss = criterion(outputs, labels)
                    if split == "train":
                        loss.backward()
                        optimiser.step()
                total += loss.item() * len(images)
                right += int((outputs.argmax(1) == labels).sum())
            if split == "train":
                schedule.step()
                seconds.append(time.perf_counter() - start)
    return {"images": len(sets["train"]), "seconds": seconds}


def trainer(asked: Namespace) -> Found:
    """transformers' Trainer on its own wrapper of timm."""
    import torch
    from transformers import (
        AutoModelForImageClassification,
        TimmWrapperConfig,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    sets = _folders(asked)

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, found: Any) -> None:
            self.found = found

        def __len__(self) -> int:
            return len(self.found)

        def __getitem__(self, index: int) -> dict[str, Any]:
            image, label = self.found[index]
            return {"pixel_values": image, "labels": label}

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    names = sets["train"].classes
    config = TimmWrapperConfig(architecture=asked.model, num_labels=len(names))
    model = AutoModelForImageClassification.from_config(config)
    options = TrainingArguments(
        output_dir=asked.scratch, num_train_epochs=asked.epochs, per_device_train_batch_size=asked.batch,
        dataloader_num_workers=asked.workers, report_to="none", save_strategy="no", eval_strategy="epoch",
        remove_unused_columns=False, use_cpu=asked.device == "cpu", disable_tqdm=True,
    )  # fmt: skip
    Trainer(
        model, options, train_dataset=Rows(sets["train"]), eval_dataset=Rows(sets["val"]), callbacks=[Clock()]
    ).train()
    return {"images": len(sets["train"]), "seconds": seconds}


def fastai(asked: Namespace) -> Found:
    """A Learner of fastai: its own folder loaders, item and batch transforms, ``fit_one_cycle``."""
    import timm
    from fastai.vision.all import (
        Callback,
        CrossEntropyLossFlat,
        Flip,
        ImageDataLoaders,
        Learner,
        Normalize,
        RandomResizedCrop,
        accuracy,
        imagenet_stats,
    )  # fmt: skip

    seconds: list[float] = []

    class Clock(Callback):  # type: ignore[misc]
        def before_train(self) -> None:
            self.start = time.perf_counter()

        def after_train(self) -> None:
            seconds.append(time.perf_counter() - self.start)

    loaders = ImageDataLoaders.from_folder(
        Path(asked.data), train="train", valid="val", item_tfms=RandomResizedCrop(224), bs=asked.batch,
        batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)], num_workers=asked.workers, device=asked.device,
    )  # fmt: skip
    model = timm.create_model(asked.model, num_classes=loaders.c)
    learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=[Clock()])
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(asked.epochs)
    return {"images": len(loaders.train_ds) // asked.batch * asked.batch, "seconds": seconds}  # it drops the rest


def timm_script(asked: Namespace) -> Found:
    """timm's own ``train.py`` (not in its wheel), timed by what it says of every epoch's last batch."""
    command = [
        sys.executable, asked.timm_train, asked.data, "--train-split", "train", "--val-split", "val",
        "--model", asked.model,
        "--num-classes", "10", "--epochs", str(asked.epochs), "--batch-size", str(asked.batch), "--workers",
        str(asked.workers), "--device", asked.device, "--output", asked.scratch, "--log-interval", "1",
        "--warmup-epochs", "0", "--cooldown-epochs", "0", *asked.timm_options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    lines = re.findall(r"Train: (\d+) \[ *(\d+)/(\d+).*?Time: [\d.]+s, +([\d.]+)/s +\( *([\d.]+)s, +([\d.]+)/s\)", text)
    last = {int(epoch): float(rate) for epoch, _, _, _, _, rate in lines}
    images = sum(1 for _ in Path(asked.data, "train").rglob("*.jpg"))
    return {"images": images, "seconds": [images / rate for _, rate in sorted(last.items())]}


def timm_channels_last(asked: Namespace) -> Found:
    """The same with ``--channels-last``, for those who know."""
    return timm_script(Namespace(**{**vars(asked), "timm_options": ["--channels-last"]}))


def zoo(asked: Namespace) -> Found:
    """The product, nothing set but what all share; the choice of its compute path is in ``whole``, not in an epoch."""
    import zoo as product

    run = product.finetune(
        asked.data, backbone=asked.model, strategy=f"full:{asked.epochs}", pretrained=False, batch_size=asked.batch,
        device=asked.device, out=f"{asked.scratch}/run", augment="medium",
    )  # fmt: skip
    rows = [json.loads(line) for line in Path(run.run, "machine.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if "samples_per_second" in row]
    return {"images": epochs[0]["samples"], "seconds": [row["seconds"] for row in epochs], "path": str(run.run)}


def limit(asked: Namespace) -> Found:
    """Forward, backward and AdamW on one batch that lies in memory, in each memory format and precision: the limit."""
    rates = step_rates(asked)
    best = max(rates.values())
    return {"images": asked.batch, "seconds": [asked.batch / best], "rates": rates}


def limit_pages_kept(asked: Namespace) -> Found:
    """The same where freed memory stays with the process, as in our runs: a limit that plain torch does not reach."""
    from zoo.compute.allocator import pages_kept

    with pages_kept():
        return limit(asked)


def step_rates(asked: Namespace) -> dict[str, float]:
    """Images a second of the median step."""
    import timm
    import torch

    device = torch.device(asked.device)
    rates = {}
    for format_name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        for precision in ("float32", "bf16"):
            model = timm.create_model(asked.model, num_classes=10).to(device, memory_format=layout).train()
            optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
            images = torch.randn(asked.batch, 3, 224, 224, device=device).contiguous(memory_format=layout)
            labels = torch.arange(asked.batch, device=device) % 10
            times = []
            for _ in range(asked.steps):
                start = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            rates[f"{format_name} {precision}"] = asked.batch / sorted(times[2:])[len(times[2:]) // 2]
    return rates


CONTESTANTS: dict[str, Callable[[Namespace], Found]] = {
    "tutorial": tutorial, "trainer": trainer, "fastai": fastai, "timm": timm_script,
    "timm --channels-last": timm_channels_last, "zoo": zoo, "limit": limit,
    "limit, pages kept": limit_pages_kept,
}  # fmt: skip


def main() -> None:
    asked = Namespace(**json.loads(sys.argv[2]))
    import torch

    torch.set_num_threads(asked.threads)
    start = time.perf_counter()
    found = CONTESTANTS[sys.argv[1]](asked)
    print(json.dumps({**found, "whole": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
