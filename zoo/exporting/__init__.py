"""Export: a model as one file for other runtimes, checked against the model before it appears.

======================== ============================================================================================
:mod:`.exporting`        :func:`export_model`: from a loaded model to a folder
:mod:`.program`          backbone and head as one traced program, its batch size free
:mod:`.onnx_file`        ``model.onnx``, and its run through onnxruntime
:mod:`.torch_file`       ``model.pt2``, and its run after reloading
:mod:`.checks`           inputs, and when outputs agree
:mod:`.record`           ``export.json``: class names, transform, what was checked
======================== ============================================================================================

An export is the end of the line: it is made for a runtime and is not published. ``zoo push`` and ``zoo pull`` touch
safetensors and JSON alone.
"""

from __future__ import annotations
