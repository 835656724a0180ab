"""Convolves series as images of one line, for a backend whose fast kernels are for images alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import content, dims, insert, replace, stored

__all__ = ["SeriesAsImages"]


class SeriesAsImages(ir.passes.InPlacePass):
    """Makes convolutions over [B, C, 1, n] of those over [B, C, n].

    onnxruntime lays the channels of images out in blocks and has kernels for that; a series is copied into a matrix for each window and
    sample instead. Steps of energies of trajectories took 1.5 to 1.8 times as long so, with one thread.

    A convolution whose weights are quantized stays, and so does one with padding that is worked out: what dequantizes
    weights has to stand right before it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        wide: dict[ir.Value, ir.Value] = {}  # weights are stored once for all steps of a sampler
        found = [node for node in model.graph if _takes_series(node)]
        for node in found:
            _as_image(model.graph, node, wide)
        return ir.passes.PassResult(model, bool(found))


def _takes_series(node: ir.Node) -> bool:
    if node.op_type != "Conv" or dims(node.inputs[0]) is None or len(dims(node.outputs[0]) or ()) != 3:
        return False
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET":
        return False
    return content(node.inputs[1]) is not None


def _as_image(graph: ir.Graph, node: ir.Node, wide: dict[ir.Value, ir.Value]) -> None:
    x, weight, *bias = node.inputs
    array = content(weight)
    assert x is not None and weight is not None and array is not None
    if weight not in wide:
        wide[weight] = stored(graph, np.ascontiguousarray(array[:, :, None]), f"{weight.name}.line")
    out, name = node.outputs[0], node.name
    before, after = dims(x), dims(out)
    assert before is not None and after is not None
    line = graph.initializers.get("series.line")
    axis = stored(graph, np.array([2], np.int64), "series.line") if line is None else line
    image = insert(node, "Unsqueeze", [x, axis], like=x, name=f"{node.name}.line", shape=[*before[:2], 1, before[2]])
    attributes = {
        name: [one, *given] if len(given := node.attributes[name].as_ints()) == 1 else [0, given[0], 0, given[1]]
        for name, one in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0))
        if name in node.attributes
    }
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    made = insert(
        node, "Conv", [image, wide[weight], *bias], like=out, name=f"{node.name}.image",
        shape=[*after[:2], 1, after[2]], group=group, **attributes,
    )  # fmt: skip
    convolution = made.producer()
    assert convolution is not None
    replace(node, insert(node, "Squeeze", [made, axis], like=out, name=f"{node.name}.series"))
    convolution.name = name  # by which a layer is known
    if not weight.uses() and weight.name is not None:
        graph.initializers.pop(weight.name, None)
