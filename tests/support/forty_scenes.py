"""Set-ups of the forty cases: runs, bundles, hubs and plugins; what the data sets are stands in :mod:`forty_data`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import canary
import numpy as np
import pytest
from data_images import folder as image_folder
from fake_plugins import BROKEN, HEAD, add_distribution
from hub_fixtures import READER, TOKEN, flip, send_from_here, write_manifest
from loopback_hub import LoopbackHub
from safetensors.numpy import load_file, save_file
from zoo_registry import discovery
from zoo_runs import edit_bundle, zoo

from zoo.hub import open_hub
from zoo.hub.huggingface import HfHub

WEIGHTS = "timm/test_resnet.r160_in1k"


@dataclasses.dataclass
class Scene:
    """Where one case happens.

    Attributes:
        here: a folder of its own, ``{here}`` in the command.
        words: what else the command may name in braces.
        patch: undone after the case.
        start: starts a loopback hub.
    """

    here: Path
    words: dict[str, str]
    patch: pytest.MonkeyPatch
    start: Callable[..., LoopbackHub]
    server: Any = None

    @property
    def run(self) -> Path:
        """A finished run, for reading only."""
        return Path(self.words["run"])

    def hub(self, token: str | None = TOKEN, **options: Any) -> LoopbackHub:
        """Start a hub, ``{hub}``; the command is logged in with this token and has an empty cache."""
        from huggingface_hub import constants

        self.server = self.start(**options)
        self.words["hub"] = self.server.url
        self.patch.setattr(constants, "HF_HOME", str(self.here / "home"))
        send_from_here(self.patch)
        self.patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            self.patch.setenv("HF_TOKEN", token)
        return self.server

    def client(self) -> HfHub:
        """The hub as a command sees it, with the cache of the command."""
        return HfHub(self.server.url, token=TOKEN)

    def publish(self, name: str = "me/flowers", folder: Path | None = None) -> None:
        """Put the run's bundle on the loopback hub."""
        self.client().push(folder or self.run / "model", name, message="first")

    def bundle(self, name: str = "bundle") -> Path:
        """A copy of the run's bundle to spoil, ``{here}/bundle``."""
        return Path(shutil.copytree(self.run / "model", self.here / name))


# ---------------------------------------------------------------------- runs


def stopped(scene: Scene) -> None:
    """``{here}/stopped``: a run that Ctrl-C stopped in its second phase, and its data in ``{here}/photos``."""
    shutil.copytree(scene.words["stopped"], scene.here, dirs_exist_ok=True)


def changed_since(scene: Scene) -> None:
    """The data of a stopped run, with a file less and a file more."""
    stopped(scene)
    shutil.move(scene.here / "photos" / "rings" / "0.jpg", scene.here / "photos" / "rings" / "new.jpg")


def other_hosts(scene: Scene) -> None:
    """A stopped run that a process of another host holds."""
    stopped(scene)
    (scene.here / "stopped" / ".lock").write_text(json.dumps({"pid": 4711, "host": "node7"}))


def dead_holders(scene: Scene) -> None:
    """A stopped run whose process is gone without taking its lock file along."""
    import socket

    stopped(scene)
    (scene.here / "stopped" / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))


def odd_batch(scene: Scene) -> None:
    """Nine images to train on, in batches of eight."""
    image_folder(scene.here / "data", {"train/a": 5, "train/b": 4, "val/a": 1, "val/b": 1})


def exploding(scene: Scene) -> None:
    """The loss is NaN from the second step on."""
    from zoo.assembly.model import TransferModel

    whole, calls = TransferModel.loss, iter(range(10_000))

    def loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = whole(self, *args, **kwargs)
        return found * float("nan") if next(calls) >= 1 else found

    scene.patch.setattr(TransferModel, "loss", loss)


def recipe(text: str) -> Callable[[Scene], None]:
    """``{here}/recipe.toml``: the finished run's with a line before it."""

    def make(scene: Scene) -> None:
        spot = canary.given(scene.here / "recipe.toml")
        spot.write_text(text + (scene.run / "recipe.toml").read_text())

    return make


# ---------------------------------------------------------------------- weights and bundles


def weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Scene], None]:
    """``{here}/hub``: a folder hub with changed weights of a small backbone of timm."""

    def make(scene: Scene) -> None:
        import timm

        name = WEIGHTS.partition("/")[2]
        tensors = {k: v.numpy() for k, v in timm.create_model(name, pretrained=False).state_dict().items()}
        change(tensors)
        folder = scene.here / "weights"
        folder.mkdir()
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors")
        open_hub(str(scene.here / "hub")).push(folder, WEIGHTS, message="for the tests")

    return make


def misshapen(tensors: dict[str, np.ndarray]) -> None:
    """One tensor is gone, one is foreign."""
    first = next(iter(tensors))
    tensors["stranger.weight"] = tensors.pop(first)


def poisoned(tensors: dict[str, np.ndarray]) -> None:
    """One NaN."""
    tensors[next(iter(tensors))].reshape(-1)[3] = np.nan


def emptied(tensors: dict[str, np.ndarray]) -> None:
    """Nothing but zeros."""
    for value in tensors.values():
        value[...] = 0


def document(**changes: Any) -> Callable[[Scene], None]:
    """``{here}/bundle``: values of its ``zoo.json`` changed, the manifest written anew."""
    return lambda scene: edit_bundle(scene.bundle(), **changes) and None


