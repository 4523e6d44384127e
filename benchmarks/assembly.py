"""Making a pretrained model from a local safetensors file: zoo's assembly beside timm's own pretrained path.

Each candidate runs in a process of its own, alternating, after everything is imported; medians over the rounds:

    timm        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": FILE}, num_classes=10)
    zoo         zoo's backbone with a new linear head of 10 classes, weights mapped (as from a package or a hub's cache)
    zoo, copied the same from a file that a person gave: copied into memory at once

The weights are random numbers, and every parameter and buffer is compared with timm's result in the end. Memory is the
peak of the resident set above what it was before (Linux). "With first forward" adds a pass over one image, which reads
all the weights. zoo looks once for NaN and Inf in a file and notes that it found none; the round that is thrown away
does that, and its time is in the results as "first".

    python benchmarks/assembly.py [--rounds 7] [--models resnet50,...] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from machine import describe_machine, describe_versions

RESULTS = Path(__file__).parent / "results"
MODELS = ("resnet50", "vit_base_patch16_224", "mobilenetv3_small_100")
CANDIDATES = ("timm", "zoo", "zoo, copied")
MEASURES = ("seconds", "mib", "forward_seconds", "forward_mib")
TIME_BOUNDS = {"resnet50": 0.15, "vit_base_patch16_224": 0.05}
MEMORY_BOUND = 0.1
CLASSES = 10
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count; one more goes before them")
    parser.add_argument("--models", default=",".join(MODELS), help="timm's names, comma-separated")
    parser.add_argument("--device", default="cpu", help="where the models end up: cpu or cuda")
    parser.add_argument("--worker", nargs=3, metavar=("CANDIDATE", "MODEL", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        candidate, model, file = asked.worker
        work = {"write": write, "check": check}.get(candidate)
        print(json.dumps(work(model, Path(file)) if work else measure(candidate, model, Path(file), asked.device)))
        return
    value = {
        "machine": describe_machine(),
        "versions": describe_versions("transfer-zoo", "timm", "torch", "safetensors"),
        "command": f"python benchmarks/assembly.py --rounds {asked.rounds}"
        + (f" --models {asked.models}" if asked.models != ",".join(MODELS) else "")
        + (f" --device {asked.device}" if asked.device != "cpu" else ""),
        "device": device_in_words(asked.device),
        "rounds": asked.rounds,
        "models": {model: compare(model, asked.rounds, asked.device) for model in asked.models.split(",")},
    }
    name = "assembly" if asked.device == "cpu" else f"assembly-{asked.device}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(report(value), encoding="utf-8")
    print(report(value))


def compare(model: str, rounds: int, device: str) -> dict[str, Any]:
    """All rounds of one model: medians, the round thrown away, ratios to timm, and whether the tensors are equal."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        written = spawn("write", model, file, device, folder)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
        for _ in range(rounds + 1):
            for name in CANDIDATES:
                found[name].append(spawn(name, model, file, device, folder))
        checked = spawn("check", model, file, device, folder)
    medians = {n: {m: statistics.median(r[m] for r in rows[1:]) for m in MEASURES} for n, rows in found.items()}
    ratios = {n: {m: medians[n][m] / medians["timm"][m] for m in MEASURES} for n in CANDIDATES if n != "timm"}
    first = {name: rows[0]["seconds"] for name, rows in found.items()}
    return {**written, **checked, "medians": medians, "ratios": ratios, "first": first, "rounds": found}


