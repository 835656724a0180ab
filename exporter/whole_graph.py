"""Why an engine is off where every operation of its graph by itself is right."""

from __future__ import annotations

import numpy as np

from ..runtime.verify import StageResult, Tolerance, energy_sizes, tolerance
from .bisection import values_in_float64
from .score_graph import ScoreGraph

__all__ = ["describe_whole"]

_LITTLE = 10.0
"""Times the limit up to which an error is put down to rounding: a mistake is off by far more as a rule."""


def describe_whole(
    worst: StageResult,
    precision: str,
    limit: Tolerance,
    traced: ScoreGraph,
    golden: dict[str, np.ndarray],
    inputs: dict[str, np.ndarray],
) -> str:
    """Says what is at fault: the traced graph, roundings, or what the backend makes of the graph as a whole.

    A search for the first wrong operation takes the traced graph for the truth, so that is compared with PyTorch here.

    Args:
        worst: the stage that failed.
        precision: of the engine.
        limit: what it was held to.
        traced: the graph that it was lowered from.
        golden: PyTorch's answers.
        inputs: golden's states of that stage, its chains in their order and from the first again, as many as the graph was traced with.
    """
    if _is_another(traced, golden, worst.stage, inputs):
        return (
            "Every operation of the engine is right by itself, but in float64 too the traced graph computes another function than the "
            "model: that is a mistake of ebm-export's own; please report it with the model"
        )
    is_little = (
        worst.relative_error <= _LITTLE * limit.relative_error and worst.energy_error <= _LITTLE * limit.energy_error
    )
    if precision != "fp32" or is_little:
        return "No operation by itself is that far off: the roundings add up along the graph"
    return "Every part of the graph is right by itself, so it is the backend's optimiser that breaks the whole"


def _is_another(traced: ScoreGraph, golden: dict[str, np.ndarray], stage: int, inputs: dict[str, np.ndarray]) -> bool:
    """Whether the traced graph in float64 is further from PyTorch than float32 may be."""
    rows = np.resize(np.arange(golden["x"].shape[1]), traced.batch)
    at = {name: array[stage][rows] for name, array in golden.items() if array.ndim > 1}
    values, outputs = values_in_float64(traced, inputs), next(iter(reversed(traced.graph.nodes))).args[0]
    energy, grad = (values[node.name] for node in outputs)
    grad, reference = grad.reshape(traced.batch, -1), at["grad"].reshape(traced.batch, -1)
    limit = tolerance("fp32")
    off = np.linalg.norm(grad / at["grad_scale"][:, None] - reference, axis=1)
    share = np.maximum(limit.relative_error, limit.reference_factor * at["reference_error"])
    size = energy_sizes(at["energy"], float(np.std(golden["energy"])), limit)
    room = np.maximum(limit.energy_error * size, limit.reference_factor * at["reference_energy_error"])
    length = np.linalg.norm(reference, axis=1)
    # A gradient of zero has nothing to be compared with, but for rounding.
    same = ((off <= share * length) | (length == 0)) & (np.abs(energy - at["energy"]) <= room)
    return not same.all()
