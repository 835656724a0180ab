"""How many chains go into one engine call where there are many to run."""

from __future__ import annotations

import onnx_ir as ir

from .quantization.layers import size_of_one

__all__ = ["fitting_batch"]

_STATES = 2**18
"""Numbers of x in one call at most, as `runtime.ebm` has it."""
_ACTIVATIONS = 2**17
"""Numbers of the widest activation: half a MiB, of which a core's cache holds a few."""
_FEWEST = 8
"""Chains that a call has where one sample is wider than that: convolutions gain nothing from fewer."""


def fitting_batch(graph: ir.Graph) -> int:
    """Returns the number of chains for one call of a score graph.

    A network of pairs of particles, or of tokens of attention, has activations far wider than x. Of one with 16 particles a sample took 326 us in
    a batch of 4, 361 in one of 8, 962 in one of 32 and 1250 in one of 256 (OpenVINO in FP32, two cores). The number follows from the graph
    and not from a measurement, since results may change with it in their last place: the same export runs the same chains again.

    Args:
        graph: with the shapes of its values; those that have none do not count.
    """
    state = next(size_of_one(value) for value in graph.inputs if value.name == "x")
    widest = max(size_of_one(value) for node in graph for value in node.outputs)
    return max(1, min(_STATES // state, max(_FEWEST, _ACTIVATIONS // widest)))
