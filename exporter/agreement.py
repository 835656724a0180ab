"""Whether an INT8 engine computes what its graph says: backends have got INT8 graphs wrong, by any amount."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..calibration.quantization.score_error import gradients
from ..calibration.states import States
from ..runtime.engine import Engine

__all__ = ["agrees", "as_close"]

_STATES = 64
_FARTHER, _LEAST = 1.5, 0.01
"""An engine that is farther from float32 than this many times its graph, and than 1 %, does not compute what its graph says. Rounding
a number to the other neighbour makes two right ones differ by a fraction of what both are off by."""


def agrees(engine: Engine, graph: ir.Model, exact: ir.Model, states: States, *, batch: int) -> bool:
    """Asks an engine, its graph and the float32 graph at some states, spread over all.

    Args:
        engine: open, made from `graph`.
        graph: with layers in INT8.
        exact: the same graph in float32.
        states: where the graph is asked along trajectories.
        batch: states in one call.
    """
    asked = states.part(np.unique(np.linspace(0, len(states) - 1, _STATES).round().astype(int)))
    right, wanted = (gradients(own, asked, batch=batch) for own in (exact, graph))
    scaled = np.concatenate([engine.run(inputs)["grad"].copy() for inputs in asked.batches(batch)])
    found = scaled / np.reshape(asked.grad_scale, (-1, *[1] * (scaled.ndim - 1)))
    return as_close(_apart(found, right), _apart(wanted, right))


def as_close(engine: float, graph: float) -> bool:
    """Whether an engine that is so far from float32, relative to its size, computes what a graph says that is so far."""
    return engine <= max(_LEAST, _FARTHER * graph)


def _apart(found: np.ndarray, exact: np.ndarray) -> float:
    """rms over states of the distance relative to the exact gradient's length."""
    off, length = (np.linalg.norm(array.reshape(len(array), -1), axis=1) for array in (found - exact, exact))
    return float(np.sqrt(np.mean(np.square(off[length > 0] / length[length > 0])))) if length.any() else 0.0
