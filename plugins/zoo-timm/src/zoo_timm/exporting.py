"""timm's own published form: ``config.json`` and the tensors of ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Classifier, ImageInput, PluginError, UsageError


def make_config(
    architecture: str,
    arguments: Mapping[str, Any],
    source: Mapping[str, Any],
    image: ImageInput,
    *,
    labels: Sequence[str],
    classes: int,
    width: int,
    pool: str | None,
    license: str | None,
) -> dict[str, Any]:
    """The content of ``config.json`` as timm and transformers read it.

    Args:
        architecture: timm's name, without a tag.
        arguments: constructor keywords beyond the defaults, JSON values; ``num_classes`` must not be among them
            (transformers passes it on its own and fails on a second one).
        source: timm's ``pretrained_cfg`` of the model.
        image: the evaluation transform really used.
        labels: class names in order; kept without a classifier too.
        classes: outputs of the classifier in the file, 0 where there is none.
        width: ``num_features``, for information.
        pool: ``global_pool``, for information.
        license: licence id, None where unknown.
    """
    config: dict[str, Any] = {"architecture": architecture, "num_classes": classes, "num_features": width}
    if pool:
        config["global_pool"] = pool
    if labels:
        config["label_names"] = list(labels)
    if arguments:
        config["model_args"] = dict(arguments)
    config["pretrained_cfg"] = {
        "custom_load": False,
        "input_size": [image.channels, *image.size],
        "fixed_input_size": bool(source.get("fixed_input_size", False)),
        "interpolation": image.interpolation,
        "crop_pct": image.crop_pct,
        "crop_mode": image.crop_mode,
        "mean": list(image.mean),
        "std": list(image.std),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": source.get("first_conv"),
        "classifier": source.get("classifier"),
    }
    if license is not None:
        config["pretrained_cfg"]["license"] = license
    return config


def classifier_tensors(
    classifier: Classifier, state: Mapping[str, Tensor], full: Mapping[str, Tensor], *, name: str
) -> dict[str, Tensor]:
    """The classifier under timm's names and in timm's shapes (a 1x1 convolution holds [K, D, 1, 1]).

    Args:
        classifier: weight [K, D] and bias [K].
        state: state dict of the backbone.
        full: state dict (shapes suffice) of the same architecture with K classes.
        name: the backbone, for the error.

    Raises:
        UsageError: the architecture's classifier is not one linear layer on these features.
    """
    extra = {key: tensor.shape for key, tensor in full.items() if key not in state}
    weights = [key for key in extra if key.endswith(".weight")]
    rows, width = classifier.weight.shape
    plain = len(weights) == 1 and tuple(extra[weights[0]]) in ((rows, width), (rows, width, 1, 1))
    prefix = weights[0].removesuffix(".weight") if plain else ""
    if not plain or set(extra) != {f"{prefix}.weight", f"{prefix}.bias"} or len(full) != len(state) + 2:
        raise UsageError(f"the classifier of '{name}' is not one linear layer", "publish the head beside the backbone")
    return {
        f"{prefix}.weight": classifier.weight.reshape(extra[f"{prefix}.weight"]),
        f"{prefix}.bias": classifier.bias,
    }


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, contiguous copies on the CPU, ready for safetensors.

    Raises:
        PluginError: a tensor has no data (the meta device).
    """
    if any(tensor.is_meta for tensor in tensors.values()):
        raise PluginError("a model on the meta device has no weights to export")
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    return {name: copy.contiguous(memory_format=torch.contiguous_format) for name, copy in copies.items()}
