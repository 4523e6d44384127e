"""The model card: ``README.md`` of a bundle, with metadata that the Hub reads."""

from __future__ import annotations

from typing import Any

from zoo_registry import Exported, ImageInput

from zoo.bundle.document import Document
from zoo.bundle.licences import LICENCES
from zoo.bundle.small import DELTA
from zoo.evaluation.metrics import MAIN_METRIC

TASKS = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "regression": "image-regression",
}
SHOWN = 12
"""Rows of metrics and classes that the card shows before it says how many more there are."""


def render_card(
    document: Document,
    *,
    library: str | None,
    figures: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    peft: str | None = None,
) -> str:
    """The card's text: YAML front matter, then what a reader asks for.

    Args:
        document: the bundle's ``zoo.json``.
        library: the library whose own form the files have, for the loading snippet.
        figures: file names of figures in the bundle.
        notes: lines on the run.
        peft: the code that makes the backbone for plain peft, see :func:`peft_base`; None: peft cannot load it.
    """
    whole = library if document.merged else None
    lines = ["---", front_matter(document, whole).strip(), "---", "", f"# {title(document)}", ""]
    lines += _what(document)
    lines += _metrics(document, figures)
    lines += _recipe(document)
    lines += _data(document)
    lines += _base(document)
    lines += _limits(document, notes)
    lines += _loading(document, library)
    lines += _adapter(document, peft)
    return "\n".join(lines).rstrip() + "\n"


def title(document: Document) -> str:
    """``resnet18.a1_in1k fine-tuned for label``."""
    columns = ", ".join(column.name for column in document.columns)
    return f"{document.backbone.rpartition('/')[2]} fine-tuned for {columns}"


