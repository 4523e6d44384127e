"""Views of an image: ``eval``, ``train``, ``weak`` and ``strong``.

A view is a picklable callable ``(image uint8 [C, H, W], generator) -> uint8 [channels, h, w]`` of the input's size.
It draws from the generator it is given and from nothing else. Normalising happens once a batch, on the device
(:func:`normalise`); the workers send a quarter of the bytes that floats would need.

``--augment`` levels, for the view ``train``:

======  ===========================================================================================================
none    the evaluation view
light   crop of 75 to 100 % of what fits, aspect ratio within 5 %; no flip (digits, letters, charts)
medium  crop of 35 to 100 % of what fits, aspect ratio 3/4 to 4/3, horizontal flip (photographs)
strong  medium, then brightness, contrast and saturation by up to 40 %, then one rectangle erased every second time
======  ===========================================================================================================

``weak`` is ``light`` and ``strong`` is ``strong``; they flip where ``train`` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor
from zoo_registry.errors import UsageError, did_you_mean
from zoo_registry.inputs import ImageInput

from zoo.data.geometry import center_crop, resize, resize_long_edge, resize_short_edge, to_channels

AUGMENTS = ("none", "light", "medium", "strong")
ROOM = 1.5
"""An image is never decoded to a short edge of less than the crop needs, or of so many times the input's size."""


class View(Protocol):
    """A transform of one image.

    ``deterministic`` says that the generator does not matter, so that features may be cached. Those here have
    ``short_edge`` too, the size that a large image may be decoded to (None: every pixel matters), and what
    :class:`zoo.data.making.SampleMaker` asks for.
    """

    @property
    def deterministic(self) -> bool:
        """Whether the generator does not matter."""
        ...

    def __call__(self, image: Tensor, generator: Generator | None) -> Tensor:
        """Uint8 [C, H, W] of any size to uint8 of the input's channels and size."""
        ...


@dataclass(frozen=True)
class EvalView:
    """The evaluation transform of timm (``create_transform(is_training=False)``), pixel by pixel.

    ``center``: short edge to ``size / crop_pct``, middle cropped. ``squash``: both edges to it, then the same crop.
    ``border``: long edge to it, then crop or pad with the mean colour.
    """

    input: ImageInput
    deterministic: bool = True
    only_reads: ClassVar[bool] = True
    short_edge: ClassVar[None] = None

    @property
    def kind(self) -> str:
        """What its output is kept as."""
        return repr(self)

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        """See :class:`View`; the generator is not used."""
        spec = self.input
        image = to_channels(image, spec.channels)
        scaled = [math.floor(s / spec.crop_pct) for s in spec.size]
        if spec.crop_mode == "squash":
            return center_crop(resize(image, scaled, spec.interpolation), spec.size)
        if spec.crop_mode == "border":
            return center_crop(resize_long_edge(image, scaled, spec.interpolation), spec.size, mean_colour(spec))
        if spec.crop_mode != "center":
            raise UsageError(f"unknown crop_mode {spec.crop_mode!r}", hint="one of center, squash, border")
        return center_crop(resize_short_edge(image, scaled, spec.interpolation), spec.size)


@dataclass(frozen=True)
class CropView:
    """A random part of the image resized to the input's size, mirrored half of the time where ``flip``.

    After Szegedy et al., Going deeper with convolutions (2014), https://arxiv.org/abs/1409.4842, with one change: the
    share is of the largest part with the drawn aspect ratio, not of the image, so that every draw fits, however much
    the image's shape differs from the input's.

    Attributes:
        input: the image input.
        scale: least and largest share of the area of the largest part of this shape.
        ratio: least and largest aspect ratio, relative to the input's own.
        flip: mirror horizontally with probability 1/2.
    """

    input: ImageInput
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    deterministic: bool = False
    only_reads: ClassVar[bool] = True

    @property
    def short_edge(self) -> int:
        """Pixels that an image's short edge must have: the smallest part's are the input's then, up to :data:`ROOM`."""
        return math.ceil(max(self.input.size) * min(ROOM, 1 / math.sqrt(self.scale[0])))

    def __call__(self, image: Tensor, generator: Generator | None) -> Tensor:
        """See :class:`View`."""
        numbers = torch.rand(5, generator=generator).tolist()
        top, left, height, width = self._box(image.shape[-2], image.shape[-1], numbers)
        image = to_channels(image[:, top : top + height, left : left + width], self.input.channels)
        image = resize(image, self.input.size, self.input.interpolation, exact=False)
        return image.flip(-1) if self.flip and numbers[4] < 0.5 else image

    def _box(self, height: int, width: int, numbers: list[float]) -> tuple[int, int, int, int]:
        """Top, left, height and width of the part."""
        low, high = (math.log(r * self.input.size[1] / self.input.size[0]) for r in self.ratio)
        aspect = math.exp(low + numbers[0] * (high - low))
        shrink = math.sqrt(self.scale[0] + numbers[1] * (self.scale[1] - self.scale[0]))
        h = max(1, min(height, round(shrink * min(height, width / aspect))))
        w = max(1, min(width, round(shrink * min(width, height * aspect))))
        return int(numbers[2] * (height - h + 1)), int(numbers[3] * (width - w + 1)), h, w


