"""Cuts a score graph in two: what is worked out once per chain, and what is worked out at each step."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .passes.dependence import VARYING_INPUTS, is_batch_size, varying
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

    The number of samples in x, of which a recurrent layer makes its first state, is that of a condition there. The cut goes through
    values with one batch dimension, preferably the first; others (sums of a condition's shape, say) stay in the score graph, or in
    both.

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
    changing = varying(graph, batch_size=False)
    conditioned = {value for value in graph.inputs if value.name not in VARYING_INPUTS}
    heavy: set[ir.Value] = set()
    for node in graph:
        sources = [value for value in node.inputs if value is not None]
        if is_batch_size(node):
            continue
        if node.outputs[0] in changing or not any(value in conditioned for value in sources):
            continue
        conditioned.update(node.outputs)
        if node.op_type in _ARITHMETIC or any(value in heavy for value in sources):
            heavy.update(node.outputs)
    batch = _batch(graph)
    cut: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    waiting = [value for value in graph.outputs]
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        if value in seen or producer is None:
            continue
        seen.add(value)
        if _fits(value, heavy, batch) and (_axis(value, batch) == 0 or _products_above(value, heavy, batch)):
            cut[value] = None
        else:
            waiting += [source for source in producer.inputs if source is not None]
    return list(cut)


def _batch(graph: ir.Graph) -> int | str:
    return (dims(next(value for value in graph.inputs if value.name == "x")) or ("",))[0]


def _fits(value: ir.Value, heavy: set[ir.Value], batch: int | str) -> bool:
    """Whether a cut may go through a value."""
    producer = value.producer()
    return (
        value in heavy
        and _axis(value, batch) is not None
        and value.dtype in _BORDER | _LOW
        and producer is not None
        and producer.op_type not in _WIDENING
    )


def _axis(value: ir.Value, batch: int | str) -> int | None:
    """The dimension that is the batch; None where none is, several are, or another one depends on it."""
    sizes = dims(value) or ()
    if isinstance(batch, int):  # a graph for one batch size, in which others may be as large
        return 0 if sizes[:1] == (batch,) else None
    found = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    return found[0] if len(found) == 1 and sizes[found[0]] == batch else 0 if sizes[:1] == (batch,) else None


def _products_above(value: ir.Value, heavy: set[ir.Value], batch: int | str) -> bool:
    """Whether there is a product between a value and those led by the batch that it is made of.

    The batch is brought to the front of a feature that is not led by it, and back at each step. That is worth a product.
    """
    waiting, seen = [value], {value}
    while waiting:
        producer = waiting.pop().producer()
        if producer is None:
            continue
        if producer.op_type in _ARITHMETIC:
            return True
        for source in producer.inputs:
            if source is None or source in seen or (_fits(source, heavy, batch) and _axis(source, batch) == 0):
                continue
            seen.add(source)
            waiting.append(source)
    return False


def _feature_names(graph: ir.Graph, count: int) -> list[str]:
    taken = {value.name for value in graph.inputs}
    names = (name for number in range(count + len(taken)) if (name := f"feature_{number}") not in taken)
    return [name for name, _ in zip(names, range(count), strict=False)]


def _prologue(model: ir.Model, chosen: dict[str, str]) -> ir.Model:
    copy = model.clone()  # weights stay those of the whole
    graph = copy.graph
    values, batch = _named(graph), _batch(graph)
    for old in graph.outputs:
        old.name = f"{old.name}.unused"
    outputs = []
    for name, feature in chosen.items():
        # A node of its own, so that a value which is read inside the prologue too keeps its name there.
        source = _turned(graph, values[name], axis) if (axis := _axis(values[name], batch)) else values[name]
        node = ir.node("Cast", [source], {"to": _WIDE.value}) if source.dtype in _LOW else ir.node("Identity", [source])
        node.name = feature
        out = node.outputs[0]
        out.name, out.shape = feature, source.shape
        out.type = ir.TensorType(_WIDE) if source.dtype in _LOW else source.type
        graph.append(node)
        outputs.append(out)
    del graph.outputs[:]
    graph.outputs.extend(outputs)
    RemoveUnusedNodesPass()(copy)
    sizes = [node for node in graph if is_batch_size(node)]
    # Of one that is read anyway: how many rows a prologue is asked for depends on those that it reads.
    read = next(
        value
        for value in graph.inputs
        if value.name not in VARYING_INPUTS and any(node not in sizes for node, _ in value.uses())
    )
    for node in sizes:
        node.replace_input_with(0, read)
    return _cleaned(copy, {*VARYING_INPUTS})


def _score(model: ir.Model, chosen: dict[str, str]) -> ir.Model:
    copy = model.clone()  # weights stay those of the whole
    graph = copy.graph
    values, batch = _named(graph), _batch(graph)
    first = next(iter(graph))
    place = list(graph.inputs).index(next(value for value in graph.inputs if value.name == "grad_scale"))
    for name, feature in chosen.items():
        old = values[name]
        axis, sizes = _axis(old, batch) or 0, list(old.shape or ())
        sizes.insert(0, sizes.pop(axis))
        given = ir.val(feature, dtype=_WIDE if old.dtype in _LOW else old.dtype, shape=ir.Shape(sizes))
        graph.inputs.insert(place, given)
        place += 1
        new = given
        if old.dtype in _LOW and old.dtype is not None:
            cast = ir.node("Cast", [given], {"to": old.dtype.value}, name=f"{feature}.{old.dtype.name.lower()}")
            new = cast.outputs[0]
            new.name, new.dtype, new.shape = cast.name, old.dtype, old.shape
            graph.insert_before(first, cast)
        if axis:
            back = [*range(1, axis + 1), 0, *range(axis + 1, len(sizes))]
            turn = ir.node("Transpose", [new], {"perm": back}, name=f"{feature}.turned")
            new = turn.outputs[0]
            new.name, new.type, new.shape = turn.name, old.type, old.shape
            graph.insert_before(first, turn)
        ir.convenience.replace_all_uses_with(old, new)
    kept = {"x", "grad_scale", *chosen.values()}
    return _cleaned(copy, set(), kept)


def _turned(graph: ir.Graph, value: ir.Value, axis: int) -> ir.Value:
    """Appends what brings a dimension to the front."""
    sizes = list(value.shape or ())
    front = [axis, *(other for other in range(len(sizes)) if other != axis)]
    node = ir.node("Transpose", [value], {"perm": front}, name=f"{value.name}.turned")
    out = node.outputs[0]
    out.name, out.type, out.shape = node.name, value.type, ir.Shape([sizes[place] for place in front])
    graph.append(node)
    return out


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
