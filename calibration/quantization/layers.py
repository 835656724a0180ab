"""The layers of a score graph: the nodes that multiply by weights, which are the ones worth running in INT8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

__all__ = ["Layer", "changing", "find_layers", "size_of_one"]

_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with constant weights.

    Attributes:
        name: of its node.
        op: Conv, Gemm or MatMul.
        activation: name of the value that it reads.
        output: name of the value that it writes.
        weight: name of the initializer that holds its weights.
        channel_axis: axis of the weights that runs over output channels.
        half: "gradient" for a layer whose result depends on grad_scale, "forward" for the others.
        macs: multiplications for one sample.
        every_step: its result changes from step to step, since it depends on x or on grad_scale; an encoder of a
            condition does not.
        reads_scale: what it reads depends on grad_scale and on no other input.
        reads_state: it depends on x, and no other layer that does lies between x and this one.
        writes_grad: no other layer lies between this one and the output `grad`.
        module: the user's module that it belongs to, "" for the model itself.
        reads_input: what it reads depends on the numbers of an input, and not on their sizes alone: coordinates of pixels that are
            expanded to the batch are a constant, which engines compute beforehand.
    """

    name: str
    op: str
    activation: str
    output: str
    weight: str
    channel_axis: int
    half: Literal["forward", "gradient"]
    macs: int
    every_step: bool
    reads_scale: bool
    reads_state: bool
    writes_grad: bool
    module: str
    reads_input: bool = True


def find_layers(model: ir.Model) -> list[Layer]:
    """Finds the layers of a score graph or of a prologue, in the order in which they run.

    1. Conv whose kernel, and Gemm or MatMul whose second operand, is an initializer of at least two dimensions, and
       whose bias, where it has one, is an initializer as well.
    2. Products of two computed tensors (attention) and anything else are no layers: they stay as they are.

    Args:
        model: a lowered float32 graph; every value is shaped. A prologue has neither x nor grad_scale.
    """
    graph = model.graph
    found: dict[ir.Node, Layer] = {}
    from_scale = _behind(graph, "grad_scale")
    from_others = set().union(*(_descendants(value) for value in graph.inputs if value.name != "grad_scale"))
    from_inputs = set().union(*map(_descendants, graph.inputs))
    from_x = _behind(graph, "x")
    layers = {node for node in graph if _has_weights(node)}
    behind = _nodes_behind(layers & from_x)  # what depends on a layer that depends on x
    before = _nodes_before(layers)  # what a layer depends on
    for node in graph:
        if node not in layers:
            continue
        source, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
        assert source is not None and weight is not None and weight.const_value is not None
        assert source.name is not None and weight.name is not None and out.name is not None and node.name is not None
        found[node] = Layer(
            name=node.name,
            op=node.op_type,
            activation=source.name,
            output=out.name,
            weight=weight.name,
            channel_axis=_channel_axis(node),
            half="gradient" if node in from_scale else "forward",
            macs=_macs(node),
            every_step=node in from_x or node in from_scale,
            reads_scale=node in from_scale and node not in from_others,
            reads_state=node in from_x and node not in behind,
            writes_grad=_reaches_grad(node) and node not in before,
            module=_module(node.name, gradient=node in from_scale),
            reads_input=node in from_inputs,
        )
    return list(found.values())


def _module(name: str, *, gradient: bool) -> str:
    """The module in a node's name: module/kind in the forward half, module/grad/kind in the other."""
    parts = name.split("/")[:-1]
    return "/".join(parts[:-1] if gradient and parts[-1:] == ["grad"] else parts)


def _has_weights(node: ir.Node) -> bool:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or node.inputs[0] is None:
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and bias.const_value is None:
        return False
    if node.op_type == "Gemm":
        attributes = node.attributes
        plain = all(name not in attributes or attributes[name].as_float() == 1 for name in ("alpha", "beta"))
        if not plain or ("transA" in attributes and attributes["transA"].as_int()):
            return False
    rank = len(weight.const_value.shape)
    return rank == 2 if node.op_type != "Conv" else rank >= 3


def _channel_axis(node: ir.Node) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    return 0 if transposed else 1


def _macs(node: ir.Node) -> int:
    weight, out = node.inputs[1], node.outputs[0]
    assert weight is not None and weight.const_value is not None
    size = weight.const_value.numpy().size
    shape = [] if out.shape is None else [_for_one_sample(n) for n in out.shape]
    places = math.prod(shape[:1] + shape[2:]) if node.op_type == "Conv" else math.prod(shape[:-1])
    return size * places


def changing(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of a score graph whose results change from step to step, since they depend on x or on grad_scale."""
    return _behind(graph, "x") | _behind(graph, "grad_scale")


def size_of_one(value: ir.Value) -> int:
    """Numbers in a value at batch 1; 1 where its shape is not known."""
    return 1 if value.shape is None else math.prod(_for_one_sample(size) for size in value.shape)


def _for_one_sample(size: int | ir.SymbolicDim) -> int:
    """A dimension at batch 1: that of [B * T, N] is T, which is written "5*B"."""
    if isinstance(size, int):
        return size
    return math.prod(int(factor) for factor in str(size.value).split("*") if factor.strip().isdigit())


def _behind(graph: ir.Graph, name: str) -> set[ir.Node]:
    """What depends on an input; nothing where there is none of this name."""
    return set().union(*(_descendants(value) for value in graph.inputs if value.name == name))


def _descendants(value: ir.Value) -> set[ir.Node]:
    """What depends on a value's numbers; what only has its sizes, as an Expand to its batch, does not."""
    found: set[ir.Node] = set()
    waiting = [use.node for use in value.uses()]
    while waiting:
        node = waiting.pop()
        if node not in found and node.op_type not in _SIZES:
            found.add(node)
            waiting += [use.node for output in node.outputs for use in output.uses()]
    return found


def _nodes_behind(layers: set[ir.Node]) -> set[ir.Node]:
    return set().union(*(_descendants(node.outputs[0]) for node in layers)) if layers else set()


def _nodes_before(layers: set[ir.Node]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting = [value.producer() for node in layers for value in node.inputs if value is not None]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [value.producer() for value in node.inputs if value is not None]
    return found


def _reaches_grad(node: ir.Node) -> bool:
    if node.outputs[0].name == "grad":
        return True
    return any(output.name == "grad" for after in _descendants(node.outputs[0]) for output in after.outputs)