def flipped(scene: Scene) -> None:
    """``{here}/bundle`` with one byte of its weights turned."""
    flip(scene.bundle() / "model.safetensors")


def edited(scene: Scene) -> None:
    """``{here}/bundle`` whose ``config.json`` somebody edited."""
    config = scene.bundle() / "config.json"
    config.write_text(config.read_text().replace("rings", "circles"))


def enlarged(scene: Scene) -> None:
    """``{here}/bundle`` with one more file."""
    (scene.bundle() / "notes.txt").write_text("hello")


def other_weights(scene: Scene) -> None:
    """``{here}/bundle`` with other weights than its golden logits, under a manifest that fits."""
    proved_here(scene)
    folder = scene.bundle()
    tensors = load_file(folder / "model.safetensors")
    name = next(k for k, v in tensors.items() if v.ndim == 4)
    save_file({**tensors, name: tensors[name] * 2}, folder / "model.safetensors")
    write_manifest(folder)


# ---------------------------------------------------------------------- hubs


def pulled(scene: Scene) -> None:
    """A hub with ``me/flowers``, and a complete copy of it in the cache."""
    scene.hub()
    scene.publish()
    scene.client().pull("me/flowers")


def published(*faults: str, **options: Any) -> Callable[[Scene], None]:
    """A hub with ``me/flowers`` and faults from then on; the cache is empty."""

    def make(scene: Scene) -> None:
        scene.hub(**options)
        scene.publish()
        shutil.rmtree(scene.here / "home", ignore_errors=True)
        scene.server.set_faults(",".join(faults))

    return make


def down(scene: Scene) -> None:
    """As :func:`pulled`, and now the hub is out of order."""
    pulled(scene)
    scene.server.set_faults("any:503:*")


def damaged_cache(*faults: str) -> Callable[[Scene], None]:
    """As :func:`pulled`, with one byte of the cached weights turned, and faults of the hub."""

    def make(scene: Scene) -> None:
        pulled(scene)
        blob = next((scene.here / "home").rglob("snapshots/*/model.safetensors")).resolve()
        flip(blob)
        scene.server.set_faults(",".join(faults))

    return make


def holding(files: dict[str, bytes]) -> Callable[[Scene], None]:
    """A hub where a stranger put these files into ``you/evil``."""

    def make(scene: Scene) -> None:
        scene.hub().commit_files("you/evil", files)

    return make


def gated(scene: Scene) -> None:
    """A hub with a repo that asks for permission, and a login that has none."""
    server = scene.hub(READER, tokens=[TOKEN, f"bob={READER}"])
    server.orgs.clear()
    server.commit_files("lab/gated", {"model.safetensors": b"x" * 2000})
    server.change("lab/gated", gated="manual")


def hidden(scene: Scene) -> None:
    """A hub with a private ``me/flowers``, and nobody logged in."""
    scene.hub()
    scene.publish()
    scene.patch.delenv("HF_TOKEN")
    shutil.rmtree(scene.here / "home", ignore_errors=True)


def logged_in(token: str | None = TOKEN, *faults: str) -> Callable[[Scene], None]:
    """A hub and this login; what a push proves in a fresh process is proved in this one, which takes less."""

    def make(scene: Scene) -> None:
        proved_here(scene)
        scene.hub(token).set_faults(",".join(faults))

    return make


def proved_here(scene: Scene) -> None:
    """Pushes start no fresh process."""
    from zoo import publishing
    from zoo.bundle import verify

    def prove(path: Path, hub: str | None = None, run: Path | None = None, told: object = None) -> verify.Checked:
        order = {"path": str(path), "hub": hub, "run": str(run) if run is not None else None}
        return verify.Checked(**verify.work(order, lambda event: None))

    scene.patch.setattr(publishing, "verify_in_fresh_process", prove)


def overtaken(scene: Scene) -> None:
    """``me/flowers`` moved on since the revision that the push is made on."""
    logged_in()(scene)
    scene.publish()
    scene.words["before"] = scene.client().info("me/flowers").revision
    scene.server.commit_files("me/flowers", {"theirs.json": b"{}"})


def no_room(scene: Scene) -> None:
    """A hub with ``me/flowers``, and a disk with 1000 bytes left."""
    published()(scene)
    scene.patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000))


def moved(scene: Scene) -> None:
    """``zoo.lock`` has ``me/flowers`` at one commit, the hub is at another."""
    pulled(scene)
    scene.patch.setenv("ZOO_LOCK", str(scene.here / "zoo.lock"))
    assert zoo("pull", "me/flowers", "--hub", scene.server.url, "--lock").code == 0
    scene.server.commit_files("me/flowers", {"theirs.json": b"{}"})


# ---------------------------------------------------------------------- plugins


def plugins(*namespaces: str) -> Callable[[Scene], None]:
    """Broken plugins are installed beside the good ones; ``contested`` by two distributions."""

    def make(scene: Scene) -> None:
        site, found = scene.here / "site", importlib.metadata.distributions
        site.mkdir()
        for namespace in namespaces:
            if namespace in BROKEN:
                add_distribution(site, namespace, BROKEN[namespace][0])
                continue
            for owner in ("zoo-first", "zoo-second"):
                add_distribution(site, namespace, HEAD.format(name=owner[4:]), distribution=owner)
        scene.patch.syspath_prepend(site)
        scene.patch.setattr(discovery, "distributions", lambda: [*found(path=[str(site)]), *found()])

    return make
