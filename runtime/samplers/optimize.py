"""Descent to a minimum of the energy: temperature 0, with momentum.

With E the energy, h the step size and m the momentum, one step is

    v <- m * v - h * clip(dE/dx(x))
    x <- confine(x + v)

the heavy ball (Polyak, "Some methods of speeding up the convergence of iteration methods", 1964). A step size that
falls over the steps, as a schedule, lets it settle. There is no noise: the result depends on the start alone.

The sampler cannot reject: `Info.not_finite` counts chains whose numbers are no longer finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from .boundary import build_confine
from .clipping import clip_gradient
from .langevin import Evaluate, Info, count_not_finite

__all__ = ["Buffers", "Info", "Kernel", "State", "build_kernel", "init"]


class State(NamedTuple):
    """What the next step needs, so that a step costs one evaluation.

    Attributes:
        position: [B, *S] float32.
        energy: [B] float32, at `position`.
        grad: [B, *S] float32, dE/dx at `position`, not clipped.
        velocity: [B, *S] float32, what was added to x by the last step.
    """

    position: np.ndarray
    energy: np.ndarray
    grad: np.ndarray
    velocity: np.ndarray


class Buffers(NamedTuple):
    """Arrays a step may write into, [B, *S] float32; none may overlap the state that the step starts from.

    Attributes:
        position: becomes the new state's position.
        velocity: becomes its velocity.
        scratch: anything.
    """

    position: np.ndarray
    velocity: np.ndarray
    scratch: np.ndarray


Kernel = Callable[..., tuple[State, Info]]
"""What `build_kernel` returns; see there for the arguments."""


def init(position: np.ndarray, evaluate: Evaluate) -> State:
    """Makes the state that the first step starts from, at rest, with one evaluation.

    Args:
        position: [B, *S] float32.
        evaluate: energy and gradient at a point.
    """
    return State(position, *evaluate(position), np.zeros_like(position))


def build_kernel(
    momentum: float,
    grad_clip: float | None = None,
    grad_clip_mode: Literal["value", "norm"] = "value",
    bounds: tuple[float, float] | None = None,
    bounds_mode: Literal["project", "reflect"] = "project",
) -> Kernel:
    """Builds the function that takes one step.

    Args:
        momentum: m, from 0 to below 1.
        grad_clip: limit of `clip`, above 0; None leaves the gradient as it is.
        grad_clip_mode: see `clip_gradient`.
        bounds: (low, high) of `confine`; None for none.
        bounds_mode: what `confine` does, see `boundary.build_confine`.

    Returns:
        kernel(state, evaluate, step_size, buffers=None) -> (new state, info), with step_size (h) a number, and arrays to write
        into (None allocates). The state is left as it is; the same one gives the same result.
    """
    confine = build_confine(bounds, bounds_mode)

    def kernel(
        state: State, evaluate: Evaluate, step_size: float, buffers: Buffers | None = None
    ) -> tuple[State, Info]:
        position, velocity, scratch = buffers or Buffers(*(np.empty_like(state.position) for _ in range(3)))
        pushed, clipped = clip_gradient(state.grad, grad_clip, grad_clip_mode, scratch)
        np.multiply(pushed, step_size, out=scratch)
        np.multiply(state.velocity, momentum, out=velocity)
        velocity -= scratch
        np.add(state.position, velocity, out=position)
        confine(position, velocity)
        energy, grad = evaluate(position)
        return State(position, energy, grad, velocity), Info(clipped, count_not_finite(energy, grad))

    return kernel
