"""Hamiltonian Monte Carlo: a flight of several leapfrog steps, accepted or rejected as a whole.

With E the energy and T the temperature, a step draws a momentum p ~ N(0, I), flies L steps of size h with walls at the
bounds (see `leapfrog.py`) from (x, p) to (x', p'), and accepts x' with probability

    min(1, exp(-(E(x') - E(x)) / T - (|p'|^2 - |p|^2) / 2))

so the chain keeps exp(-E / T), inside the bounds, at any h and L (Duane et al., "Hybrid Monte Carlo", 1987; Neal, "MCMC using
Hamiltonian dynamics", 2011). L = 1 is MALA with the same h. A flight covers a distance that grows with L, where L
steps of MALA cover one that grows with sqrt(L). Clipping and errors of the gradient change how fast a chain moves and not
what it samples.

An energy or gradient at the end of the flight that is not finite is a rejection.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..chain_random import ChainRandom
from .langevin import Evaluate
from .leapfrog import build_integrator
from .mala import Info, Kernel, State, init, move

__all__ = ["Info", "Kernel", "State", "build_kernel", "init"]


def build_kernel(
    leapfrog: int,
    grad_clip: float | None = None,
    grad_clip_mode: Literal["value", "norm"] = "value",
    bounds: tuple[float, float] | None = None,
) -> Kernel:
    """Builds the function that takes one step, at the cost of `leapfrog` evaluations.

    Args:
        leapfrog: number of leapfrog steps (L), at least 1.
        grad_clip: limit on the gradient, above 0; None leaves it as it is.
        grad_clip_mode: see `clip_gradient`.
        bounds: (low, high), the walls; None for none.

    Returns:
        kernel(random, state, evaluate, step_size, temperature) -> (new state, info), as `mala.build_kernel`.
    """
    integrate = build_integrator(grad_clip, grad_clip_mode, bounds)

    def kernel(
        random: ChainRandom,
        state: State,
        evaluate: Evaluate,
        step_size: float | np.ndarray,
        temperature: float | np.ndarray,
    ) -> tuple[State, Info]:
        flight = integrate(random.normal(), *state, evaluate, step_size, temperature, leapfrog)
        return move(random, state, flight)

    return kernel
