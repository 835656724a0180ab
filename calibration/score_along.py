"""A candidate's gradients beside FP32's, at the states that FP32's own chains go through."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ..runtime.engine import Engine
from ..runtime.fitting_batch import largest_call
from ..runtime.shared_rows import rows_apart
from .metrics.score_fidelity import StageFidelity, score_fidelity
from .trajectory import Trajectory

__all__ = ["fidelity_along", "gradients_along"]


def gradients_along(
    engine: Engine | Callable[[int], Engine],
    trajectory: Trajectory,
    cond: Mapping[str, np.ndarray],
    *,
    max_batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Asks an engine for its gradient at every state of a trajectory, with the gradient scales of those chains.

    Args:
        engine: an open engine, or a function that gives one for a number of steps taken: a precision schedule.
        trajectory: states by stage.
        cond: rows of the conditioning inputs by name, [R, ...]; chain i takes row i modulo R.
        max_batch: most rows that the engine takes in one call; there are never more than about 2**18 numbers of x in one.
        progress: called with (stages done, in all).

    Returns:
        [G, n, *S] float32, dE/dx.
    """
    grads = np.empty_like(trajectory.x)
    rows = largest_call(trajectory.x.shape[2:])
    rows = min(rows, max_batch or rows)
    prepared: dict[int, Mapping[str, np.ndarray]] = {}  # by engine: a prologue runs once
    for stage, (step, states, scales) in enumerate(
        zip(trajectory.step.tolist(), trajectory.x, trajectory.grad_scale, strict=True)
    ):
        asked = engine if isinstance(engine, Engine) else engine(step)
        if id(asked) not in prepared:
            prepared[id(asked)] = _prepared(asked, cond, max_batch) if cond else {}
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            chains = np.arange(first, min(first + rows, len(states)))
            inputs = {"x": states[part], "grad_scale": scales[part]}
            inputs |= {name: array[chains % len(array)] for name, array in prepared[id(asked)].items()}
            answer = asked.run({name: np.ascontiguousarray(array) for name, array in inputs.items()})
            per_state = scales[part].reshape(-1, *[1] * (states.ndim - 1))  # [B, 1, ..]
            grads[stage, part] = answer["grad"] / per_state
        if progress is not None:
            progress(stage + 1, len(trajectory.step))
    return grads


def _prepared(engine: Engine, cond: Mapping[str, np.ndarray], max_batch: int | None) -> Mapping[str, np.ndarray]:
    """What an engine makes of all rows of the conditions."""
    count = len(next(iter(cond.values())))
    size = max_batch or count
    if count <= size:
        return engine.prepare(cond)
    parts = []
    for first in range(0, count, size):
        rows = {name: array[first : first + size] for name, array in cond.items()}
        parts.append(rows_apart(engine.prepare(rows), min(size, count - first)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def fidelity_along(
    trajectory: Trajectory,
    reference: np.ndarray,
    candidate: np.ndarray,
    conditions: np.ndarray | None = None,
    *,
    rests: bool = False,
) -> tuple[StageFidelity, ...]:
    """Compares two sets of gradients stage by stage.

    A stage where every reference gradient is 0 (clipped flat, say) has no fidelity and is left out.

    Args:
        trajectory: where they were asked for.
        reference: [G, n, *S], as `gradients_along` returns them from FP32.
        candidate: [G, n, *S] from the candidate.
        conditions: [n], which condition each chain has; None where all have the same.
        rests: whether chains come to rest, where gradients vanish and an error of any size is infinitely large beside them. Errors
            are then relative to the largest stage's gradient at least: one of 1 % of that moves the point of rest by about a
            hundredth of the way, within which ends count as the same. With noise there is no such point, and what is left of
            the gradient is what counts.
    """
    sizes = [
        math.sqrt(np.square(stage, dtype=np.float64).mean()) for stage in reference
    ]  # one by one: they may be large
    least = max(sizes) if rests else 0.0
    found = []
    for stage, (step, size) in enumerate(zip(trajectory.step.tolist(), sizes, strict=True)):
        if size != 0:
            one = score_fidelity(reference[stage], candidate[stage], conditions=conditions, stage=stage, step=step)
            found.append(one.beside(max(1.0, least / size)))
    return tuple(found)
