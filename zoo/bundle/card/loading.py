"""The card's lines on loading: in the zoo, in the library whose form the files have, in peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo_registry import ImageInput

from zoo.bundle.document import Document
from zoo.bundle.small import DELTA

EXIF = (
    "Photographs are turned by their EXIF orientation first: the zoo and transformers' pipeline do that, "
    "with timm alone do it yourself (`PIL.ImageOps.exif_transpose`)."
)


def loading(document: Document, name: str) -> list[str]:
    """How the model is loaded; ``name`` is the repo's."""
    image = isinstance(document.input, ImageInput)
    file = "photo.jpg" if image else "file.txt"
    lines = ["## Loading", "", "With the zoo:", "", "```python", "import zoo", "", f'model = zoo.load("{name}")']
    lines += [f'rows = zoo.predict(model, ["{file}"])', "```", ""]
    needed = " ".join(needed_distributions(document))
    lines += [f"or `zoo predict {name} {file}`. It needs `pip install transfer-zoo {needed}`.", ""]
    if document.delta is not None:
        return lines
    if not document.merged:
        return [
            *lines,
            "Without the zoo the files are the backbone before its adapter, which gives other features.",
            "",
        ]
    if document.library == "timm":
        lines += ["With timm alone:", "", "```python", "import timm"]
        lines += [f'model = timm.create_model("hf-hub:{name}", pretrained=True)', "```", ""]
        if document.head_form == "module":
            lines += ["timm loads the backbone; the head lies in `head.safetensors` and needs the zoo.", ""]
        else:
            lines += ["With transformers:", "", "```python", "from transformers import pipeline"]
            lines += [f'classify = pipeline("image-classification", model="{name}")', "```", ""]
        lines += [EXIF, ""] if image else []
    return lines


def delta_loading(document: Document, base: str, name: str) -> list[str]:
    """What is to be known of a delta, which no other library can load before it is made whole."""
    lines = [f"This repo is a delta on `{base}`: `{DELTA}` holds the tensors that differ from it.", ""]
    if document.merged and document.library == "timm":
        lines += [f"`zoo pull {name}` makes it whole, in the folder that it names; there timm alone loads it:", ""]
        lines += ["```python", "import timm"]
        lines += ['model = timm.create_model("local-dir:FOLDER", pretrained=True)', "```", ""]
    return lines


def adapter_loading(document: Document, peft: str | None, name: str) -> list[str]:
    """What lies in ``adapter/``, and how plain peft reads it.

    Args:
        document: the bundle's ``zoo.json``.
        peft: the code that makes the backbone for plain peft, see :func:`peft_base`; None: peft cannot load it.
        name: the repo's.
    """
    record = document.adapter
    if record is None:
        return []
    lines = [f"`adapter/` holds what `{record.strategy}` trained (method `{record.method}`)."]
    if not record.merged:
        return [*lines, "It is not merged into the weights: the zoo applies it when it loads the model.", ""]
    held = "the model" if document.delta is not None else "`model.safetensors`"
    lines += [f"{held} has it merged; it is there for those who want the backbone's adapter alone.", ""]
    if peft is not None:
        lines += ["With timm and peft, on the pretrained backbone:", "", "```python", "import timm"]
        lines += ["from peft import PeftModel", *peft.splitlines()]
        lines += [f'backbone = PeftModel.from_pretrained(backbone, "{name}", subfolder="adapter")', "```", ""]
    return lines


def needed_distributions(document: Document) -> list[str]:
    """The distributions of the plugins without which the model cannot be loaded; others were for training alone."""
    names = [document.backbone, document.head]
    if document.adapter is not None and (not document.merged or (document.delta and document.delta.from_adapter)):
        names.append(document.adapter.strategy)
    namespaces = {name.partition("/")[0] for name in names}
    return list(dict.fromkeys(p.distribution for p in document.plugins if p.namespace in namespaces))


def peft_base(document: Document, config: Mapping[str, Any]) -> str | None:
    """The lines that make the pretrained backbone with timm alone, or None where that cannot be said.

    ``config`` is the bundle's ``config.json``.
    """
    base = document.base or {}
    if document.library != "timm" or not isinstance(config.get("architecture"), str):
        return None
    arguments = "".join(f", {name}={value!r}" for name, value in (config.get("model_args") or {}).items())
    if base.get("kind") == "hub" and base.get("file") == "model.safetensors":
        name = f"hf-hub:{base['repo']}@{base['revision']}"
        return f'backbone = timm.create_model("{name}", pretrained=True, num_classes=0{arguments})'
    if base.get("kind") == "package":
        return (
            f'from importlib.resources import files\nbase = str(files("{base["package"]}") / "{base["resource"]}")\n'
            f'backbone = timm.create_model("{config["architecture"]}", pretrained=True, num_classes=0, '
            f'pretrained_cfg_overlay={{"file": base}}{arguments})'
        )
    return None
