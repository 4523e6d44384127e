"""What a backbone wants to be fed. The contract assumes no image: text and audio stand beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """Facts of an image input and of the transform used in evaluation.

    Attributes:
        size: height and width in pixels.
        channels: number of input channels.
        mean, std: per channel, on values scaled to 0..1.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"lanczos"``.
        crop_pct: the resized edge is ``size / crop_pct`` before the crop.
        crop_mode: ``"center"`` (resize the short edge, crop the middle), ``"squash"`` (resize both edges, ignoring the
            aspect ratio) or ``"border"`` (fit the long edge, pad).
        fixed_size: the backbone takes this size alone.
    """

    size: tuple[int, int] = (224, 224)
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    fixed_size: bool = False

    kind = "image"


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """Facts of a text input: the longest sequence in tokens; the tokenizer's files are among the backbone's assets."""

    max_tokens: int = 512
    lowercase: bool = False

    kind = "text"


@dataclass(frozen=True, kw_only=True)
class AudioInput:
    """Facts of an audio input: sample rate in Hz, window in seconds, and how it is turned into features."""

    sample_rate: int = 16_000
    seconds: float = 10.0
    representation: str = "waveform"

    kind = "audio"


Input = ImageInput | TextInput | AudioInput
