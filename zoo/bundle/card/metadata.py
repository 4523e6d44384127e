"""The YAML front matter of a card: what the Hub files the model under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoo_registry import DataError

from zoo.bundle.card.words import column_of, modality, title
from zoo.bundle.document import Document
from zoo.bundle.licences import LICENCES, Settled, settle
from zoo.hub.base import TAG
from zoo.hub.files import front_matter as read_front_matter

KIND_TASKS = {"classification": "classification", "multilabel": "classification", "regression": "regression"}
OURS = frozenset(
    {
        "license", "license_name", "license_link", "library_name", "pipeline_tag", "tags", "base_model",
        "base_model_relation", "model-index",
    }
)  # fmt: skip
"""Keys that are written anew with every card; a person's other keys (``language``, ``datasets``...) stay."""

ARGUMENTS = frozenset({"self", "model_name", "eval_results", "ignore_metadata_errors"})
"""What the Hub's library takes for arguments of its own."""


def task_of(document: Document, kind: str) -> str:
    """``image-classification``."""
    return f"{modality(document)}-{KIND_TASKS.get(kind, 'classification')}"


def front_matter(document: Document, settled: Settled | None = None, kept: Mapping[str, Any] | None = None) -> str:
    """The YAML metadata: tags, licence, base model, ``model-index``, without the fences.

    Args:
        document: the bundle's ``zoo.json``.
        settled: its licence; by the rules where None.
        kept: metadata of the card before: keys that are not ours stay, and so do tags and results on other data that
            a person added.
    """
    from huggingface_hub import ModelCardData

    task = task_of(document, document.columns[0].kind)
    known = task.endswith("classification")  # the Hub has no task for regression
    base = document.base.get("repo") if document.base else None
    kept = kept or {}
    relation = "finetune" if document.merged else "adapter"
    measured = list(results(document))
    measured += others(kept.get("model-index"), measured)
    own = [TAG, "transfer-learning", *([task] if known else [])]
    more = kept.get("tags") if isinstance(kept.get("tags"), list) else []
    data = ModelCardData(
        **_licence(document, settled or settle(document)),
        library_name=document.library if document.merged and document.delta is None else None,
        pipeline_tag=task if known else None,
        tags=list(dict.fromkeys([*own, *(str(tag) for tag in more or ())])),
        base_model=base or kept.get("base_model"),
        base_model_relation=relation if base else kept.get("base_model_relation"),
        model_name=title(document) if measured else None,
        eval_results=measured or None,
        **{name: value for name, value in kept.items() if name not in OURS | ARGUMENTS},
    )
    return str(data.to_yaml()).strip()


def results(document: Document) -> Iterator[Any]:
    """An ``EvalResult`` of each metric; of several columns each is a configuration of the data set."""
    from huggingface_hub import EvalResult

    for split, metrics in document.metrics.items():
        for name, value in metrics.items():
            column = column_of(document, name)
            several = len(document.columns) > 1
            metric = name.removeprefix(f"{column.name}.") if several else name
            yield EvalResult(
                task_type=task_of(document, column.kind),
                dataset_type=str(document.data.get("form", "custom")),
                dataset_name=str(document.data.get("name", "custom")),
                dataset_config=column.name if several else None,
                dataset_split=split,
                metric_type=metric,
                metric_name=f"{column.name}: {metric}" if several else metric,
                metric_value=round(value, 6),
            )


def others(index: Any, ours: list[Any]) -> list[Any]:
    """Of a card's ``model-index`` the results on data that ours are not on: a person's."""
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        found = model_index_to_eval_results(index or [])[1] if index else []
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return []

    def where(row: Any) -> tuple[Any, ...]:
        return row.dataset_type, row.dataset_name, row.dataset_config, row.dataset_split

    known = {where(row) for row in ours}
    return [row for row in found if where(row) not in known]


def _licence(document: Document, settled: Settled) -> dict[str, str]:
    if settled.name in LICENCES:
        return {"license": settled.name}
    repo = document.base.get("repo") if document.base and document.license_stated is None else None
    link = {"license_link": f"https://huggingface.co/{repo}"} if repo else {}
    return {"license": "other", "license_name": settled.name, **link}


def written_licence(metadata: Mapping[str, Any]) -> str | None:
    """The licence that a card's metadata names, ``license_name`` where it says ``other``; None where none."""
    value = metadata.get("license")
    named = metadata.get("license_name") if value == "other" else None
    return str(named or value) if value else None


def check_card(text: str, where: str) -> None:
    """What the Hub would refuse in a card, found here.

    Raises:
        DataError: the metadata is no YAML mapping, or a value in it is not what the Hub takes; the first is named.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    hint = "put README.md right, or write it anew: zoo card RUN --force"
    try:
        data = ModelCard(text, ignore_metadata_errors=False).data
        values = data.to_dict()
    except (ValueError, TypeError, KeyError, AttributeError, YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: README.md has metadata that the Hub cannot read: {reason}", hint) from error
    if text.lstrip("\ufeff").startswith("---") and not read_front_matter(text):
        raise DataError(f"{where}: README.md has metadata that is no YAML mapping", hint)
    licence = values.get("license")
    for name in licence if isinstance(licence, list) else [licence] if licence else []:
        if name not in LICENCES:
            raise DataError(
                f"{where}: README.md: the Hub knows no licence {name!r:.60}", "license: other, license_name"
            )
    if licence == "other" and not values.get("license_name"):
        raise DataError(f"{where}: README.md: license: other needs a license_name", hint)
    if "model-index" in values and data.eval_results is None:
        raise DataError(f"{where}: README.md: its model-index is not of the Hub's form", hint)