def front_matter(document: Document, library: str | None) -> str:
    """The YAML metadata: tags, licence, base model, ``model-index``."""
    from huggingface_hub import EvalResult, ModelCardData

    task = TASKS.get(document.columns[0].kind, "image-classification")
    base = document.base.get("repo") if document.base else None
    results = [
        EvalResult(
            task_type=task,
            dataset_type=str(document.data.get("form", "custom")),
            dataset_name=str(document.data.get("name", "custom")),
            dataset_split=split,
            metric_type=name,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for split, metrics in document.metrics.items()
        for name, value in metrics.items()
    ]
    known = (document.license or "unknown").lower()
    listed = known in LICENCES
    data = ModelCardData(
        license=known if listed else "other",
        license_name=None if listed else known.replace(" ", "-"),
        library_name=library,
        pipeline_tag=task if task != "image-regression" else None,
        tags=["zoo", "transfer-learning", *([task] if task != "image-regression" else [])],
        base_model=base,
        base_model_relation="finetune" if base else None,
        model_name=title(document) if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def plain(text: str) -> str:
    """A name as it may stand in Markdown: in one line, and no mark in it ends what it stands in."""
    return "".join(c if c.isprintable() and c not in "`<>|" else "?" for c in text)


def _what(document: Document) -> list[str]:
    column = document.columns[0]
    given = document.input
    lines = [f"A transfer model: backbone `{document.backbone}`, head `{document.head}`, trained with the zoo."]
    if isinstance(given, ImageInput):
        lines.append(f"It takes images of {given.size[0]} x {given.size[1]} px with {given.channels} channels.")
    for column in document.columns:
        if column.classes:
            names = ", ".join(f"`{plain(c)}`" for c in column.classes[:SHOWN])
            more = f" and {len(column.classes) - SHOWN} more" if len(column.classes) > SHOWN else ""
            lines.append(
                f"Column `{plain(column.name)}` ({column.kind}) has {len(column.classes)} classes: {names}{more}."
            )
        else:
            lines.append(f"Column `{plain(column.name)}` is a {column.kind} target.")
    return [*lines, ""]


def _metrics(document: Document, figures: tuple[str, ...]) -> list[str]:
    if not document.metrics:
        return ["## Metrics", "", "Not measured.", ""]
    splits = list(document.metrics)
    names = list(dict.fromkeys(name for metrics in document.metrics.values() for name in metrics))
    main = MAIN_METRIC.get(document.columns[0].kind, ("", True))[0]
    names.sort(key=lambda name: name != main)
    lines = ["## Metrics", "", "| metric | " + " | ".join(splits) + " |", "|---|" + "---|" * len(splits)]
    for name in names:
        cells = [f"{document.metrics[s][name]:.4f}" if name in document.metrics[s] else "" for s in splits]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    for figure in figures:
        lines += [f"![{figure.rpartition('.')[0].replace('_', ' ')}]({figure})", ""]
    return lines


def _recipe(document: Document) -> list[str]:
    lines = ["## Recipe", ""]
    for place, phase in enumerate(document.recipe.get("phase", []), start=1):
        names = " + ".join(f"`{c['name']}`" for c in phase.get("strategies", []))
        number, unit = (phase["epochs"], "epoch") if phase.get("epochs") else (phase.get("steps", 0), "step")
        length = f"{number or 'no'} {unit}" + ("" if number == 1 else "s")
        detail = f", learning rate {phase['rate']:g}, weight decay {phase['decay']:g}" if phase.get("rate") else ""
        lines.append(f"{place}. {names}: {length}{detail}, augmentation {phase.get('augment', 'none')}")
    return [*lines, "", f"Seed {document.recipe.get('seed', 0)}. The whole recipe stands in `zoo.json`.", ""]


def _data(document: Document) -> list[str]:
    lines = ["## Data", ""]
    rows = {k: v for k, v in document.data.items() if not isinstance(v, dict | list) and k != "fingerprint"}
    lines += [f"- {name.replace('_', ' ')}: {plain(str(value))}" for name, value in rows.items()]
    for split, count in (document.data.get("splits") or {}).items():
        lines.append(f"- {split}: {_samples(count)}")
    if document.data.get("fingerprint"):
        lines.append(f"- fingerprint (sha256 of names, sizes and labels): `{document.data['fingerprint']}`")
    return [*lines, ""]


def _samples(count: Any) -> str:
    if isinstance(count, dict):
        count = count.get("samples", sum(v for v in count.values() if isinstance(v, int)))
    return f"{count} samples"


def _base(document: Document) -> list[str]:
    lines = ["## Base model and licence", ""]
    if document.base is None:
        return [*lines, "Trained from random weights, so no licence is inherited.", ""]
    where = document.base.get("repo") or document.base.get("package") or "a local file"
    revision = f" at `{document.base['revision']}`" if document.base.get("revision") else ""
    lines.append(f"Fine-tuned from `{document.backbone}` (`{where}`{revision}).")
    known = document.license is not None
    lines.append(f"Licence of the base weights: {document.license if known else 'unknown'}.")
    return [*lines, ""]


def _limits(document: Document, notes: tuple[str, ...]) -> list[str]:
    lines = ["## Limits", ""]
    lines.append(
        "- Measured on the data described above and on nothing else: it says nothing of other sources of images."
    )
    lines += [f"- {note}" for note in notes]
    return [*lines, ""]


def _loading(document: Document, library: str | None) -> list[str]:
    lines = ["## Loading", "", "With the zoo:", "", "```python", "import zoo", "", 'model = zoo.load("owner/name")']
    lines += ['rows = zoo.predict(model, ["file.jpg"])', "```", ""]
    needed = " ".join(needed_distributions(document))
    lines += [f"It needs `pip install transfer-zoo {needed}`.", ""]
    if not document.merged:
        lines += ["Without the zoo the files are the backbone before its adapter, which gives other features.", ""]
    elif library == "timm":
        lines += ["With timm alone:", "", "```python", "import timm"]
        lines += ['model = timm.create_model("hf-hub:owner/name", pretrained=True)', "```", ""]
        if document.head_form == "module":
            lines += ["timm loads the backbone; the head lies in `head.safetensors` and needs the zoo.", ""]
        else:
            lines += ["With transformers:", "", "```python", "from transformers import pipeline"]
            lines += ['classify = pipeline("image-classification", model="owner/name")', "```", ""]
    return lines


def delta_card(text: str, document: Document, base: str) -> str:
    """A whole bundle's card as that of its delta, which no other library can load before it is made whole.

    Args:
        text: the whole bundle's card; what a person wrote into it stays, but for the section on loading.
        document: the delta's ``zoo.json``.
        base: the base in a few words.
    """
    _, fence, adapter = text.partition("\n`adapter/` holds")
    start, _, _ = text.partition("\n## Loading\n")
    lines = start.splitlines()
    timm = "library_name: timm" in lines
    told = [line for line in lines if not line.startswith("library_name:")]
    told += ["", *_loading(document, None)]
    told += [f"This repo is a delta on `{base}`: `{DELTA}` holds the tensors that differ from it.", ""]
    if timm:
        told += ["`zoo pull owner/name` makes it whole, in the folder that it names; there timm alone loads it:", ""]
        told += ["```python", "import timm"]
        told += ['model = timm.create_model("local-dir:FOLDER", pretrained=True)', "```", ""]
    return "\n".join(told).rstrip() + "\n" + (f"{fence}{adapter}" if fence else "")


def needed_distributions(document: Document) -> list[str]:
    """The distributions of the plugins without which the model cannot be loaded; others were for training alone."""
    names = [document.backbone, document.head]
    if document.adapter is not None and (not document.merged or (document.delta and document.delta.from_adapter)):
        names.append(document.adapter.strategy)
    namespaces = {name.partition("/")[0] for name in names}
    return list(dict.fromkeys(p.distribution for p in document.plugins if p.namespace in namespaces))


def _adapter(document: Document, peft: str | None) -> list[str]:
    """What lies in ``adapter/``, and how plain peft reads it."""
    record = document.adapter
    if record is None:
        return []
    lines = [f"`adapter/` holds what `{record.strategy}` trained (method `{record.method}`)."]
    if not record.merged:
        return [*lines, "It is not merged into the weights: the zoo applies it when it loads the model.", ""]
    lines += ["`model.safetensors` has it merged; it is there for those who want the backbone's adapter alone.", ""]
    if peft is not None:
        lines += ["With timm and peft, on the pretrained backbone:", "", "```python", "import timm"]
        lines += ["from peft import PeftModel", *peft.splitlines()]
        lines += ['backbone = PeftModel.from_pretrained(backbone, "owner/name", subfolder="adapter")', "```", ""]
    return lines


def peft_base(document: Document, exported: Exported) -> str | None:
    """The lines that make the pretrained backbone with timm alone, or None where that cannot be said."""
    base, config = document.base or {}, exported.config
    if exported.library != "timm" or not isinstance(config.get("architecture"), str):
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
