"""Hamiltonian Monte Carlo: a flight of several leapfrog steps, accepted or rejected as a whole.

With E the energy and T the temperature, a step draws a momentum p ~ N(0, I), flies L steps of size h with walls at the
bounds (see `leapfrog.py`) from (x, p) to (x', p'), and accepts x' with probability

    min(1, exp(-(E(x') - E(x)) / T - (|p'|^2 - |p|^2) / 2))

so the chain keeps exp(-E / T), inside the bounds, at any h and L (Duane et al., "Hybrid Monte Carlo", 1987; Neal, "MCMC using
Hamiltonian dynamics", 2011). L = 1 is MALA with the same h. A flight covers a distance that grows with L, where L
steps of MALA cover one that grows with sqrt(L). Clipping and errors of the gradient change how fast a chain moves and not
what it samples.

An energy or gradient at the end of the flight that is not finite is a rejection.

The code is that of MALA, whose kernel flies `leapfrog` steps: L, where MALA's own is 1.
"""

from __future__ import annotations

from .mala import Info, Kernel, State, build_kernel, init

__all__ = ["Info", "Kernel", "State", "build_kernel", "init"]
