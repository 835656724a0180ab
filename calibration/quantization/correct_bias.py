"""Takes back what INT8 layers add to their outputs in the mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir as ir

from ..states import States
from .grid import Grid
from .insert import IntWeights, insert_int8
from .layers import Layer
from .taps import Taps

__all__ = ["correct_bias"]

_ROUNDS = 2
"""The first round finds all errors at once, so a layer's contains what the layers before it will no longer add once they
are corrected; the second takes back what that overshot."""


def correct_bias(
    model: ir.Model,
    layers: Collection[Layer],
    grids: Mapping[str, Grid],
    weights: Mapping[str, IntWeights],
    states: States,
    *,
    fuses_sums: bool = True,
    batch: int = 8,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, IntWeights]:
    """Returns the weights with a correction for each output channel of each INT8 layer, in both halves of the graph.

    The correction is minus the mean over states and places of (output in the INT8 graph - output in the float32 graph),
    with the errors of all layers before it in place (Nagel et al., "Data-free quantization through weight equalization
    and bias correction", arXiv:1906.04721, section 4.2, measured on states in place of derived from batch norms).
    In the gradient half it is a constant beside numbers that the gradient scale keeps at one size; it holds for scales as
    the chains run with.

    An error that averages out over the states is left alone: a channel's mean is only taken back by the share that stands
    out from its noise, mean**2 / (mean**2 + variance / states), with the variance of the per-state means.

    Args:
        model: the lowered float32 graph.
        layers: those in INT8.
        grids: by name of the value that a layer reads.
        weights: by name of the layer; corrections that they have already are kept and added to.
        states: where the graph is asked along trajectories.
        fuses_sums: as for `insert_int8`.
        batch: states in one call.
        threads: threads of one call.
        progress: called with (what is being done, done, in all).
    """
    corrected = dict(weights)
    if not layers:
        return corrected
    exact = Taps(ir.to_proto(model), [layer.output for layer in layers], threads)
    for turn in range(_ROUNDS):
        rough = Taps(
            ir.to_proto(insert_int8(model, layers, grids, corrected, fuses_sums=fuses_sums)),
            [layer.output for layer in layers],
            threads,
        )
        sums = {layer.name: np.zeros(len(weights[layer.name].scales)) for layer in layers}
        squares = {name: np.zeros_like(total) for name, total in sums.items()}
        done = 0
        for inputs in states.batches(batch):
            wanted, got = exact.run(inputs), rough.run(inputs)
            for layer in layers:
                error = _channel_means(got[layer.output] - wanted[layer.output], layer.op, len(inputs["x"]))  # [B, N]
                sums[layer.name] += error.sum(axis=0)
                squares[layer.name] += (error**2).sum(axis=0)
            done += len(inputs["x"])
            if progress is not None:
                progress("correcting biases", turn * len(states) + done, _ROUNDS * len(states))
        for name, total in sums.items():
            mean = total / len(states)
            variance = np.maximum(squares[name] / len(states) - mean**2, 0) / len(states)
            held = corrected[name].correction
            step = mean * np.divide(mean**2, mean**2 + variance, out=np.zeros_like(mean), where=mean != 0)
            correction = np.asarray((0 if held is None else held) - step, np.float32)
            corrected[name] = dataclasses.replace(corrected[name], correction=correction)
    return corrected


def _channel_means(values: np.ndarray, op: str, states: int) -> np.ndarray:
    """[B, N] float64: the mean of each state's output channels over all places.

    A layer may see places as rows ([B * T, N]); where the rows cannot be told apart by state, each state gets the mean of all.
    """
    last = np.moveaxis(values, 1, -1) if op == "Conv" else values
    rows = last.reshape(-1, last.shape[-1])
    if len(rows) % states:
        return np.tile(rows.mean(axis=0, dtype=np.float64), (states, 1))
    return np.asarray(rows.reshape(states, -1, rows.shape[1]).mean(axis=1, dtype=np.float64))
