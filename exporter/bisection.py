"""Finds the first operation of a graph at which an engine leaves PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch.utils._pytree import tree_map_only

from .folding import widen
from .lowering.lower import ATEN_NODE, ORIGIN
from .score_graph import ScoreGraph

__all__ = ["FirstDifference", "bisect", "values_in_float64"]

_LEAST = 1e-3
"""Size of a sample's value beside the largest of the batch: of less, as of a gradient near a minimum, what is left is rounding."""

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
    """Searches for the first wrong value by running pieces of the graph.

    Each probe is the graph cut after one operation, so the engine fuses around it as it likes. From the wrong gradient
    the search bisects a chain of operations, each computed from the one before, for the first that is wrong, and goes
    on from any other wrong input of that one. It supposes that what is computed from a wrong value is wrong.

    Args:
        model: the graph that the failing engine was made from.
        traced: the graph that it was lowered from; PyTorch runs it in float64.
        inputs: graph inputs at a batch of `traced.batch`.
        run: runs a piece on the backend in question.
        tolerance: relative error up to which a value counts as right.

    Returns:
        The first operation that differs, or None where every piece by itself is right.
    """
    expected = values_in_float64(traced, inputs)
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
        size = np.maximum(size, _LEAST * size.max())
        return float((off / np.where(size > 0, size, 1.0)).max())

    errors: dict[ir.Node, float] = {}

    def wrong(node: ir.Node) -> bool:
        if node not in errors:
            errors[node] = error(node)
        return errors[node] > tolerance

    parents = _parents(model.graph, set(probes))
    first = next((node for node in reversed(probes) if node.outputs[0].name == "grad"), None)
    candidates = [node for node in (first, *probes[-1:]) if node is not None]
    culprit = next((node for node in candidates if wrong(node)), None)
    while culprit is not None:
        culprit = _first_wrong(_chain(culprit, parents), wrong)
        above = next((node for node in parents[culprit] if wrong(node)), None)
        if above is None:
            origin = culprit.metadata_props.get(ORIGIN, "no place in the model")
            return FirstDifference(culprit.name or "", origin, errors[culprit])
        culprit = above
    return None


def _parents(graph: ir.Graph, probes: set[ir.Node]) -> dict[ir.Node, list[ir.Node]]:
    """The nearest probes that each probe is computed from."""
    nearest: dict[ir.Node, list[ir.Node]] = {}
    for node in graph:
        found: dict[ir.Node, None] = {}
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None:
                found |= dict.fromkeys([producer] if producer in probes else nearest[producer])
        nearest[node] = list(found)
    return {node: nearest[node] for node in probes}


def _chain(end: ir.Node, parents: dict[ir.Node, list[ir.Node]]) -> list[ir.Node]:
    """The longest chain of probes, each computed from the one before, that ends in `end`."""
    depth: dict[ir.Node, int] = {}
    waiting = [end]
    while waiting:
        node = waiting[-1]
        missing = [parent for parent in parents[node] if parent not in depth]
        if missing:
            waiting += missing
        else:
            depth[node] = 1 + max((depth[parent] for parent in parents[node]), default=0)
            waiting.pop()
    chain = [end]
    while parents[chain[-1]]:
        chain.append(max(parents[chain[-1]], key=depth.__getitem__))
    return chain[::-1]


def _first_wrong(chain: list[ir.Node], wrong: Callable[[ir.Node], bool]) -> ir.Node:
    """The first wrong node of a chain whose last is wrong."""
    low, high = 0, len(chain) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wrong(chain[middle]) else (middle + 1, high)
    return chain[high]


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def values_in_float64(traced: ScoreGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the traced graph by node name, in float64."""
    found: dict[str, np.ndarray] = {}

    class Keep(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            result = super().run_node(node)
            if isinstance(result, torch.Tensor) and result.is_floating_point():
                found[node.name] = result.double().numpy(force=True)
            return result

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            views = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
            target = torch.ops.aten.reshape.default if target in views else target
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
            # As in folding: what is made of whole numbers, or of nothing, is float32.
            return tree_map_only(torch.Tensor, widen, super().call_function(target, args, kwargs))

    arguments = []
    for node in traced.graph.nodes:
        if node.op == "placeholder" and node.name in traced.constants:
            arguments.append(widen(traced.constants[node.name]))
        elif node.op == "placeholder":
            arguments.append(widen(torch.tensor(inputs[node.name.removeprefix("input_")])))
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
