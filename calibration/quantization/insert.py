"""Writes layers of a score graph in INT8, with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .grid import Grid
from .layers import Layer

__all__ = ["IntWeights", "corrected_name", "insert_int8"]


_NO_BIAS = 1e-30
"""Zeros would be taken out of the graph again."""


@dataclass(frozen=True)
class IntWeights:
    """A layer's weights on their grid.

    Attributes:
        numbers: int8, in the shape of the weights.
        scales: [N] float32, one for each output channel.
        correction: [N] float32, added to the layer's output; None adds nothing.
    """

    numbers: np.ndarray
    scales: np.ndarray
    correction: np.ndarray | None = None


def insert_int8(
    model: ir.Model,
    layers: Collection[Layer],
    grids: Mapping[str, Grid],
    weights: Mapping[str, IntWeights],
    *,
    fuses_sums: bool = True,
) -> ir.Model:
    """A copy of a float32 score graph in which some layers read INT8 inputs and INT8 weights.

    1. The input of each layer goes through QuantizeLinear and DequantizeLinear, one pair for all layers that read it.
    2. Its weights are stored as int8 and go through DequantizeLinear along the output channels; zero points are 0. The
       float ones leave the file where no other node reads them.
    3. An Add that joins the result of such a layer with a tensor that is quantized anyway reads that tensor on its
       grid as well, so that an engine can add inside the convolution. The addition is then as coarse as the layer
       beside it, no coarser. Where engines do not add there, this gains nothing and is left out.
    4. Biases stay float32: TensorRT takes no INT32 ones. A correction becomes part of the bias. A convolution without one gets
       a bias that is as good as zero: without any, OpenVINO 2026.4.1 computes something else where a product with a
       computed tensor (the mask of a ReLU's gradient) follows and elementwise operations are not fused.
    5. Everything else is left alone.

    Args:
        model: a lowered float32 graph; not changed.
        layers: those to write in INT8, as `find_layers` gives them.
        grids: by name of the value that a layer reads.
        weights: by name of the layer.
        fuses_sums: whether engines add inside an INT8 layer.

    Returns:
        The copy; inputs and outputs stay float32. All float32 constants that it has from the graph, and the INT8 numbers, are shared.
    """
    copy = model.clone()  # through protobuf, one constant that stays would hold the memory of all
    graph = copy.graph
    nodes = {node.name: node for node in graph}
    pairs: dict[str, ir.Value] = {}
    results: set[ir.Node] = set()
    floats = {layer.weight for layer in layers}
    for layer in layers:
        node = nodes[layer.name]
        source = node.inputs[0]
        assert source is not None and source.name is not None
        if source.name not in pairs:
            pairs[source.name] = _pair(graph, source, grids[source.name])
        node.replace_input_with(0, pairs[source.name])
        node.replace_input_with(1, _weights(graph, node, layer, weights[layer.name]))
        correction = weights[layer.name].correction
        if correction is None and layer.op == "Conv" and (len(node.inputs) < 3 or node.inputs[2] is None):
            correction = np.full(len(weights[layer.name].scales), _NO_BIAS, np.float32)
        results.add(node if correction is None else _correct(graph, node, correction))
    for node in list(graph):
        if fuses_sums and node.op_type == "Add":
            _quantize_beside(node, results, pairs)
    for name in floats:
        if not graph.initializers[name].uses():
            del graph.initializers[name]
    return copy


def corrected_name(node: ir.Node) -> str:
    """Name of the Add that corrects a MatMul; its second input is the correction."""
    return f"{node.name}.corrected"


def _pair(graph: ir.Graph, source: ir.Value, grid: Grid) -> ir.Value:
    """Puts a value on its grid and back; returns what comes out."""
    scale = _constant(graph, np.array(grid.scale, np.float32), f"{source.name}.scale")
    zero = _constant(graph, np.array(grid.zero_point, grid.dtype), f"{source.name}.zero_point")
    down = ir.node("QuantizeLinear", [source, scale, zero], name=f"{source.name}.quantize")
    up = ir.node("DequantizeLinear", [down.outputs[0], scale, zero], name=f"{source.name}.dequantize")
    for made, dtype in ((down, ir.DataType.from_numpy(grid.dtype)), (up, ir.DataType.FLOAT)):
        made.outputs[0].name, made.outputs[0].dtype, made.outputs[0].shape = made.name, dtype, source.shape
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], (down, up))
    else:
        graph.insert_after(producer, (down, up))
    return up.outputs[0]


def _weights(graph: ir.Graph, node: ir.Node, layer: Layer, stored: IntWeights) -> ir.Value:
    name = f"{layer.name}.weight"
    numbers = _constant(graph, stored.numbers, f"{name}.int8")
    scales = _constant(graph, stored.scales, f"{name}.scale")
    zeros = _constant(graph, np.zeros(len(stored.scales), np.int8), f"{name}.zero_point")
    up = ir.node("DequantizeLinear", [numbers, scales, zeros], {"axis": layer.channel_axis}, name=f"{name}.dequantize")
    up.outputs[0].name, up.outputs[0].dtype = f"{name}.dequantize", ir.DataType.FLOAT
    up.outputs[0].shape = ir.Shape(stored.numbers.shape)
    graph.insert_before(node, up)
    return up.outputs[0]


def _correct(graph: ir.Graph, node: ir.Node, correction: np.ndarray) -> ir.Node:
    """Adds [N] to a layer's output: in its bias where it has one, else as a bias, or in an Add after a MatMul.

    Returns:
        the node that gives the layer's output now.
    """
    if node.op_type == "MatMul":
        out = node.outputs[0]
        constant = _constant(graph, correction.astype(np.float32), f"{node.name}.correction")
        add = ir.node("Add", [out, constant], name=corrected_name(node))
        # The sum takes the product's name: whoever looks for the layer's output finds what the layer gives.
        add.outputs[0].name, out.name = out.name, f"{out.name}.uncorrected"
        add.outputs[0].dtype, add.outputs[0].shape = ir.DataType.FLOAT, out.shape
        graph.insert_after(node, add)
        uses = [(use.node, use.idx) for use in out.uses() if use.node is not add]
        for user, index in uses:
            user.replace_input_with(index, add.outputs[0])
        if out.is_graph_output():
            graph.outputs[list(graph.outputs).index(out)] = add.outputs[0]
        return add
    held = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros(len(correction), np.float32)
    if held is not None:
        assert held.const_value is not None, "a layer's bias is a constant"
        bias = held.const_value.numpy()
    total = bias.reshape(-1) + correction if bias.size == len(correction) else bias + correction
    value = _constant(graph, np.asarray(total, np.float32), f"{node.name}.bias.corrected")
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)
    return node


def _quantize_beside(node: ir.Node, quantized: Collection[ir.Node], pairs: Mapping[str, ir.Value]) -> None:
    """Rule 3 of `insert_int8`, for one Add."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        if value is None or other is None or value.name is None or value.name not in pairs:
            continue
        if other.producer() in quantized:
            node.replace_input_with(index, pairs[str(value.name)])
            return


def _constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value
