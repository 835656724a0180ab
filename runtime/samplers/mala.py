"""Metropolis-adjusted Langevin dynamics (MALA): the Langevin step as a proposal that is accepted or rejected.

With E the energy, T the temperature and h the step size, from x

    y = x - h * clip(dE/dx(x)) + sqrt(2 h T) * n,        n ~ N(0, I)

is proposed and accepted with probability min(1, exp(-(E(y) - E(x)) / T) q(x|y) / q(y|x)), where

    q(b|a) = N(b; a - h * clip(dE/dx(a)), 2 h T I)

so the chain keeps exp(-E / T) at any step size (Roberts and Tweedie, "Exponential convergence of Langevin distributions
and their discrete approximations", Bernoulli 1996; with clipping, their truncated algorithm, section 1.4.2). Clipping and
errors of the gradient change how fast a chain moves and not what it samples; errors of the energy do change that.

The step is computed as one leapfrog step, which is the same proposal with the same ratio and which also knows walls: a
proposal that would leave the bounds is reflected at them, and the chain keeps exp(-E / T) inside them. A flight of several such
steps is Hamiltonian Monte Carlo, see `hmc.py`.

An energy or gradient that is not finite is a rejection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from ..chain_random import ChainRandom
from .langevin import Evaluate
from .leapfrog import FlightBuffers, build_integrator
from .metropolis import accept, select

__all__ = ["Buffers", "Info", "Kernel", "State", "build_kernel", "init", "new_buffers"]


class State(NamedTuple):
    """What the next step needs, so that a step costs one evaluation.

    Attributes:
        position: [B, *S] float32.
        energy: [B] float32, at `position`.
        grad: [B, *S] float32, dE/dx at `position`, not clipped.
    """

    position: np.ndarray
    energy: np.ndarray
    grad: np.ndarray


class Info(NamedTuple):
    """What only a reader needs.

    Attributes:
        acceptance: [B] float64, the probability with which each chain's proposal was accepted.
        accepted: [B] bool, where it was.
        clipped: number of chains whose gradient was changed by clipping.
        not_finite: number of chains whose proposal was rejected because something there was not finite.
    """

    acceptance: np.ndarray
    accepted: np.ndarray
    clipped: int
    not_finite: int


class Buffers(NamedTuple):
    """Arrays a step may write into, [B, *S] float32; none may overlap the state that the step starts from.

    Attributes:
        flight: its position becomes the new state's, the others are scratch.
        grad: becomes the new state's gradient; scratch until the proposal is accepted or rejected.
        noise: the step's noise.
    """

    flight: FlightBuffers
    grad: np.ndarray
    noise: np.ndarray


def new_buffers(shape: tuple[int, ...], count: int) -> list[Buffers]:
    """Makes arrays for steps that take turns: each reads the state that another one wrote. Their scratch is the same.

    Args:
        shape: [B, *S].
        count: how many take turns.
    """
    momentum, scratch, noise = (np.empty(shape, dtype=np.float32) for _ in range(3))
    buffers = []
    for _ in range(count):
        position, grad = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        buffers.append(Buffers(FlightBuffers(position, momentum, scratch, total=grad), grad, noise))
    return buffers


Kernel = Callable[..., tuple[State, Info]]
"""What `build_kernel` returns; see there for the arguments."""


def init(position: np.ndarray, evaluate: Evaluate) -> State:
    """Makes the state that the first step starts from, with one evaluation.

    Args:
        position: [B, *S] float32, inside the bounds.
        evaluate: energy and gradient at a point.
    """
    energy, grad = evaluate(position)
    return State(position, energy.copy(), grad.copy())


def build_kernel(
    grad_clip: float | None = None,
    grad_clip_mode: Literal["value", "norm"] = "value",
    bounds: tuple[float, float] | None = None,
    leapfrog: int = 1,
) -> Kernel:
    """Builds the function that takes one step, at the cost of `leapfrog` evaluations.

    Args:
        grad_clip: limit of `clip`, above 0; None leaves the gradient as it is.
        grad_clip_mode: see `clip_gradient`.
        bounds: (low, high) at which proposals are reflected; None for none.
        leapfrog: number of leapfrog steps between two decisions, at least 1; 1 is MALA, more are HMC.

    Returns:
        kernel(random, state, evaluate, step_size, temperature, buffers=None) -> (new state, info), where `random` is a
        `ChainRandom`, step_size (h) and temperature (T, above 0) are numbers or [B], and `buffers` are arrays to write into
        (None allocates). The state is left as it is; the same random numbers and state give the same result.
    """
    integrate = build_integrator(grad_clip, grad_clip_mode, bounds)

    def kernel(
        random: ChainRandom,
        state: State,
        evaluate: Evaluate,
        step_size: float | np.ndarray,
        temperature: float | np.ndarray,
        buffers: Buffers | None = None,
    ) -> tuple[State, Info]:
        flown, grad, noise = buffers or new_buffers(state.position.shape, 1)[0]
        flight = integrate(random.normal(out=noise), *state, evaluate, step_size, temperature, leapfrog, flown)
        accepted, acceptance = accept(flight.log_ratio, random.uniform())
        new = State(
            select(accepted, flight.position, state.position, out=flight.position),
            select(accepted, flight.energy, state.energy),
            select(accepted, flight.grad, state.grad, out=grad),
        )
        return new, Info(acceptance, accepted, flight.clipped, int(np.count_nonzero(np.isnan(flight.log_ratio))))

    return kernel
