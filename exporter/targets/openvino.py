"""Target openvino: OpenVINO's own format, with the weights in a .bin beside the .xml."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from pathlib import Path

import onnx
import onnx_ir as ir

from ...runtime.backends.openvino_error import failed_node, in_one_sentence
from ...runtime.errors import EbmExportError, MissingBackend, UnsupportedOperation
from ..passes.few_outputs import SplitFewOutputs
from ..passes.groups import KeepChannels
from ..passes.order import KeepOrder
from ..passes.places import KeepScaledPlaces
from ..passes.reduce import KeepReducedDims
from ..passes.windows import WidenInt8Windows
from ..precision import LOW_TYPES, kept_in_float32
from .artifact import Artifact, Progress
from .refusal import placed

__all__ = ["available", "write"]

# How OpenVINO's ONNX reader names an operation that it lacks.
_LACKS = re.compile(r"No conversion rule found for operations: (?P<operator>\w+)-")


_LAYERS = ("Convolution", "GroupConvolution")
_PRECISE = {"name": "precise", "version": "0"}
"""OpenVINO's mark for an operation that an inference precision is not to lower. On a matrix product it is lost: the plugin puts
another operation in its place."""


def available() -> str | None:
    """None when OpenVINO is installed, else a sentence that names the extra."""
    if importlib.util.find_spec("openvino") is None:
        return "target 'openvino' needs the package openvino: pip install 'ebm-export[openvino]'"
    return None


def write(
    graph: onnx.ModelProto,
    folder: Path,
    *,
    precision: str,
    batch: tuple[int, int, int],
    role: str = "score",
    progress: Progress | None = None,
) -> Artifact:
    """Writes `role.precision.openvino.xml` and its .bin.

    The typed graph is converted as it is, and the backend is told to lower nothing further (`inference_precision`
    f32), so each operation runs in the type that the graph gives it. The other way, a float32 file that the plugin
    lowers to BF16 by a hint, is no faster (43 ms both, residual network of 34 convolutions, batch 8, one thread) and
    lowers the reductions and the energy head too: the energy, about 830, was off by 2.5 instead of 0.4. Layers that
    `keep_in_float32` marked are marked in the file, for graphs that do run with a hint. FP16 means
    FP16 weights and float32 arithmetic on a CPU without FP16 instructions, where a hint of f16 silently means BF16.

    Args:
        graph: the score graph typed in `precision`, float32 at its border.
        folder: an existing folder.
        precision: fp32, fp16, bf16 ...
        batch: smallest, most frequent and largest batch; the file keeps the batch symbolic.
        role: score, prologue or sampler.
        progress: not called, the conversion takes well under a second.

    Raises:
        MissingBackend: OpenVINO is not installed.
        UnsupportedOperation: OpenVINO refuses an operation; the message names it, its module and its source line.
        EbmExportError: OpenVINO cannot convert the graph for another reason.
    """
    missing = available()
    if missing is not None:
        raise MissingBackend(missing)
    import openvino

    stem = f"{role}.{precision}.openvino"
    onnx_file = folder / f"{stem}.onnx"  # OpenVINO reads files, and names the model after this one
    model_ir = ir.from_proto(graph)
    KeepOrder()(model_ir)
    KeepChannels()(model_ir)
    KeepReducedDims()(model_ir)
    KeepScaledPlaces()(model_ir)
    WidenInt8Windows()(model_ir)
    SplitFewOutputs()(model_ir)
    onnx.save(ir.to_proto(model_ir), onnx_file)
    try:
        model = openvino.Core().read_model(onnx_file)
        model.set_friendly_name(role)
        # The default would store float32 weights as FP16.
        openvino.save_model(model, folder / f"{stem}.xml", compress_to_fp16=False)
        del model  # it may map the ONNX file
        _keep_in_float32(folder / f"{stem}.xml", kept_in_float32(model_ir.graph))
    except RuntimeError as error:
        text = str(error)
        what = f"OpenVINO cannot convert the {precision} {role} graph"
        lacking = _LACKS.search(text)
        operator, node = (lacking["operator"], "") if lacking else failed_node(text)
        if not operator:
            raise EbmExportError(f"{what}: {' '.join(text.split())}") from error
        message = f"{what}: {in_one_sentence(error)}"
        raise placed(UnsupportedOperation(message, operator=operator, node=node), graph, "openvino") from error
    finally:
        onnx_file.unlink()
    return Artifact(
        path=f"{stem}.xml",
        target="openvino",
        precision=precision,
        role=role,
        files=[f"{stem}.bin"],
        toolchain={"openvino": importlib.metadata.version("openvino")},
        options={"inference_precision": "f32"},
        status="built, not run",
        note=f"weights in {precision.upper()}; computed in float32 on CPUs without {precision.upper()} arithmetic"
        if precision in LOW_TYPES
        else "",
    )


def _keep_in_float32(file: Path, nodes: Collection[ir.Node]) -> None:
    """Marks in an .xml file what these convolutions of the ONNX graph became."""
    if not nodes:
        return
    # What gives an output of the graph is called as the output is.
    names = {(out.name if out.is_graph_output() else node.name) or "" for node in nodes for out in node.outputs}
    tree = ElementTree.parse(file)
    missing = set(names)
    for layer in tree.iter("layer"):
        if layer.get("type") not in _LAYERS:
            continue
        # A convolution with a bias becomes two operations under its name.
        own = next((name for name in names if layer.get("name", "").removesuffix("/WithoutBiases") == name), None)
        if own is None:
            continue
        missing.discard(own)
        info = layer.find("rt_info")
        if info is None:
            info = ElementTree.Element("rt_info")
            layer.insert(1 if layer.find("data") is not None else 0, info)
        ElementTree.SubElement(info, "attribute", _PRECISE)
    if missing:
        raise EbmExportError(f"OpenVINO's file has no layer {', '.join(sorted(missing))}, which was to stay in float32")
    tree.write(file)
