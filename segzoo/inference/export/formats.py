"""Files that other runtimes run: how a recorded graph is written as one, and how one is run."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..._version import __version__
from ...packages import load_package

#: Names of the file's one input and one output, and of the axes that may be free.
INPUT, OUTPUT = "image", "logits"
AXES = {0: "batch", 2: "height", 3: "width"}

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        suffix: Suffix of the file.
        needs: Packages that write it.
        runtime: The package that runs it.
        write: Writes a program, and facts about it, to a path.
        open: Gives a function that runs the file in float32, in so many threads; None leaves
            that to the runtime. Several threads may call it at once.
        facts: Gives what a file says of itself, each value as JSON.
    """

    suffix: str
    needs: tuple[str, ...]
    runtime: str
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None]
    open: Callable[[Path, int | None], Run]
    facts: Callable[[Path], dict[str, str]] = lambda path: {}


def _write_onnx(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    graph: Any = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
    )
    graph.model.producer_name, graph.model.producer_version = "segzoo", __version__
    graph.model.metadata_props.update(facts)
    graph.save(path)
    _name_axes(path)


def _name_axes(path: Path) -> None:
    """torch's names of free sizes (s77) become batch, height and width."""
    onnx = load_package("onnx", extra="export")
    proto = onnx.load(path, load_external_data=False)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in AXES.items() if dims[axis].dim_param}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), dim.dim_param)
    onnx.save(proto, path)


def _open_onnx(path: Path, threads: int | None = None) -> Run:
    runtime = load_package("onnxruntime", extra="export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {INPUT: image.numpy()})[0])


def _facts_of_onnx(path: Path) -> dict[str, str]:
    proto = load_package("onnx", extra="export").load(path, load_external_data=False)
    return {item.key: item.value for item in proto.metadata_props}


def _write_openvino(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    openvino = load_package("openvino", extra="export")
    graph = openvino.convert_model(program)
    name = program.graph_signature.user_inputs[0]
    image = next(node for node in program.graph.nodes if node.name == name)
    # The converter leaves every size free, those that the graph was recorded for too.
    graph.reshape([side if isinstance(side, int) else -1 for side in image.meta["val"].shape])
    graph.inputs[0].get_tensor().set_names({INPUT})
    graph.outputs[0].get_tensor().set_names({OUTPUT})
    for key, value in facts.items():
        graph.set_rt_info(value, ["segzoo", key])
    openvino.save_model(graph, path, compress_to_fp16=False)


def _open_openvino(path: Path, threads: int | None = None) -> Run:
    # Without the hint a processor that has bfloat16 computes in it.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = load_package("openvino", extra="export").compile_model(path, "CPU", options)
    # Who calls it gets its one request, which refuses a second thread, and owns what comes out. A
    # request for each thread would gain nothing but maps in memory: they compute in turn.
    in_use = threading.Lock()

    def run(image: Tensor) -> Tensor:
        given = image.numpy()
        with in_use:
            return torch.from_numpy(compiled(given)[0].copy())

    return run


def _facts_of_openvino(path: Path) -> dict[str, str]:
    network = load_package("openvino", extra="export").Core().read_model(path)
    stored = network.get_rt_info("segzoo").value
    return {key: str(value) for key, value in stored.items()}


#: By the name that :func:`segzoo.export` takes.
FORMATS = {
    "onnx": Format(
        ".onnx", ("onnx", "onnxscript"), "onnxruntime", _write_onnx, _open_onnx, _facts_of_onnx
    ),
    "openvino": Format(
        ".xml", ("openvino",), "openvino", _write_openvino, _open_openvino, _facts_of_openvino
    ),
}