def spawn(candidate: str, model: str, file: Path, device: str, folder: str) -> dict[str, Any]:
    """What a worker in a fresh process prints; its cache is one of the benchmark's own."""
    command = [sys.executable, __file__, "--device", device, "--worker", candidate, model, str(file)]
    environment = {**os.environ, "HF_HOME": folder, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{candidate} {model} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write(model: str, file: Path) -> dict[str, Any]:
    """Write a weights file of random numbers as timm publishes it, with the classifier of 1000 classes."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = timm.create_model(model).state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():  # not what a constructor makes, so that equality means that it was loaded
            tensor.uniform_(0.01, 0.1)
    save_file(state, file)
    return {"file_mib": file.stat().st_size / MIB}


def measure(candidate: str, model: str, file: Path, device: str) -> dict[str, float]:
    """Time and added peak memory of one candidate in this process, with and without a first forward pass."""
    import torch

    make = makers(model, file, device)[candidate]
    on_cuda = device.startswith("cuda")
    if on_cuda:
        torch.zeros(1, device=device)
    before = reset_peak()
    begun = time.perf_counter()
    made, size = make()
    if on_cuda:
        torch.cuda.synchronize()
    found = {"seconds": time.perf_counter() - begun, "mib": peak() - before}
    x = torch.zeros(1, 3, *size, device=device)
    begun = time.perf_counter()
    with torch.inference_mode():
        made(x)
    if on_cuda:
        torch.cuda.synchronize()
    found["forward_seconds"] = found["seconds"] + time.perf_counter() - begun
    return {**found, "forward_mib": peak() - before}


def makers(model: str, file: Path, device: str) -> dict[str, Any]:
    """Candidate -> function that makes it; everything is imported and looked up already."""
    import timm
    from zoo_registry import Column, Registry

    from zoo.assembly.assemble import assemble_model

    registry = Registry()
    entry = registry.backbone(backbone_name(registry, model))
    head = registry.head("linear")
    entry.factory(), head.factory()  # imported
    columns = (Column(name="label", classes=tuple(map(str, range(CLASSES)))),)
    size = entry.spec.input.size

    def by_timm() -> tuple[Any, Any]:
        overlay = {"file": str(file)}
        made = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=CLASSES)
        return made.to(device).eval(), size

    def by_zoo(mapped: bool | None) -> tuple[Any, Any]:
        made = assemble_model(
            registry,
            backbone=entry.name,
            head=head.name,
            columns=columns,
            weights=file,
            mapped=mapped,
            device=device,
        )
        return made.model.eval().predict, size

    return {"timm": by_timm, "zoo": lambda: by_zoo(True), "zoo, copied": lambda: by_zoo(None)}


def backbone_name(registry: Any, model: str) -> str:
    """The zoo's name for timm's default weights of an architecture."""
    import timm

    tag = timm.get_pretrained_cfg(model).tag
    names = {entry.name for entry in registry.entries("backbone")}
    wanted = f"timm/{model}.{tag}"
    return wanted if wanted in names else f"timm/{model}"


def check(model: str, file: Path) -> dict[str, Any]:
    """Compare every parameter and buffer of zoo's model with timm's, bit by bit, the new classifier left out."""
    import timm
    import torch
    from zoo_registry import Column, Registry

    from zoo.assembly.assemble import assemble_model

    registry = Registry()
    columns = (Column(name="label", classes=("a", "b")),)
    asked = {"backbone": backbone_name(registry, model), "head": "linear", "columns": columns}
    made = assemble_model(registry, weights=file, mapped=True, **asked).model.backbone.model
    plain = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, num_classes=0)
    compared = 0
    for kind in ("named_parameters", "named_buffers"):
        found, wanted = dict(getattr(made, kind)()), dict(getattr(plain, kind)())
        if found.keys() != wanted.keys() or any(not torch.equal(found[n], wanted[n]) for n in wanted):
            raise SystemExit(f"{model}: not equal to timm's")
        compared += len(wanted)
    return {"equal_tensors": compared}


def reset_peak() -> float:
    """Forget the process's peak of resident memory; returns what is resident now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> float:
    """The peak since then, in MiB."""
    return status("VmHWM")


def status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def device_in_words(device: str) -> str:
    """``cpu``, or the accelerator's name."""
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name(device)


def report(value: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Assembly from a local weights file",
        "",
        f"Command: `{value['command']}`. Device: {value['device']}.",
        f"Machine: {value['machine']}. {value['versions']}.",
        f"Medians of {value['rounds']} alternating rounds, a fresh process each, after all imports.",
        "",
        "| model | file, MiB | candidate | create, ms | added peak, MiB | with first forward, ms | MiB | first, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, row in value["models"].items():
        for name, m in row["medians"].items():
            lines.append(
                f"| {model} | {row['file_mib']:.0f} | {name} | {1000 * m['seconds']:.0f} | {m['mib']:.0f} | "
                f"{1000 * m['forward_seconds']:.0f} | {m['forward_mib']:.0f} | {1000 * row['first'][name]:.0f} |"
            )
    lines += [
        "",
        "| model | zoo as a share of timm's time | wanted at most | of its memory | wanted at most | time with first "
        "forward | tensors equal |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, row in value["models"].items():
        r = row["ratios"]["zoo"]
        bounds = (TIME_BOUNDS.get(model, ""), MEMORY_BOUND if model in TIME_BOUNDS else "")
        lines.append(
            f"| {model} | {r['seconds']:.3f} | {bounds[0]} | {r['mib']:.3f} | {bounds[1]} | "
            f"{r['forward_seconds']:.2f} | {row['equal_tensors']} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
