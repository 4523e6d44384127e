"""The hooks of zoo-tensorboard: runs in TensorBoard. Importing this module imports neither torch nor tensorboard."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import PluginInfo, TrackerSpec, hookimpl, option


@dataclass(frozen=True, kw_only=True)
class TensorBoardOptions:
    """Where the event files go."""

    folder: str | None = option(
        None, help="folder in which the run gets one of its own, named after its run folder; RUN/tensorboard by default"
    )
    recipe: bool = option(True, help="show the recipe among the texts")


@hookimpl
def zoo_plugin() -> PluginInfo:
    """What this plugin is."""
    return PluginInfo(summary="runs in TensorBoard")


@hookimpl
def zoo_trackers() -> tuple[TrackerSpec, ...]:
    """``tensorboard``."""
    return (
        TrackerSpec(
            name="tensorboard",
            summary="curves, figures and recipe as TensorBoard's event files (needs: pip install tensorboard)",
            factory="zoo_tensorboard.tracker:build",
            options=TensorBoardOptions,
            aliases=("tb",),
        ),
    )
