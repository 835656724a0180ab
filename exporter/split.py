"""Cuts a score graph in two: what is worked out once per chain, and what is worked out at each step."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .passes.dependence import VARYING_INPUTS, varying
from .passes.graph import dims

__all__ = ["Split", "split"]

_ARITHMETIC = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operations that make a prologue worth its while. A table's row or a few sums cost less than one more engine."""

_WIDENING = {"Cast", "DequantizeLinear", "Expand", "Identity", "QuantizeLinear", "Tile"}
"""Left to the steps: an input that is cut behind them would be larger, or hide from the backend how it is quantized."""

_BORDER = {ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL}
_LOW = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_WIDE = ir.DataType.FLOAT
"""Type of a feature that is of a low one inside."""


class Split(NamedTuple):
    """The two halves.

    Attributes:
        prologue: conditioning inputs [B, ...] -> features [B, ...], float32, int64 or bool. Row b of a feature depends on row b of
            the conditioning inputs alone, as everything in an energy does.
        score: the score graph with the features as inputs beside x, grad_scale and what it still reads of the conditions.
        reads: the conditioning inputs of the prologue.
        keeps: the conditioning inputs that the score graph still reads.
    """

    prologue: ir.Model
    score: ir.Model
    reads: tuple[str, ...]
    keeps: tuple[str, ...]


def split(model: ir.Model) -> Split | None:
    """Cuts out what depends neither on x nor on grad_scale.

    The cut goes through values that are led by the batch dimension; what is not (sums of a condition's shape, say) stays in the
    score graph, or in both.

    Args:
        model: a score graph in any precision, quantized or not; not changed.

    Returns:
        None where nothing of weight is left out of the steps: no convolution and no product.
    """
    cut = _cut(model.graph)
    if not cut:
        return None
    names = _feature_names(model.graph, len(cut))
    chosen = dict(zip((value.name or "" for value in cut), names, strict=True))
    prologue, score = _prologue(model, chosen), _score(model, chosen)
    reads = tuple(value.name or "" for value in prologue.graph.inputs)
    features = {*VARYING_INPUTS, *names}
    keeps = tuple(value.name or "" for value in score.graph.inputs if value.name not in features)
    return Split(prologue, score, reads, keeps)


def _cut(graph: ir.Graph) -> list[ir.Value]:
    """The values to cut at, in the order in which a walk from the outputs meets them."""
    changing = varying(graph)
    heavy: set[ir.Value] = set()
    for node in graph:
        if node.outputs[0] not in changing and (
            node.op_type in _ARITHMETIC or any(value in heavy for value in node.inputs if value is not None)
        ):
            heavy.update(node.outputs)
    batch = (dims(next(value for value in graph.inputs if value.name == "x")) or ("",))[0]
    cut: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    waiting = [value for value in graph.outputs]
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        if value in seen or producer is None:
            continue
        seen.add(value)
        led = (dims(value) or ("",))[0] == batch
        if value in heavy and led and value.dtype in _BORDER | _LOW and producer.op_type not in _WIDENING:
            cut[value] = None
        else:
            waiting += [source for source in producer.inputs if source is not None]
    return list(cut)


def _feature_names(graph: ir.Graph, count: int) -> list[str]:
    taken = {value.name for value in graph.inputs}
    names = (name for number in range(count + len(taken)) if (name := f"feature_{number}") not in taken)
    return [name for name, _ in zip(names, range(count), strict=False)]


def _prologue(model: ir.Model, chosen: dict[str, str]) -> ir.Model:
    copy = ir.from_proto(ir.to_proto(model))
    graph = copy.graph
    values = _named(graph)
    for old in graph.outputs:
        old.name = f"{old.name}.unused"
    outputs = []
    for name, feature in chosen.items():
        # A node of its own, so that a value which is read inside the prologue too keeps its name there.
        source = values[name]
        node = ir.node("Cast", [source], {"to": _WIDE.value}) if source.dtype in _LOW else ir.node("Identity", [source])
        node.name = feature
        out = node.outputs[0]
        out.name, out.shape = feature, source.shape
        out.type = ir.TensorType(_WIDE) if source.dtype in _LOW else source.type
        graph.append(node)
        outputs.append(out)
    del graph.outputs[:]
    graph.outputs.extend(outputs)
    return _cleaned(copy, {*VARYING_INPUTS})


def _score(model: ir.Model, chosen: dict[str, str]) -> ir.Model:
    copy = ir.from_proto(ir.to_proto(model))
    graph = copy.graph
    values = _named(graph)
    first = next(iter(graph))
    place = list(graph.inputs).index(next(value for value in graph.inputs if value.name == "grad_scale"))
    for name, feature in chosen.items():
        old = values[name]
        given = ir.val(feature, dtype=_WIDE if old.dtype in _LOW else old.dtype, shape=old.shape)
        graph.inputs.insert(place, given)
        place += 1
        new = given
        if old.dtype in _LOW and old.dtype is not None:
            cast = ir.node("Cast", [given], {"to": old.dtype.value}, name=f"{feature}.{old.dtype.name.lower()}")
            new = cast.outputs[0]
            new.name, new.dtype, new.shape = cast.name, old.dtype, old.shape
            graph.insert_before(first, cast)
        ir.convenience.replace_all_uses_with(old, new)
    kept = {"x", "grad_scale", *chosen.values()}
    return _cleaned(copy, set(), kept)


def _named(graph: ir.Graph) -> dict[str, ir.Value]:
    return {value.name or "": value for node in graph for value in node.outputs}


def _cleaned(model: ir.Model, drop: set[str], kept: set[str] | None = None) -> ir.Model:
    """Removes what nothing reads, inputs included unless they are to be kept."""
    RemoveUnusedNodesPass()(model)
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in drop or (not list(value.uses()) and value.name not in (kept or ())):
            graph.inputs.remove(value)
    for name, value in list(graph.initializers.items()):
        if not list(value.uses()):
            del graph.initializers[name]
    return model
