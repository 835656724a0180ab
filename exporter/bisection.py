"""Finds the first operation of a graph at which an engine leaves PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .lowering.lower import ATEN_NODE, ORIGIN
from .score_graph import ScoreGraph

__all__ = ["FirstDifference", "bisect"]

RunPrefix = Callable[[ir.Model], np.ndarray]
"""Compiles a graph whose output `grad` is some inner value, runs it, and returns that output."""


@dataclass(frozen=True)
class FirstDifference:
    """The first operation whose value is off, in the order of the graph."""

    node: str
    """Name of the ONNX node."""
    origin: str
    """The ATen operation and its place in the user's model."""
    relative_error: float
    """||value - PyTorch's value|| / ||PyTorch's value||."""


def bisect(
    model: ir.Model,
    traced: ScoreGraph,
    inputs: dict[str, np.ndarray],
    run: RunPrefix,
    tolerance: float,
) -> FirstDifference | None:
    """Searches for the first wrong value by running ever shorter pieces of the graph.

    Each probe is the graph cut after one operation, so the engine fuses around it as it likes. The search supposes that
    a wrong value makes the later ones wrong.

    Args:
        model: the graph that the failing engine was made from.
        traced: the graph that it was lowered from; PyTorch runs it in float64.
        inputs: graph inputs at a batch of `traced.batch`.
        run: runs a piece on the backend in question.
        tolerance: relative error up to which a value counts as right.

    Returns:
        The first operation that differs, or None where every piece by itself is right.
    """
    expected = _values(traced, inputs)
    probes = [
        node
        for node in model.graph
        if node.metadata_props.get(ATEN_NODE) in expected and node.outputs[0].dtype in _FLOATS
    ]

    def error(node: ir.Node) -> float:
        right = expected[node.metadata_props[ATEN_NODE]]
        value = run(_cut(model, node.outputs[0].name or ""))
        if value.size != right.size or not np.isfinite(value).all():
            return float("inf")
        # Sample by sample, as engines are judged, where the leading dimension is the batch.
        rows = traced.batch if right.ndim and right.shape[0] == traced.batch else 1
        right = right.reshape(rows, -1)
        size = np.linalg.norm(right, axis=1)
        off = np.linalg.norm(value.reshape(rows, -1).astype(np.float64) - right, axis=1)
        return float((off / np.where(size > 0, size, 1.0)).max())

    low, high, found = 0, len(probes), float("nan")
    while low < high:
        middle = (low + high) // 2
        off = error(probes[middle])
        if off > tolerance:
            high, found = middle, off
        else:
            low = middle + 1
    if low == len(probes):
        return None
    first = probes[low]
    return FirstDifference(first.name or "", first.metadata_props.get(ORIGIN, "no place in the model"), found)


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _values(traced: ScoreGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the traced graph by node name, in float64."""
    found: dict[str, np.ndarray] = {}

    class Keep(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            result = super().run_node(node)
            if isinstance(result, torch.Tensor) and result.is_floating_point():
                found[node.name] = result.numpy(force=True).astype(np.float64)
            return result

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            views = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
            target = torch.ops.aten.reshape.default if target in views else target
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
            return super().call_function(target, args, kwargs)

    def widened(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    arguments = []
    for node in traced.graph.nodes:
        if node.op == "placeholder" and node.name in traced.constants:
            arguments.append(widened(traced.constants[node.name]))
        elif node.op == "placeholder":
            arguments.append(widened(torch.tensor(inputs[node.name.removeprefix("input_")])))
    graph = torch.fx.GraphModule(torch.nn.Module(), traced.graph)
    with torch.no_grad():
        Keep(graph).run(*arguments, enable_io_processing=False)
    return found


def _cut(model: ir.Model, name: str) -> ir.Model:
    """A copy of the graph that returns the value of this name as `grad`, and grad_scale as `energy`."""
    copy = ir.from_proto(ir.to_proto(model))
    graph = copy.graph
    value = next(out for node in graph for out in node.outputs if out.name == name)
    scale = next(source for source in graph.inputs if source.name == "grad_scale")
    for old in graph.outputs:
        old.name = f"{old.name}.full"
    outputs = []
    for label, source in (("energy", scale), ("grad", value)):
        cast = ir.node("Cast", [source], {"to": ir.DataType.FLOAT.value}, name=f"{label}.probe")
        cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = label, ir.DataType.FLOAT, source.shape
        graph.append(cast)
        outputs.append(cast.outputs[0])
    del graph.outputs[:]
    graph.outputs.extend(outputs)
    RemoveUnusedNodesPass()(copy)
    return copy
