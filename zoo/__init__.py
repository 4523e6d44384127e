"""The zoo: pick a pretrained backbone, put a head on it, choose how it learns, prove it, publish it.

The command line says the same words::

    zoo.list_backbones("resnet*")
    zoo.plan("photos/", strategy="linear:3,full:10").phases
    run = zoo.finetune("photos/", backbone="timm/resnet18.a1_in1k", strategy="linear:3,full:10", out="run")
    model = zoo.load("run")
    zoo.evaluate(model, "photos/")
    zoo.push("run", "me/flowers", hub="hub/")
    zoo.pull("me/flowers", hub="hub/")
    zoo.export("me/flowers", "onnx", hub="hub/")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zoo.api import (
        assemble,
        diff,
        evaluate,
        export,
        find_lr,
        finetune,
        list_backbones,
        list_heads,
        list_strategies,
        list_trackers,
        load,
        plan,
        predict,
        predict_stream,
        pull,
        push,
        verify,
    )

__all__ = [
    "__version__",
    "assemble",
    "diff",
    "evaluate",
    "export",
    "find_lr",
    "finetune",
    "list_backbones",
    "list_heads",
    "list_strategies",
    "list_trackers",
    "load",
    "plan",
    "predict",
    "predict_stream",
    "pull",
    "push",
    "verify",
]


def __getattr__(name: str) -> Any:
    """The public functions, imported on first use: ``import zoo`` alone costs no torch."""
    if name in __all__:
        import zoo.api

        return getattr(zoo.api, name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
