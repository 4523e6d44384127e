"""The metadata at the top of a README, and the tags that a hub makes of it."""

from __future__ import annotations

import json
import re

import yaml


def read_card(text: str):
    """README text -> (metadata dict or None, error or None)."""
    m = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.S)
    if not m:
        return None, None
    try:
        data = yaml.safe_load(m.group(1))
    except yaml.YAMLError as e:
        return None, f"invalid YAML: {' '.join(str(e).split())}"
    if data is None:
        return {}, None
    if not isinstance(data, dict):
        return None, "metadata must be a mapping"
    return json.loads(json.dumps(data, default=str)), None


def as_list(v) -> list:
    return [] if v is None else list(v) if isinstance(v, (list, tuple)) else [v]


def card_tags(card: dict, files) -> list[str]:
    tags = [str(t) for t in as_list(card.get("tags"))]
    if card.get("library_name"):
        tags.insert(0, str(card["library_name"]))
    if any(f.endswith(".safetensors") for f in files):
        tags.append("safetensors")
    if any(f == "pytorch_model.bin" or f.endswith((".pt", ".pth")) for f in files):
        tags.append("pytorch")
    if any(f.endswith(".onnx") for f in files):
        tags.append("onnx")
    if card.get("pipeline_tag"):
        tags.append(str(card["pipeline_tag"]))
    tags += [f"dataset:{d}" for d in as_list(card.get("datasets"))]
    tags += [str(x) for x in as_list(card.get("language"))]
    for b in as_list(card.get("base_model")):
        rel = card.get("base_model_relation") or "finetune"
        tags += [f"base_model:{b}", f"base_model:{rel}:{b}"]
    tags += [f"license:{x}" for x in as_list(card.get("license"))]
    tags.append("region:us")
    return list(dict.fromkeys(tags))
