"""The tracker, over tensorboard's own writer of event files; torch plays no part in it."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_registry import PluginError, TrackedRun, Tracker, TrackerSpec

from zoo_tensorboard import TensorBoardOptions

PATIENCE = 2.0
"""Seconds that a resumed run waits at most for its file to get a later name than the one before."""


def build(spec: TrackerSpec, options: TensorBoardOptions) -> TensorBoardTracker:
    """The tracker of one run.

    Raises:
        PluginError: tensorboard is not installed, or broken.
    """
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.compat.proto.summary_pb2
        import tensorboard.summary.writer.event_file_writer  # noqa: F401
    except ImportError as error:
        raise PluginError(
            f"tracker {spec.name} needs tensorboard, which cannot be imported ({error})",
            hint="pip install tensorboard",
        ) from error
    return TensorBoardTracker(options)


class TensorBoardTracker(Tracker):
    """Writes event files; each call returns once they hold what it was told.

    After a resume a new file says from which step on the ones before are void (a session start, which TensorBoard
    reads as such), so no step is shown twice. Readers take the files in the order of their names, which begin with the
    second they were made in.
    """

    def __init__(self, options: TensorBoardOptions) -> None:
        self.options = options
        self.step = 0
        self._writer: Any = None

    def begin(self, run: TrackedRun) -> None:
        """Open the event file; in a resumed run, void what comes again."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = self._folder(run)
        _wait_for_a_later_name(folder)
        self._writer, self.step = EventFileWriter(str(folder)), run.step
        if run.resumed:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=run.step, session_log=start))
        elif self.options.recipe:
            self._text("recipe", json.dumps(run.recipe, indent=2, default=str))
        self._writer.flush()

    def _folder(self, run: TrackedRun) -> Path:
        if self.options.folder is None:
            return run.folder / "tensorboard"
        return Path(self.options.folder).expanduser() / run.folder.resolve().name

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A point of each curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.step = step
        self._add(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]))

    def figure(self, name: str, path: Path) -> None:
        """The picture as it is."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # of a PNG's first chunk
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=content)
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]))

    def end(self, status: str) -> None:
        """Close the file."""
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        """A text, as a code block."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        block = "\n".join("    " + line for line in text.splitlines())
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[block.encode()], tensor_shape=shape)
        metadata = SummaryMetadata(plugin_data=plugin)
        self._add(Summary(value=[Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)]))

    def _add(self, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=self.step, summary=summary))
        self._writer.flush()


def _wait_for_a_later_name(folder: Path) -> None:
    """Until the second is over in which the newest event file of the folder was made."""
    made = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    newest = max((int(second) for second in made if second.isdigit()), default=0)
    patience = time.monotonic() + PATIENCE
    while int(time.time()) <= newest and time.monotonic() < patience:
        time.sleep(0.05)