@dataclass(frozen=True)
class StrongView:
    """A :class:`CropView`, then colours, then erasing.

    Brightness, contrast and saturation are blends with black, with the mean grey and with the grey image, by factors
    of ``1 +- jitter``. With probability ``erase`` a rectangle of 2 to 20 % of the area becomes the mean colour
    (Zhong et al., Random Erasing, 2017, https://arxiv.org/abs/1708.04896).
    """

    crop: CropView
    jitter: float = 0.4
    erase: float = 0.5
    deterministic: bool = False
    only_reads: ClassVar[bool] = True

    @property
    def short_edge(self) -> int:
        """See :class:`CropView`."""
        return self.crop.short_edge

    def __call__(self, image: Tensor, generator: Generator | None) -> Tensor:
        """See :class:`View`."""
        image = self.crop(image, generator)
        numbers = torch.rand(8, generator=generator).tolist()
        factors = [1 + self.jitter * (2 * n - 1) for n in numbers[:3]]
        image = recolour(image, *factors)
        return self._erased(image, numbers[4:]) if numbers[3] < self.erase else image

    def _erased(self, image: Tensor, numbers: list[float]) -> Tensor:
        height, width = image.shape[-2:]
        area = height * width * (0.02 + 0.18 * numbers[0])
        aspect = math.exp((2 * numbers[1] - 1) * math.log(3))
        h, w = (max(1, min(m, round(math.sqrt(a)))) for m, a in ((height, area * aspect), (width, area / aspect)))
        top, left = int(numbers[2] * (height - h + 1)), int(numbers[3] * (width - w + 1))
        image = image.clone()
        fill = torch.tensor(mean_colour(self.crop.input), dtype=torch.uint8)
        image[:, top : top + h, left : left + w] = fill[:, None, None]
        return image


def recolour(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Scale brightness, contrast and saturation of a uint8 image; a factor of 1 leaves it as it is."""
    # Summed as integers: a float sum would depend on the number of threads, so on the number of workers.
    mean = brightness * image.sum(dtype=torch.int64).item() / image.numel()
    pixels = (image.to(torch.float32) * brightness - mean) * contrast + mean
    if image.shape[0] == 3:
        grey = pixels[0] * 0.299 + pixels[1] * 0.587 + pixels[2] * 0.114
        pixels = (pixels - grey) * saturation + grey
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def mean_colour(input: ImageInput) -> list[int]:
    """The input's mean as uint8 values, one a channel (or one for all)."""
    return [round(255 * m) for m in _for_channels(input.mean, input.channels)]


def image_views(input: ImageInput, augment: str = "medium", *, flip: bool | None = None) -> dict[str, View]:
    """The four views for an augmentation level.

    Args:
        input: size, channels and resizing of the model.
        augment: one of :data:`AUGMENTS`.
        flip: mirror images; None leaves it to the level (medium and strong do).

    Raises:
        UsageError: unknown level.
    """
    if augment not in AUGMENTS:
        hint = did_you_mean(augment, AUGMENTS) or f"one of {', '.join(AUGMENTS)}"
        raise UsageError(f"unknown augmentation {augment!r}", hint=hint)
    mirror = augment in ("medium", "strong") if flip is None else flip
    light = CropView(input, scale=(0.75, 1.0), ratio=(0.95, 1.05), flip=mirror)
    medium = CropView(input, flip=mirror)
    strong = StrongView(medium)
    levels: dict[str, View] = {"none": EvalView(input), "light": light, "medium": medium, "strong": strong}
    return {"eval": levels["none"], "train": levels[augment], "weak": light, "strong": strong}


def normalise(batch: Tensor, input: ImageInput, out: Tensor | None = None) -> Tensor:
    """``(batch / 255 - mean) / std`` in float32, on the batch's device, in timm's order of operations.

    Args:
        batch: uint8 [B, C, H, W].
        input: mean and std, a value per channel; a single value serves all, three values give one channel their mean.
        out: float32 of the batch's shape that is written and returned. Where it is used again and again a CPU is five
            times as fast: most of the time goes into fresh pages of memory.
    """
    mean, std = (_per_channel(v, batch) for v in (input.mean, input.std))
    floats = batch.to(torch.float32) if out is None else out.copy_(batch)
    if floats.is_contiguous() or not floats.is_contiguous(memory_format=torch.channels_last):
        return floats.div_(255).sub_(mean).div_(std)
    channels, width = floats.shape[1], floats.shape[3]
    rows = floats.permute(0, 2, 3, 1).flatten(2)  # the same memory; three values at a time are slow
    mean, std = (values.flatten().expand(channels).repeat(width) for values in (mean, std))
    rows.div_(255).sub_(mean).div_(std)
    return floats


def _per_channel(values: tuple[float, ...], batch: Tensor) -> Tensor:
    return torch.tensor(_for_channels(values, batch.shape[1]), device=batch.device)[:, None, None]


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if channels == 1 and len(values) > 1:
        values = (sum(values) / len(values),)
    if len(values) not in (1, channels):
        raise UsageError(f"{len(values)} normalisation values for {channels} channels", hint="give one a channel")
    return values
