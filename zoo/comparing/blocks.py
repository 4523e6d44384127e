"""Which block a published tensor belongs to: the backbone's own blocks where its plugin can say, else by the name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_registry import Registry

    from zoo.bundle.document import Document

HEAD = "head"
_DEEP = 3
"""Parts of a name that a block's name may have, where it is made of that alone."""


def block_names(
    document: Document | None, tensors: Collection[str], registry: Registry, where: str
) -> tuple[Callable[[str, str], str], tuple[str, ...]]:
    """A function from a file's and a tensor's name to the block's, and the blocks in the order of the model.

    Args:
        document: ``zoo.json``, None where there is none.
        tensors: names in ``model.safetensors``.
        registry: the installed plugins.
        where: what messages call the model.
    """
    classifier = frozenset(document.classifier or ()) if document is not None else frozenset()
    known = _of_plugin(document, tensors, registry, where) if document is not None else {}

    def block(file: str, tensor: str) -> str:
        if file != "model.safetensors":
            return HEAD if file == "head.safetensors" else file.partition("/")[0].removesuffix(".safetensors")
        return HEAD if tensor in classifier else known.get(tensor) or by_name(tensor)

    return block, tuple(dict.fromkeys(known.values()))


def by_name(tensor: str) -> str:
    """``layer1.0.conv1.weight`` -> ``layer1.0``, ``patch_embed.proj.weight`` -> ``patch_embed``: up to the last of the
    first three parts that is a number, else the first.
    """
    parts = tensor.split(".")[:-1][:_DEEP]
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts[:1]) or tensor


def _of_plugin(document: Document, tensors: Collection[str], registry: Registry, where: str) -> dict[str, str]:
    """Tensor -> block by the backbone's ``blocks()``, built without memory; {} where it cannot be."""
    import torch

    from zoo.assembly.model import under
    from zoo.bundle.parts import built, find_entry, parsed_options

    try:
        entry = find_entry(registry, document, "backbone", document.backbone)
        options = parsed_options(entry, document.backbone_options, "backbone", where)
        wanted = {"input": document.input, "features": document.features, "weights": None, "dtype": None}
        with torch.device("meta"):
            backbone: Any = built(entry, where, options, device="meta", **wanted)
        blocks, names = dict(backbone.blocks()), list(backbone.state_dict())
    except Exception:  # whatever a plugin's module does without memory: the names remain
        return {}
    start = _prefix(names, tensors)
    found: dict[str, str] = {}
    for block, prefixes in blocks.items():
        found |= {name: block for name in tensors if name not in found and under(start + name, prefixes)}
    return found


def _prefix(names: Collection[str], tensors: Collection[str]) -> str:
    """What the module's names have before those that are published: nothing, or one attribute's name."""
    starts = dict.fromkeys(["", *(f"{name.partition('.')[0]}." for name in names)])
    known = frozenset(names)
    return max(starts, key=lambda start: sum(start + tensor in known for tensor in tensors))
