"""Overdamped Langevin dynamics, unadjusted.

With E the energy, T the temperature and h the step size, one step is, in the order "drift-noise",

    x' = project(x - h * clip(dE/dx(x)) + sigma * n),        n ~ N(0, I)

and in the order "noise-drift"

    y  = project(x + sigma * n)
    x' = project(y - h * clip(dE/dx(y)))

with sigma = sqrt(2 * h * T) unless the settings give the noise themselves; the chain then keeps exp(-E / T) up to an
error that vanishes with h (Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete
approximations", Bernoulli 1996: the unadjusted algorithm there, with T = 1 and their step twice ours). `project`
limits every number to the bounds, or reflects it at them. Both orders project what they return, so a state never lies outside
the bounds.

The sampler cannot reject, so an energy or gradient that is not finite has no meaning in it: `Info.not_finite` counts
the chains and whoever runs the kernel stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from ..row_norms import square_sums
from .boundary import build_confine
from .clipping import clip_gradient

__all__ = [
    "Buffers",
    "Evaluate",
    "Info",
    "Kernel",
    "Order",
    "State",
    "are_finite",
    "build_kernel",
    "count_not_finite",
    "init",
]

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""x [B, *S] float32 -> energy [B], grad [B, *S]; the arrays may be overwritten by its next call."""

Order = Literal["drift-noise", "noise-drift"]


class State(NamedTuple):
    """What the next step needs, so that a step costs one evaluation.

    Attributes:
        position: [B, *S] float32.
        energy: [B] float32. Order "drift-noise": at `position`. Order "noise-drift": at the noised point from which
            `position` was reached by the drift; at the start, where nothing has been evaluated, NaN, or that of `position` where the
            loop was asked for it.
        grad: [B, *S] float32, dE/dx at the same point as `energy`; neither clipped nor scaled.
    """

    position: np.ndarray
    energy: np.ndarray
    grad: np.ndarray


class Info(NamedTuple):
    """What only a reader needs.

    Attributes:
        clipped: number of chains whose gradient was changed by clipping.
        not_finite: number of chains whose new energy or gradient is not finite.
    """

    clipped: int
    not_finite: int


class Buffers(NamedTuple):
    """Arrays a step may write into, [B, *S] float32; neither may overlap the state that the step starts from.

    Attributes:
        position: becomes the new state's position.
        drift: scratch.
    """

    position: np.ndarray
    drift: np.ndarray


Kernel = Callable[..., tuple[State, Info]]
"""What `build_kernel` returns; see there for the arguments."""


def init(position: np.ndarray, evaluate: Evaluate, order: Order = "drift-noise") -> State:
    """Makes the state that the first step starts from.

    The order "drift-noise" needs the gradient at the start and evaluates it. "noise-drift" only ever uses gradients at
    noised points, so it evaluates nothing here.

    Args:
        position: [B, *S] float32.
        evaluate: energy and gradient at a point.
        order: the order that the kernel was built with.
    """
    if order == "drift-noise":
        return State(position, *evaluate(position))
    return State(position, np.full(len(position), np.nan, dtype=np.float32), np.full_like(position, np.nan))


def build_kernel(
    order: Order = "drift-noise",
    grad_clip: float | None = None,
    grad_clip_mode: Literal["value", "norm"] = "value",
    bounds: tuple[float, float] | None = None,
    bounds_mode: Literal["project", "reflect"] = "project",
) -> Kernel:
    """Builds the function that takes one step.

    Args:
        order: which of the two formulas at the top of this file.
        grad_clip: limit of `clip`, above 0; None leaves the gradient as it is.
        grad_clip_mode: see `clip_gradient`.
        bounds: (low, high) of `project`; None projects nothing.
        bounds_mode: "project", or "reflect" in its place, see `boundary.build_confine`.

    Returns:
        kernel(noise, state, evaluate, step_size, sigma, buffers=None) -> (new state, info), where `noise` is
        [B, *S] float32 standard normal, `step_size` (h) and `sigma` are numbers, and `buffers` are arrays to write into
        (None allocates). Noise and state are left as they are; the same ones give the same result.
    """
    confine = build_confine(bounds, bounds_mode)
    clip_and_scale = _drift_function(grad_clip, grad_clip_mode)

    def drift_first(
        noise: np.ndarray,
        state: State,
        evaluate: Evaluate,
        step_size: float,
        sigma: float,
        buffers: Buffers | None = None,
    ) -> tuple[State, Info]:
        position, drift = buffers or _new_buffers(state)
        clipped = clip_and_scale(state.grad, step_size, drift)
        np.multiply(noise, sigma, out=position)
        position += state.position
        position -= drift
        confine(position, None)
        energy, grad = evaluate(position)
        return State(position, energy, grad), Info(clipped, count_not_finite(energy, grad))

    def noise_first(
        noise: np.ndarray,
        state: State,
        evaluate: Evaluate,
        step_size: float,
        sigma: float,
        buffers: Buffers | None = None,
    ) -> tuple[State, Info]:
        position, drift = buffers or _new_buffers(state)
        np.multiply(noise, sigma, out=position)
        position += state.position
        confine(position, None)
        energy, grad = evaluate(position)
        not_finite = count_not_finite(energy, grad)
        clipped = clip_and_scale(grad, step_size, drift)
        position -= drift
        confine(position, None)
        return State(position, energy, grad), Info(clipped, not_finite)

    return drift_first if order == "drift-noise" else noise_first


def _drift_function(
    grad_clip: float | None, grad_clip_mode: Literal["value", "norm"]
) -> Callable[[np.ndarray, float, np.ndarray], int]:
    """Returns a function that writes step_size * clip(grad) into its last argument and counts clipped chains."""

    def clip_and_scale(grad: np.ndarray, step_size: float, out: np.ndarray) -> int:
        clipped_grad, clipped = clip_gradient(grad, grad_clip, grad_clip_mode, out)
        np.multiply(clipped_grad, step_size, out=out)
        return clipped

    return clip_and_scale


def are_finite(energy: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Returns [B] bool, true for samples whose energy [B] and gradient [B, *S] are finite."""
    return np.isfinite(energy) & np.isfinite(square_sums(grad))


def count_not_finite(energy: np.ndarray, grad: np.ndarray) -> int:
    """Returns the number of samples whose energy [B] or gradient [B, *S] is not finite.

    One sum of squares over the whole batch is not finite where a number is not, and mostly only there; then sample by sample.
    With a 2-d energy that is 2.5 us of a step in place of 7.5.
    """
    everything = grad.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = math.isfinite(np.dot(everything, everything)) and math.isfinite(np.dot(energy, energy))
    if finite:
        return 0
    return len(energy) - int(np.count_nonzero(are_finite(energy, grad)))


def _new_buffers(state: State) -> Buffers:
    return Buffers(np.empty_like(state.position), np.empty_like(state.position))
