"""The card's sections: what it is, how good it is, what it learned from, what it is not good for."""

from __future__ import annotations

from typing import Any

from zoo_registry import Column

from zoo.bundle.card.words import (
    METRICS,
    code,
    column_of,
    counted,
    input_words,
    judged,
    main_metrics,
    plain,
    recipe_label,
    wilson,
)
from zoo.bundle.document import Document
from zoo.bundle.licences import Settled, licence_id, licence_kind, teacher_licences
from zoo.bundle.measured import Comparison
from zoo.bundle.proof import proof_lines

SHOWN = 12
"""Classes that the card shows before it says how many more there are."""
ENOUGH = 100
"""So many labels are needed to judge probabilities by."""
FEW = 1000
"""Up to so many samples the interval of an accuracy is told."""
FORMS = {
    "folder": "a folder of class folders",
    "table": "a table",
    "datasets": "a Hugging Face dataset",
    "torch": "a torch dataset",
    "digits": "scikit-learn's handwritten digits",
}
TOLD = frozenset({"form", "name", "fingerprint", "columns", "samples", "splits", "ignored", "val_fraction", "val_seed"})


def what(document: Document, settled: Settled) -> list[str]:
    """The summary: in, out, how it learned, how good it is, its licence."""
    rows = [("input", input_words(document.input))]
    rows += [("output", _output(column)) for column in document.columns]
    rows.append(("backbone, head", f"`{document.backbone}`, `{document.head}`"))
    start = "pretrained weights" if document.base else "random weights"
    rows.append(("learned", f"{code(recipe_label(document))} from {start}{_on(document)}"))
    rows += list(_scores(document))
    shown = "" if licence_kind(settled.name) != "non-commercial" else ": no commercial use"
    rows.append(("licence", f"{code(settled.name)}{shown}"))
    on = f" on {code(str(document.data['name']))}" if document.data.get("name") else ""
    learned = "pretrained, then fine-tuned" if document.base else "trained from random weights"
    lines = [f"`{document.backbone}`, {learned}{on} with the zoo.", "", "| | |", "|---|---|"]
    return [*lines, *(f"| {name} | {value} |" for name, value in rows), ""]


def _output(column: Column) -> str:
    if not column.classes:
        return f"{code(column.name)}: a number"
    names = ", ".join(code(c) for c in column.classes[:SHOWN])
    more = f" and {len(column.classes) - SHOWN} more" if len(column.classes) > SHOWN else ""
    chosen = "any of" if column.kind == "multilabel" else "one of"
    return f"{code(column.name)}: {chosen} {len(column.classes)} classes, {names}{more}"


def _on(document: Document) -> str:
    count = (document.data.get("splits") or {}).get("train")
    return f" on {counted(count, 'sample')}" if isinstance(count, int) else ""


def _scores(document: Document) -> list[tuple[str, str]]:
    split = judged(document)
    if split is None:
        return [("measured", "nothing")]
    rows = []
    for column, metric in main_metrics(document):
        value = document.metrics[split].get(metric)
        if value is not None:
            name = f"{code(column)}, {metric.removeprefix(f'{column}.')}" if len(document.columns) > 1 else metric
            rows.append((f"{name} on {split}", f"{value:.3f}{_interval(document, split, column, metric)}"))
    best = max((c for c in document.comparisons if c.start == "random"), key=_first_metric(document), default=None)
    gain = gains(document, best) if best is not None else []
    return rows + [("transfer gain", ", ".join(f"{value:+.3f} {plain(name)}" for name, value in gain))] * bool(gain)


def _first_metric(document: Document) -> Any:
    """The strongest run from scratch is the one to be compared with."""
    names = [metric for _, metric in main_metrics(document)]
    return lambda row: row.metrics.get(names[0], float("-inf")) if names else 0.0


def _interval(document: Document, split: str, column: str, metric: str) -> str:
    count = document.samples.get(split, {}).get(column, 0)
    if not metric.endswith("accuracy") or not 0 < count <= FEW:
        return ""
    low, high = wilson(document.metrics[split][metric], count)
    return f" ({low:.3f} to {high:.3f}, the 95 % interval of {counted(count, 'sample')})"


