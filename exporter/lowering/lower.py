"""The walk from ATen to ONNX."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...runtime.errors import UnsupportedOperation
from ..batch import arguments_of
from ..provenance import origin_of
from ..score_graph import ScoreGraph
from .emitter import ONNX_TYPES, OPSET, Emitter
from .narrow import wrapped
from .table import RULES, Context

__all__ = ["ATEN_NODE", "ORIGIN", "lower"]

ATEN_NODE = "ebm_export.aten_node"
"""Metadata of an ONNX node: name of the traced node whose value it computes."""
ORIGIN = "ebm_export.origin"
"""Metadata of an ONNX node: the operation and its place in the user's model, in words."""


def lower(traced: ScoreGraph, name: str) -> ir.Model:
    """Writes a score graph as an ONNX model of standard operations.

    Args:
        traced: the functional ATen graph.
        name: name of the ONNX graph.

    Returns:
        A float32 model with inputs x [B, *S], the conditioning inputs and grad_scale [B], and outputs energy [B]
        and grad [B, *S]. Every value is typed and shaped; B is symbolic.

    Raises:
        UnsupportedOperation: an operation has no rule; the message names it, its module and its source line.
    """
    inputs = {node.name: node for node in traced.graph.nodes if node.op == "placeholder"}
    graph_inputs: dict[torch.fx.Node, ir.Value] = {}
    for wanted in traced.inputs:
        node = inputs[f"input_{wanted}"]
        graph_inputs[node] = ir.val(
            wanted, ONNX_TYPES[node.meta["val"].dtype], ir.Shape(["B", *node.meta["shape"][1:]])
        )
    emit = Emitter(next(iter(graph_inputs.values())))
    for wanted in (*traced.inputs, *traced.outputs):
        emit.reserve(wanted)
    values: dict[torch.fx.Node, Any] = dict(graph_inputs)
    constants: dict[torch.fx.Node, np.ndarray] = {}
    results: list[ir.Value] = []
    for node in traced.graph.nodes:
        emit.origin = origin_of(node)
        if node.op == "placeholder" and node.name in traced.constants:
            if node.meta["val"].dtype not in ONNX_TYPES:
                continue  # what reads it is refused, with its place in the model
            held = traced.constants[node.name].detach()
            content = (held.float() if held.is_floating_point() else held).numpy()
            constants[node] = content
            values[node] = emit.constant(
                content, ONNX_TYPES[node.meta["val"].dtype], name=_constant_name(traced, node.name)
            )
        elif node.op == "call_function":
            before = len(emit.nodes)
            values[node] = _lower_node(Context(emit, node, values, constants), node)
            _remember(values[node], node, emit.nodes[before:])
        elif node.op == "output":
            for wanted, result in zip(traced.outputs, node.args[0], strict=True):
                results.append(_as_output(emit, wanted, values[result]))
    graph = ir.Graph(
        list(graph_inputs.values()),
        results,
        nodes=emit.nodes,
        initializers=list(emit.initializers.values()),
        opset_imports={"": OPSET},
        name=name,
    )
    return ir.Model(graph, ir_version=10, producer_name="ebm-export")


def _constant_name(traced: ScoreGraph, placeholder: str) -> str:
    """The user's name of a parameter; what was computed from it says so."""
    origin = traced.origins.get(placeholder)
    if origin is None:
        return "constant"
    return origin if placeholder.startswith("state_") else f"{origin}.folded"


def _lower_node(context: Context, node: torch.fx.Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and value.dtype not in ONNX_TYPES:
        raise _unsupported(node, f"gives {str(value.dtype).removeprefix('torch.')} numbers, which ONNX engines lack")
    args, kwargs = arguments_of(node)
    if node.target is operator.getitem:
        outputs = context.values[args[0]]
        if args[1] >= len(outputs):
            raise _unsupported(args[0], f"has no rule for its output {args[1]} (the indices of a pool, say)")
        return outputs[args[1]]
    rule = RULES.get(node.target)
    if rule is None:
        raise _unsupported(node, "has no rule")
    try:
        result = rule(context, *args, **kwargs)
        return wrapped(context, result) if isinstance(value, torch.Tensor) else result
    except NotImplementedError as error:
        raise _unsupported(node, f"is not supported in this form ({error})") from error
    except (TypeError, ValueError) as error:
        if "batched" not in node.meta or not node.meta["batched"]:
            raise
        # A rule that reckons with a size that is no number.
        raise _unsupported(node, "is not supported with a size that grows with the batch as argument") from error


def _remember(value: Any, node: torch.fx.Node, made: Sequence[ir.Node]) -> None:
    """Notes on the ONNX nodes which ATen node they compute, and where in the user's model that stands."""
    origin = origin_of(node)
    if origin is not None:
        for part in made:
            part.metadata_props[ORIGIN] = f"{node.target}, in {origin.describe()}"
    producer = value.producer() if isinstance(value, ir.Value) else None
    if producer is not None and ATEN_NODE not in producer.metadata_props:
        producer.metadata_props[ATEN_NODE] = node.name


def _unsupported(node: torch.fx.Node, problem: str) -> UnsupportedOperation:
    origin = origin_of(node)
    place = origin.describe() if origin else "an unknown place of the model"
    return UnsupportedOperation(
        f"operation {node.target}, in {place}, {problem}; "
        "rewrite that line with other operations, or add a rule (docs/adding-a-rule.md)"
    )


def _as_output(emit: Emitter, name: str, value: ir.Value) -> ir.Value:
    """The graph output of this name; a value that already is an input or an output goes through Identity."""
    if value.producer() is None or value.name in ("energy", "grad"):
        assert value.shape is not None and value.dtype is not None
        value = emit.ops("Identity", [value], outputs=[(value.dtype, ["B", *list(value.shape)[1:]])])[0]  # type: ignore[list-item]
    value.name = name
    return value
