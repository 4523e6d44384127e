"""Constructor arguments of a timm model that may come from a recipe or from a stranger's ``config.json``.

They describe shapes. What steers timm's loader (files, addresses, caches, flags) is not among them. Free of torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from zoo_registry import IntegrityError

SHAPES = frozenset(
    {
        "act_layer", "base_width", "block_args", "cardinality", "class_token", "conv_mlp", "conv_ratio", "depth",
        "depths", "dims", "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_norm", "final_norm", "fc_norm",
        "global_pool", "head_init_scale", "head_norm_first", "img_size", "in_chans", "init_values", "kernel_sizes",
        "layers", "ls_init_value", "mlp_ratio", "no_embed_class", "norm_layer", "num_heads", "out_chs", "output_stride",
        "patch_size", "pool_include_prefix", "pos_embed", "pre_norm", "proj_bias", "qk_norm", "qkv_bias",
        "reg_tokens", "rope_type", "scale_attn_norm", "scale_mlp_norm", "stem_type", "stem_width", "stride",
        "strict_img_size", "swiglu_mlp", "use_conv_mlp", "use_grn", "use_rel_pos_bias", "window_size",
    }
)  # fmt: skip
"""Arguments that are handed to timm."""
IDLE = frozenset(
    {
        "num_classes", "drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "patch_drop_rate",
        "pos_drop_rate", "head_drop_rate", "drop_block_rate", "weight_init", "zero_init_last", "fix_init",
    }
)  # fmt: skip
"""Arguments that do not change what a loaded model says; they are left out."""
MOST_LAYERS, LARGEST = 256, 65_536
COUNTS = frozenset({"depth", "depths", "layers"})


def plain_arguments(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The arguments to hand on, checked: numbers, short words, and lists of numbers.

    Raises:
        IntegrityError: an argument that is not handed on, or a value that it cannot have.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in IDLE or value is None:
            continue
        if name not in SHAPES:
            raise IntegrityError(
                f"{where}: model_args holds {name!r:.60}, which is not handed on to timm",
                "load it with timm where you trust it, and publish what remains of it",
            )
        if not _is_plain(value, MOST_LAYERS if name in COUNTS else LARGEST):
            raise IntegrityError(f"{where}: model_args: {name} is {value!r:.60}, which it cannot be")
        found[name] = value
    return found


def parse_arguments(text: str, *, where: str) -> dict[str, Any]:
    """:func:`plain_arguments` of a JSON object in a text; an empty text holds none.

    Raises:
        IntegrityError: as :func:`plain_arguments`, or it is no JSON object.
    """
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: model_args is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise IntegrityError(f"{where}: model_args is {text!r:.60}, not a JSON object", 'for example {"depth": 6}')
    return plain_arguments(values, where=where)


def _is_plain(value: Any, most: int, nested: bool = False) -> bool:
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) <= most
    if isinstance(value, str):
        return len(value) <= 40 and all(part.isalnum() for part in value.replace("-", "_").split("_") if part)
    if isinstance(value, list | tuple) and not nested:
        return len(value) <= 64 and all(_is_plain(part, most, nested=True) for part in value)
    return False
