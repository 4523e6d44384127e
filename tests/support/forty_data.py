"""Data sets, images and tables of the forty cases; see :mod:`forty_scenes`."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from data_images import folder as image_folder
from PIL import Image
from zoo_runs import CLASSES, draw_photos, picture

if TYPE_CHECKING:
    from forty_scenes import Scene


def few(*classes: str, each: int = 3) -> Callable[[Scene], None]:
    """``{here}/data`` with so many images of each class."""
    return lambda scene: image_folder(scene.here / "data", dict.fromkeys(classes, each)) and None


def counts(**each: int) -> Callable[[Scene], None]:
    """``{here}/data`` with so many images a class; 0 makes the folder alone."""

    def make(scene: Scene) -> None:
        image_folder(scene.here / "data", each)

    return make


def photos(scene: Scene) -> Path:
    """``{here}/photos``, a small copy of what the finished run learnt from."""
    return draw_photos(scene.here / "photos", each=4)


def locked(scene: Scene) -> None:
    """``{here}/photos/rings`` may not be read by whoever gives the command."""
    folder = photos(scene) / "rings"
    if os.geteuid() != 0:
        folder.chmod(0)
        return
    scandir = os.scandir

    def refused(path: Any) -> Any:  # root may read everything
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    scene.patch.setattr(os, "scandir", refused)


def linked(scene: Scene) -> None:
    """A link in a circle, and one to an image outside."""
    root = photos(scene)
    (root / "rings" / "again").symlink_to(root / "rings")
    image_folder(scene.here / "elsewhere", {"a": 1})
    (root / "rings" / "out.png").symlink_to(scene.here / "elsewhere" / "a" / "0.png")


def leaking(scene: Scene) -> None:
    """One image of train stands in val too."""
    root = scene.here / "photos"
    draw_photos(root / "train", each=6)
    draw_photos(root / "val", each=3)
    for kind in CLASSES:
        for number in (0, 1, 2):
            for old in (root / "val" / kind).glob(f"{number}.*"):
                old.unlink()
            Image.fromarray(picture(kind, 100 + number)).save(root / "val" / kind / f"{number}.png")
    shutil.copy(root / "train" / "rings" / "0.jpg", root / "val" / "rings" / "copy.jpg")


def interrupted_listing(scene: Scene) -> None:
    """Ctrl-C while the folder is listed."""
    root, scandir = photos(scene), os.scandir

    def pressed(path: Any) -> Any:
        if Path(path) == root / "rings":
            raise KeyboardInterrupt
        return scandir(path)

    scene.patch.setattr(os, "scandir", pressed)


def slow_listing(scene: Scene) -> None:
    """A disk on which each folder takes 40 s, by the clock that the listing looks at."""
    from zoo.data import ticker

    photos(scene)
    clock = iter(range(0, 100_000, 40))
    scene.patch.setattr(ticker, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))


def damaged(scene: Scene) -> None:
    """A cut, an empty and a mislabelled file among good images."""
    root = photos(scene)
    whole = (root / "rings" / "0.jpg").read_bytes()
    (root / "checks" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "rings" / "empty.jpg").write_bytes(b"")
    (root / "rings" / "page.jpg").write_bytes(b"<!doctype html><title>404</title>")


def bomb(scene: Scene) -> None:
    """A PNG of 400 megapixels in 50 kB, whole and valid."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_000 * 2_501), 1)
    whole = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (scene.here / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + whole)


def kinds(scene: Scene) -> None:
    """CMYK, a palette with transparency, grey with alpha, an animation."""
    image = Image.fromarray(picture("rings", 3))
    (scene.here / "kinds").mkdir()
    image.convert("CMYK").save(scene.here / "kinds" / "cmyk.jpg")
    image.quantize(16).save(scene.here / "kinds" / "palette.png", transparency=0)
    image.convert("LA").save(scene.here / "kinds" / "grey.png")
    image.save(scene.here / "kinds" / "moving.gif", save_all=True, append_images=[image.rotate(90)])


def deep(scene: Scene) -> None:
    """The same grey picture with 8 and with 16 bits a channel."""
    grey = picture("rings", 3).mean(axis=2).astype(np.uint8)
    Image.fromarray(grey).save(scene.here / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(scene.here / "16.png")
    Image.fromarray(grey.astype(np.float32) * 3).save(scene.here / "wide.tif")


def turned(scene: Scene) -> None:
    """The same picture upright, and lying with a note that it has to be turned."""
    image = Image.fromarray(picture("stripes", 5))
    exif = Image.Exif()
    exif[274] = 6
    image.save(scene.here / "upright.png")
    image.transpose(Image.Transpose.ROTATE_90).save(scene.here / "lying.png", exif=exif)


def phone(scene: Scene) -> None:
    """Photographs in a format that nobody reads here."""
    root = photos(scene)
    for number in range(2):
        (root / "rings" / f"{number}.heic").write_bytes(b"\0\0\0\x18ftypheic")


def table(*rows: str, encoding: str = "utf-8", header: str = "image,label") -> Callable[[Scene], None]:
    """``{here}/t.csv`` beside four images ``0.png`` to ``3.png``."""

    def make(scene: Scene) -> None:
        image_folder(scene.here, {".": 4})
        (scene.here / "t.csv").write_bytes("".join(f"{row}\n" for row in (header, *rows)).encode(encoding))

    return make