def gains(document: Document, other: Comparison) -> list[tuple[str, float]]:
    """Main metric and how much better the model is than the other run, for each column that both measured."""
    own = document.metrics.get(other.split, {})
    names = [metric for _, metric in main_metrics(document)]
    return [(name, own[name] - other.metrics[name]) for name in names if name in own and name in other.metrics]


def metrics(document: Document, figures: tuple[str, ...]) -> list[str]:
    """The table of metrics, the comparisons, the figures."""
    if not document.metrics:
        return ["## Metrics", "", "Not measured.", ""]
    lines = ["## Metrics", ""]
    if len(document.columns) == 1:
        lines += _table(document, document.columns[0], "")
    else:
        for column in document.columns:
            lines += [f"### {code(column.name)}", "", *_table(document, column, f"{column.name}.")]
    lines += [*proof_lines(document), *_compared(document)]
    for figure in figures:
        lines += [f"![{figure.rpartition('.')[0].replace('_', ' ')}]({figure})", ""]
    if figures:
        lines += ["Rows are the true classes, columns what was predicted; colour is the share of the row.", ""]
    return lines


def _table(document: Document, of: Column, prefix: str) -> list[str]:
    """The metrics of a column, whose names begin with ``prefix``, the main one first, a column for each split."""
    splits = list(document.metrics)
    first = [metric for _, metric in main_metrics(document)]
    found = [*first, *(name for metrics in document.metrics.values() for name in metrics)]
    names = [name for name in dict.fromkeys(found) if column_of(document, name) is of]
    lines = (
        [f"| metric | {' | '.join(splits)} | |", "|---|" + "---|" * len(splits) + "---|"] if names else ["No label."]
    )
    for name in names:
        cells = [f"{document.metrics[s][name]:.4f}" if name in document.metrics[s] else "" for s in splits]
        metric = name.removeprefix(prefix)
        lines.append(f"| {plain(metric)} | {' | '.join(cells)} | {METRICS.get(metric, '')} |")
    return [*lines, ""]


def _compared(document: Document) -> list[str]:
    rows = [(other, gains(document, other)) for other in document.comparisons]
    rows = [(other, found) for other, found in rows if found]
    if not rows:
        return []
    split = rows[0][0].split
    names = [name for name, _ in rows[0][1]]
    head = " | ".join(f"{plain(name)} | gain" for name in names)
    own = " | ".join(f"{document.metrics[split][name]:.4f} | " for name in names)
    lines = ["### Transfer gain", "", f"The same data; measured on the same samples ({split}):", ""]
    lines += [f"| run | {head} |", "|---|" + "---|---|" * len(names), f"| this model | {own}|"]
    for other, found in rows:
        start = "random weights" if other.start == "random" else "pretrained weights"
        gain = dict(found)
        cells = " | ".join(f"{other.metrics[n]:.4f} | {gain[n]:+.4f}" if n in gain else " | " for n in names)
        lines.append(f"| {code(other.backbone)} from {start}, {code(other.recipe)}, seed {other.seed} | {cells} |")
    return [*lines, ""]


def limits(document: Document) -> list[str]:
    """What the numbers do not say, and what is known to be weak."""
    lines = ["Measured on the data described below and on nothing else: other sources of images may do worse."]
    split = judged(document)
    if split == "val":
        lines.append("There was no test split. The best epoch was chosen on val, so its numbers flatter the model.")
    if any(column.kind == "classification" for column in document.columns):
        lines.append("It answers with one of its classes whatever it is shown, also where none of them is right.")
    for column in document.columns:
        lines += _weak(document, column, split or "")
    if document.base and not any(c.start == "random" for c in document.comparisons):
        lines.append("Whether the pretrained weights helped was not measured.")
    return ["## Limits", "", *(f"- {line}" for line in [*lines, *map(plain_note, document.notes)]), ""]


def _weak(document: Document, column: Column, split: str) -> list[str]:
    """What the metrics of a column say against it, as far as the labels suffice to say so."""
    several = len(document.columns) > 1
    found, of = document.metrics.get(split, {}), f" of {code(column.name)}" if several else ""
    balanced, error = (found.get(f"{column.name}." * several + name) for name in ("balanced_accuracy", "ece"))
    lines = []
    if column.kind == "classification" and balanced is not None and balanced <= 1.05 / max(1, column.size):
        lines.append(f"One answer for everything would have the same balanced accuracy{of} ({balanced:.2f}).")
    if error is not None and error > 0.1 and document.samples.get(split, {}).get(column.name, 0) >= ENOUGH:
        lines.append(f"The probabilities{of} are no frequencies: they are off by {error:.0%} on average (ece).")
    return lines


