"""Takes back what INT8 layers do to the gradient as a whole: a wrong length, and an error that is the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from ..states import DATA_STEP, States
from .insert import corrected_name
from .layers import Layer
from .taps import Taps

__all__ = ["correct_score"]

_LEAST_SPREAD = 1e-3
"""Share of a gradient's square that must differ between the chains of a stage for a slope to be told from a mean."""
_LARGEST_GAIN = 0.1
"""A factor farther from one than this is no gain but damage, which is for the gate to see."""

_Answers = tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]
"""Weights of a batch of states, and what the graph in float32 and the one in INT8 give there."""


def correct_score(
    model: ir.Model,
    quantized: ir.Model,
    layers: Sequence[Layer],
    states: States,
    *,
    batch: int = 8,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Gives the gradient of an INT8 graph float32's length and mean, in place.

    *Length.* Clipping at the ends of a grid and rounding to zero both shorten, so the gradients of INT8 graphs are up to
    some percent too short or, where masks of the forward half flip, too long: a chain then samples at another
    temperature. The gradient half is linear, so one factor behind it takes back what the whole half did:

        1 / factor = sum_k w_k (sum <q, f> / sum <f, f>)    over the stages k, with the inner sums over a stage's states,

    f and q being the output in float32 and in the INT8 graph, both divided by the gradient scale, of each layer of the
    gradient half between which and `grad` no other lies. That is the gain that the gate looks at (where nothing is clipped), for each of these layers.

    *Mean.* A constant c is subtracted from `grad`, number by number of x: the one with the smallest

        sum_k w_k |m_k - c r_k|^2 / mean |g|^2,

    m_k being the mean error of dE/dx at stage k and r_k the mean of 1 / grad_scale there, which is what a constant
    in the graph makes of dE/dx. Only the part of it is taken that stands out from the noise: the share <c1, c2> / |c|^2, not
    below 0, with c1 and c2 from one half of the chains and the other, and c their mean (James and Stein 1961 shrink so).

    The weights w grow evenly with the steps taken, as the gate weighs stages; real data counts like an end. States that were kept for
    their large gradients do not count.

    Args:
        model: the lowered float32 graph.
        quantized: made from it by `insert_int8`; changed.
        layers: all layers of the graph.
        states: where the graph is asked along trajectories.
        batch: states in one call.
        threads: threads of one call.
        progress: called with (what is being done, states seen, in all), each state twice.
    """
    last = [layer for layer in layers if layer.writes_grad and layer.half == "gradient"]

    def both(names: Sequence[str], turn: int) -> Iterator[_Answers]:
        done = turn * len(states)
        for answers in _both(model, quantized, names, states, batch, threads):
            yield answers
            done += len(answers[0])
            if progress is not None:
                progress("correcting the gradient's length and mean", done, 2 * len(states))

    if last:
        _lengthen(quantized, last, states, both([layer.output for layer in last], 0))
    _center(quantized, states, both([], 1))


def _lengthen(quantized: ir.Model, last: Sequence[Layer], states: States, both: Iterator[_Answers]) -> None:
    names = [layer.output for layer in last]
    steps = np.unique(states.step)
    sums = {name: _StageSums(len(steps)) for name in names}
    first = 0
    for weights, wanted, got in both:
        rows = slice(first, first + len(weights))
        first = rows.stop
        scale = np.asarray(states.grad_scale[rows], np.float64)[:, None]
        stages, typical = np.searchsorted(steps, states.step[rows]), ~states.large[rows]
        for name in names:
            f, q = (values[name].reshape(len(weights), -1) / scale for values in (wanted, got))
            sums[name].add(stages[typical], f[typical], q[typical])
    shares = _weight(steps, max(int(states.step.max()), 1))
    nodes = {node.name: node for node in quantized.graph}
    for layer in last:
        size = sums[layer.output].relative_length(shares)
        if size != 1.0 and abs(size - 1) < _LARGEST_GAIN:
            _scale(quantized.graph, nodes[layer.name], 1 / size)


class _StageSums:
    """What the slope of q over f needs, stage by stage, with the means of both taken out."""

    def __init__(self, stages: int) -> None:
        self._count = np.zeros(stages)
        self._lengths, self._products = np.zeros(stages), np.zeros(stages)
        self._means: np.ndarray | None = None  # sums of f and of q, [2, stages, D]

    def add(self, stages: np.ndarray, f: np.ndarray, q: np.ndarray) -> None:
        """Counts states [B, D] of these stages [B]."""
        if self._means is None:
            self._means = np.zeros((2, len(self._count), f.shape[1]))
        for row, stage in enumerate(stages):
            self._count[stage] += 1
            self._lengths[stage] += f[row] @ f[row]
            self._products[stage] += q[row] @ f[row]
            self._means[0, stage] += f[row]
            self._means[1, stage] += q[row]

    def relative_length(self, shares: np.ndarray) -> float:
        """1 + gain: the mean of the stages' slopes with these shares [stages]; 1 where nothing can be said."""
        assert self._means is not None
        count = self._count.clip(min=1)
        f, q = self._means
        lengths = self._lengths - np.einsum("sd,sd->s", f, f) / count
        products = self._products - np.einsum("sd,sd->s", q, f) / count
        used = lengths > _LEAST_SPREAD * self._lengths  # else all states have one gradient, and length is mean
        weights = np.where(used, shares * self._count, 0)
        if not weights.sum():
            return 1.0
        return float((weights * products / np.where(used, lengths, 1)).sum() / weights.sum())


def _weight(step: int | np.ndarray, end: int) -> np.ndarray:
    return np.where(step == DATA_STEP, end, step) / end


def _center(quantized: ir.Model, states: States, both: Iterator[_Answers]) -> None:
    steps = np.unique(states.step)
    shape = (2, len(steps), *states.x.shape[1:])  # of one half of the chains and the other, by stage
    errors, reach, count = np.zeros(shape), np.zeros(shape[:2]), np.zeros(shape[:2])
    lengths = np.zeros(len(steps))
    halves = states.share(2)
    first = 0
    for weights, wanted, got in both:
        for row in range(len(weights)):
            state = first + row
            if states.large[state]:
                continue
            half, stage = halves[state], int(np.searchsorted(steps, states.step[state]))
            scale = float(states.grad_scale[state])
            errors[half, stage] += (got["grad"][row] - wanted["grad"][row]) / scale
            reach[half, stage] += 1 / scale  # what a constant of one behind the graph adds to dE/dx
            count[half, stage] += 1
            lengths[stage] += float(np.square(wanted["grad"][row] / scale, dtype=np.float64).sum())
        first += len(weights)
    used = (count > 0).all(axis=0) & (lengths > 0)
    if not used.any():
        return
    sizes = lengths / count.sum(axis=0).clip(min=1)  # mean square of the gradient
    weight = np.where(used, _weight(steps, max(int(states.step.max()), 1)) / np.where(used, sizes, 1), 0)
    count = count.clip(min=1)
    mean_error = errors / count.reshape(*count.shape, *[1] * (errors.ndim - 2))
    mean_reach = reach / count
    each = []
    for half in (0, 1):
        per_stage = weight * mean_reach[half]
        total = float((per_stage * mean_reach[half]).sum())
        if total == 0:
            return
        each.append(np.tensordot(per_stage, mean_error[half], axes=1) / total)
    mean = (each[0] + each[1]) / 2
    size = float((mean**2).sum())
    share = float((each[0] * each[1]).sum()) / size if size > 0 else 0.0
    if share > 0:
        _subtract(quantized.graph, (share * mean).astype(np.float32))


def _both(
    model: ir.Model, quantized: ir.Model, names: Sequence[str], states: States, batch: int, threads: int | None
) -> Iterator[_Answers]:
    """Runs both graphs over the states; yields the states' weights and what each graph gave."""
    exact, rough = (Taps(ir.to_proto(graph), names, threads) for graph in (model, quantized))
    end = max(int(states.step.max()), 1)
    first = 0
    for inputs in states.batches(batch):
        rows = states.step[first : first + len(inputs["x"])]
        first += len(rows)
        yield _weight(rows, end), exact.run(inputs), rough.run(inputs)


def _scale(graph: ir.Graph, node: ir.Node, factor: float) -> None:
    """Multiplies what a layer computes: its weights, or the scale of its INT8 weights, and its bias."""
    weight = node.inputs[1]
    assert weight is not None
    producer = weight.producer()
    if producer is not None:  # DequantizeLinear
        _multiply(graph, producer, 1, factor)
    else:
        _multiply(graph, node, 1, factor)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        _multiply(graph, node, 2, factor)
    if node.op_type == "MatMul":
        for use in node.outputs[0].uses():
            if use.node.name == corrected_name(node):
                _multiply(graph, use.node, 1, factor)


def _multiply(graph: ir.Graph, node: ir.Node, index: int, factor: float) -> None:
    held = node.inputs[index]
    assert held is not None and held.const_value is not None
    array = (held.const_value.numpy() * np.float32(factor)).astype(np.float32)
    node.replace_input_with(
        index, _constant(graph, array, f"{node.name}.{'bias' if index == 2 else 'weight'}.lengthened")
    )
    if not held.uses():
        del graph.initializers[str(held.name)]


def _subtract(graph: ir.Graph, mean: np.ndarray) -> None:
    """Subtracts [*S] from the output `grad`."""
    grad = next(output for output in graph.outputs if output.name == "grad")
    producer = grad.producer()
    assert producer is not None
    node = ir.node("Sub", [grad, _constant(graph, mean[None], "grad.mean_error")], name="grad.centered")
    out = node.outputs[0]
    out.dtype, out.shape = ir.DataType.FLOAT, grad.shape
    graph.insert_after(producer, node)
    graph.outputs[list(graph.outputs).index(grad)] = out
    grad.name, out.name = "grad.uncentered", "grad"


def _constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(array.shape)
    graph.register_initializer(value)
    return value
