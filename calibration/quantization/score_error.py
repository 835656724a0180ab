"""The error of one score graph's gradients beside another's, stage by stage."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..metrics.score_fidelity import StageFidelity, score_fidelity
from ..states import States
from .taps import Taps

__all__ = ["gradients", "score_error"]


def gradients(model: ir.Model, states: States, *, batch: int = 8, threads: int | None = None) -> np.ndarray:
    """Returns dE/dx by a graph at every state, [M, *S] float32, without the gradient scale that it was computed with.

    The gate looks at gradients so: with their scales, all states of a stage would count alike, and the large gradients,
    which a grid clips, would count too little.

    Args:
        model: a score graph that onnxruntime runs.
        states: where it is asked.
        batch: states in one call.
        threads: threads of one call.
    """
    taps = Taps(ir.to_proto(model), [], threads)
    scaled = np.concatenate([taps.run(inputs)["grad"] for inputs in states.batches(batch)])
    return np.asarray(scaled / np.reshape(states.grad_scale, (-1, *[1] * (scaled.ndim - 1))))


def score_error(exact: np.ndarray, got: np.ndarray, states: States) -> tuple[StageFidelity, ...]:
    """Takes the errors of gradients apart, for every step that the states are from.

    Args:
        exact: [M, *S], what `gradients` gave for the float32 graph.
        got: [M, *S] for the other.
        states: where both were asked; a step with one state, or without a gradient, makes no stage.
    """
    stages = []
    for stage, step in enumerate(np.unique(states.step)):
        rows = states.step == step
        if np.count_nonzero(rows) > 1 and np.any(exact[rows]):
            stages.append(score_fidelity(exact[rows], got[rows], stage=stage, step=int(step)))
    return tuple(stages)
