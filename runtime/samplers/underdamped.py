"""Underdamped Langevin dynamics: a ball with momentum, friction and noise, by the splitting BAOAB.

With E the energy, T the temperature, h the step size, e = sqrt(2 h) the time step and c = exp(-friction * e), one step is

    v <- v - e/2 * clip(dE/dx(x))
    x <- confine(x + e/2 * v)
    v <- c * v + sqrt((1 - c^2) T) * n,        n ~ N(0, I)
    x <- confine(x + e/2 * v)
    v <- v - e/2 * clip(dE/dx(x))

The chain keeps exp(-E(x) / T - |v|^2 / (2 T)) up to an error that vanishes with h^2, and whose positions are exact where E is
quadratic (Leimkuhler and Matthews, "Rational construction of stochastic numerical methods for molecular sampling", 2013).
A force acts on x as in overdamped dynamics with step h; large friction leads back there, small friction lets a
chain fly. `confine` projects into the bounds and stops v there, or reflects both.

The sampler cannot reject: `Info.not_finite` counts chains whose numbers are no longer finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from ..chain_random import ChainRandom
from ..noise import Stream
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
        velocity: [B, *S] float32.
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
        noise: the step's noise.
    """

    position: np.ndarray
    velocity: np.ndarray
    scratch: np.ndarray
    noise: np.ndarray


Kernel = Callable[..., tuple[State, Info]]
"""What `build_kernel` returns; see there for the arguments."""


def init(random: ChainRandom, position: np.ndarray, evaluate: Evaluate, temperature: float) -> State:
    """Makes the state that the first step starts from, with one evaluation and a velocity from N(0, T I).

    Args:
        random: the chains' random numbers.
        position: [B, *S] float32.
        evaluate: energy and gradient at a point.
        temperature: T at the first step, at least 0.
    """
    velocity = random.normal(Stream.MOMENTUM)
    velocity *= math.sqrt(temperature)
    return State(position, *evaluate(position), velocity)


def build_kernel(
    friction: float,
    grad_clip: float | None = None,
    grad_clip_mode: Literal["value", "norm"] = "value",
    bounds: tuple[float, float] | None = None,
    bounds_mode: Literal["project", "reflect"] = "project",
) -> Kernel:
    """Builds the function that takes one step.

    Args:
        friction: at least 0, one over the time in which a velocity is forgotten.
        grad_clip: limit of `clip`, above 0; None leaves the gradient as it is.
        grad_clip_mode: see `clip_gradient`.
        bounds: (low, high) of `confine`; None for none.
        bounds_mode: what `confine` does, see `boundary.build_confine`.

    Returns:
        kernel(random, state, evaluate, step_size, temperature, buffers=None) -> (new state, info), where `random` is a
        `ChainRandom`, step_size (h) and temperature (T, at least 0) are numbers, and `buffers` are arrays to write into (None
        allocates). The state is left as it is; the same random numbers and state give the same result.
    """
    confine = build_confine(bounds, bounds_mode)

    def kernel(
        random: ChainRandom,
        state: State,
        evaluate: Evaluate,
        step_size: float,
        temperature: float,
        buffers: Buffers | None = None,
    ) -> tuple[State, Info]:
        half = math.sqrt(2 * step_size) / 2
        kept = math.exp(-friction * math.sqrt(2 * step_size))
        position, velocity, scratch, noise = buffers or Buffers(*(np.empty_like(state.position) for _ in range(4)))

        pushed, clipped = clip_gradient(state.grad, grad_clip, grad_clip_mode, scratch)
        np.multiply(pushed, half, out=scratch)
        np.subtract(state.velocity, scratch, out=velocity)
        np.multiply(velocity, half, out=position)
        position += state.position
        confine(position, velocity)
        velocity *= kept
        if temperature > 0:
            np.multiply(random.normal(out=noise), math.sqrt((1 - kept**2) * temperature), out=scratch)
            velocity += scratch
        np.multiply(velocity, half, out=scratch)
        position += scratch
        confine(position, velocity)
        energy, grad = evaluate(position)
        pushed, _ = clip_gradient(grad, grad_clip, grad_clip_mode, scratch)
        np.multiply(pushed, half, out=scratch)
        velocity -= scratch
        return State(position, energy, grad, velocity), Info(clipped, count_not_finite(energy, grad))

    return kernel