def plain_note(note: str) -> str:
    """A line of the run's own, without what Markdown would take for HTML."""
    return "".join(c if c.isprintable() and c not in "<>" else "?" for c in note)


def data(document: Document) -> list[str]:
    """What it learned from: never where that lay."""
    told = document.data
    form = FORMS.get(str(told.get("form")), plain(str(told.get("form", "custom"))))
    name = plain(str(told.get("name", "")))
    lines = [
        "## Data",
        "",
        f"`{name}`, {form}." if name and name != told.get("form") else f"{form[:1].upper()}{form[1:]}.",
        "",
    ]
    splits = {name: count for name, count in (told.get("splits") or {}).items() if isinstance(count, int)}
    if splits:
        lines += ["| split | samples |", "|---|---|", *(f"| {plain(n)} | {c:,} |" for n, c in splits.items()), ""]
    if isinstance(told.get("val_fraction"), float):
        lines += [
            f"- val was drawn from train: {told['val_fraction']:.0%}, by seed {plain(str(told.get('val_seed', 0)))}"
        ]
    rows = {k: v for k, v in told.items() if not isinstance(v, dict | list) and k not in TOLD and v is not None}
    lines += [f"- {plain(name).replace('_', ' ')}: {plain(str(value))}" for name, value in rows.items()]
    lines += [f"- left aside: {counted(n, 'file')} ({plain(what)})" for what, n in (told.get("ignored") or {}).items()]
    if told.get("fingerprint"):
        lines.append(f"- fingerprint (sha256 of names, sizes and labels): `{plain(str(told['fingerprint']))}`")
    return [*lines, ""]


def recipe(document: Document) -> list[str]:
    """The phases, a line each."""
    lines = ["## Recipe", ""]
    for place, phase in enumerate(document.recipe.get("phase", []), start=1):
        names = " + ".join(f"`{c['name']}`" for c in phase.get("strategies", []))
        number, unit = (phase["epochs"], "epoch") if phase.get("epochs") else (phase.get("steps", 0), "step")
        length = f"{number or 'no'} {unit}" + ("" if number == 1 else "s")
        detail = f", learning rate {phase['rate']:g}, weight decay {phase['decay']:g}" if phase.get("rate") else ""
        lines.append(f"{place}. {names}: {length}{detail}, augmentation {phase.get('augment', 'none')}")
    train = document.recipe.get("train") or {}
    batch = f"Batches of {train['batch_size']}, " if train.get("batch_size") else ""
    return [*lines, "", f"{batch}seed {document.recipe.get('seed', 0)}. The whole recipe stands in `zoo.json`.", ""]


def base(document: Document, settled: Settled) -> list[str]:
    """Where it comes from, and under which licence it is."""
    lines = ["## Base model and licence", ""]
    if document.base is None:
        lines.append("Trained from random weights, so no licence is inherited.")
    else:
        lines.append(f"Fine-tuned from `{document.backbone}` ({_where(document.base)}).")
        known = licence_id(document.license)
        says = f" (source: {plain(document.license_source)})" if document.license_source else ""
        lines.append(f"Licence of the base weights: {f'`{known}`{says}' if document.license else 'unknown'}.")
    for teacher, licence in teacher_licences(document).items():
        lines.append(f"It learned from the outputs of {code(teacher)}, licence {code(licence_id(licence))}.")
    lines += ["", f"Licence of this model: {code(settled.name)}, {plain_note(settled.why)}."]
    if licence_kind(settled.name) == "non-commercial":
        lines.append("**It forbids commercial use.**")
    return [*lines, ""]


def _where(base: dict[str, Any]) -> str:
    if base.get("repo"):
        at = f" at `{plain(base['revision'])}`" if base.get("revision") else ""
        return f"[{plain(base['repo'])}](https://huggingface.co/{plain(base['repo'])}){at}"
    return f"of the package `{plain(base['package'])}`" if base.get("package") else "a local file"
