"""Transforms in words."""

from __future__ import annotations

from typing import Any

from zoo_registry import ImageInput, Input

from zoo.data.transforms import CropView, EvalView, StrongView, image_views


def eval_words(given: Input) -> str:
    """The evaluation transform: how an image gets to its size."""
    if not isinstance(given, ImageInput):
        return f"the backbone's own transform for {given.kind}"
    height, width = given.size
    scaled = " x ".join(str(int(s / given.crop_pct)) for s in given.size)
    size = f"{height} x {width} px"
    resized, interpolation = given.crop_pct != 1, given.interpolation
    if given.crop_mode == "squash":
        how = f"both edges to {scaled}" if resized else "both edges"
    elif given.crop_mode == "border":
        how = f"long edge to {max(int(s / given.crop_pct) for s in given.size)}, padded"
    else:
        how = f"short edge to {min(int(s / given.crop_pct) for s in given.size)}, middle cropped"
    return f"{size}: {how}, {interpolation}"


def normalise_words(given: Input) -> str:
    """Channels, mean and deviation."""
    if not isinstance(given, ImageInput):
        return ""
    channels = "1 channel" if given.channels == 1 else f"{given.channels} channels"
    return f"{channels}, mean {_numbers(given.mean)}, std {_numbers(given.std)}"


def train_words(given: Input, augment: str, augmenting: list[str]) -> str:
    """The train view of an augmentation level, and which strategies add to it."""
    if isinstance(given, ImageInput):
        said = _view(image_views(given, augment)["train"])
    else:
        said = f"the backbone's own transform for {given.kind}"
    return ", then ".join([said, *augmenting])


def _view(view: Any) -> str:
    if isinstance(view, EvalView):
        return "as in evaluation"
    if isinstance(view, CropView):
        flip = ", flipped half of the time" if view.flip else ", no flip"
        scale = f"{100 * view.scale[0]:.0f} to {100 * view.scale[1]:.0f} %"
        return f"random crop of {scale}, aspect {view.ratio[0]:.3g} to {view.ratio[1]:.3g}{flip}"
    if isinstance(view, StrongView):
        colours = f"brightness, contrast and saturation by up to {100 * view.jitter:.0f} %"
        return f"{_view(view.crop)}; {colours}; a rectangle erased with probability {view.erase:g}"
    return type(view).__name__


def input_json(given: Input) -> dict[str, Any]:
    """The facts of the input."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(given).items()}
    return {"kind": given.kind, **plain}


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:g}" for v in values)
