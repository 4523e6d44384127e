"""``model.onnx``: converted by torch's exporter, named and told of its classes here, run by onnxruntime."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from zoo_registry import ZooError

from zoo.exporting.checks import Run
from zoo.exporting.program import BATCH, Deployed, quietly

NAME = "model.onnx"
DATA = "model.onnx.data"
OPSET = 18
"""Version of the operators: the one that torch's exporter writes without converting again."""
LARGEST = 1_900_000_000
"""Bytes of weights above which they lie in a file beside the model: a protobuf file ends at 2 GiB."""


def needs() -> tuple[str, ...]:
    """Packages beyond torch."""
    return ("onnx", "onnxscript", "onnxruntime")


def versions() -> dict[str, Any]:
    """What a record says of the format."""
    found = {name: importlib.metadata.version(name) for name in ("onnx", "onnxscript")}
    return {"opset": OPSET, "torch": torch.__version__, **found}


def write(folder: Path, program: ExportedProgram, module: Deployed, record: str, where: str) -> tuple[Run, str]:
    """Write the model with the record among its metadata; give it at work in onnxruntime and what runs it.

    Args:
        folder: where it goes.
        program: what was traced.
        module: what it was traced from.
        record: JSON text; each of its keys becomes one of the model's metadata, its value JSON text.
        where: what messages call the model.

    Raises:
        ZooError: there is no ONNX for what it computes.
    """
    import onnx

    proto = _convert(program, module, where)
    _forget_making(proto)
    _name(proto, module)
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in json.loads(record).items()}
    onnx.helper.set_model_props(proto, values)
    proto.producer_name, proto.producer_version = "zoo", values["zoo"].strip('"')
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    onnx.save_model(proto, folder / NAME, save_as_external_data=size > LARGEST, location=DATA)
    return _session(folder / NAME, module)


def _convert(program: ExportedProgram, module: Deployed, where: str) -> Any:
    """The model as torch's exporter makes it."""
    names = [_placeholder(place) for place in range(len(module.names))]
    try:
        with quietly():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[module.form.input_name],
                output_names=names,
                opset_version=OPSET,
                custom_translation_table=_exact_operators(),
            )
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:160]
        raise ZooError(
            f"{where} has no ONNX form: {reason}", hint="--to torch-export keeps torch's own operators"
        ) from error
    assert converted is not None
    return converted.model_proto


def _exact_operators() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators that the converter writes in a form that loses digits, in one that does not.

    ``log(sigmoid(x))`` is -inf below -104 and 0 above 17; ``exp(x) - 1`` has no digits left near 0.
    ``log_sigmoid(x) = -softplus(-x)``; ``expm1(x) = tanh(x / 2) (exp(x) + 1)``.
    """
    from onnxscript import opset18 as op

    def log_sigmoid(x: Any) -> Any:
        return op.Neg(op.Softplus(op.Neg(x)))

    def expm1(x: Any) -> Any:
        half = op.Tanh(op.Mul(x, op.Constant(value_float=0.5)))
        return op.Mul(half, op.Add(op.Exp(x), op.Constant(value_float=1.0)))

    return {torch.ops.aten.log_sigmoid.default: log_sigmoid, torch.ops.aten.expm1.default: expm1}


def _forget_making(proto: Any) -> None:
    """Remove what the converter noted of how the model was made: stack traces with files of this machine."""
    for graph in [*_graphs(proto.graph), *proto.functions]:
        del graph.metadata_props[:]
        graph.doc_string = ""
        for part in [*graph.node, *graph.value_info]:
            del part.metadata_props[:]
            part.doc_string = ""
    for part in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del part.metadata_props[:]
        part.doc_string = ""


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _placeholder(place: int) -> str:
    """An output's name until all others are known."""
    return f"output:{place}"


def _name(proto: Any, module: Deployed) -> None:
    """Give the outputs their names; what else is called so (a column may be called ``add``) gives way."""
    wanted = list(module.names.values())
    renamed = {_placeholder(place): name for place, name in enumerate(wanted)}
    others = _names(proto) - renamed.keys()
    taken = {*wanted, *others}
    for name in sorted(others.intersection(wanted)):
        renamed[name] = next(new for n in range(len(taken) + 1) if (new := f"{name}.{n}") not in taken)
        taken.add(renamed[name])
    _rename(proto.graph, renamed)
    symbol = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", BATCH, dim.dim_param)


def _names(proto: Any) -> set[str]:
    """Names of all values."""
    return {
        name
        for graph in _graphs(proto.graph)
        for name in [
            *(value.name for value in [*graph.input, *graph.initializer]),
            *(output for node in graph.node for output in node.output),
        ]
    }


def _rename(top: Any, renamed: Mapping[str, str]) -> None:
    for graph in _graphs(top):
        for value in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
            value.name = renamed.get(value.name, value.name)
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]


def _session(path: Path, module: Deployed) -> tuple[Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(x: Tensor) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {module.form.input_name: x.numpy()}), strict=True))

    return run, f"onnxruntime {onnxruntime.__version__}"
