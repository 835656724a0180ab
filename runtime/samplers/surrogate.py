"""Exact sampling through a cheap engine: blocks of MALA on a surrogate energy, each accepted or rejected as a whole.

With E the energy to be sampled, S the surrogate (the same energy in low precision) and T the temperature, K steps of MALA on S
lead from x to y, and y is accepted with probability

    min(1, exp(-(E(y) - E(x)) / T + (S(y) - S(x)) / T))

Steps of MALA keep exp(-S / T) and are reversible with respect to it, so K of them are a proposal whose ratio is
exp(-(S(x) - S(y)) / T), and the chain of blocks keeps exp(-E / T). It asks E once per block (Liu, "Monte Carlo Strategies in
Scientific Computing", 2001, section 9.4.3, surrogate transition; Christen and Fox, "Markov chain Monte Carlo using an
approximation", 2005, for K = 1).

Reversibility needs an S and a dS/dx that depend on the state alone; a gradient scale that runs along the chain would make
them depend on its past. So scales and step sizes are tuned during a warm-up and then frozen.

An energy or gradient that is not finite is a rejection, of the step in S and of the block in E.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..chain_random import ChainRandom
from ..noise import Stream
from . import mala
from .langevin import Evaluate
from .metropolis import accept, select

__all__ = ["Energy", "Info", "Kernel", "State", "build_kernel", "init"]

Energy = Callable[[np.ndarray], np.ndarray]
"""x [B, *S] float32 -> the energy [B] to be sampled; the array may be overwritten by its next call."""


class State(NamedTuple):
    """What the next block needs, so that a block of K steps costs K evaluations of S and one of E.

    Attributes:
        position: [B, *S] float32.
        energy: [B] float32, E at `position`; NaN during a warm-up, which does without E.
        grad: [B, *S] float32, dS/dx at `position`, not clipped.
        surrogate: [B] float32, S at `position`.
    """

    position: np.ndarray
    energy: np.ndarray
    grad: np.ndarray
    surrogate: np.ndarray


class Info(NamedTuple):
    """What only a reader needs.

    Attributes:
        acceptance: [B] float64, the mean probability with which the steps of the block were accepted.
        block_acceptance: [B] float64, the probability with which each chain's block was accepted.
        accepted: [B] bool, where the block was.
        clipped: number of chains whose gradient was changed by clipping at the block's last step.
        not_finite: number of chains whose block was rejected because E was not finite.
    """

    acceptance: np.ndarray
    block_acceptance: np.ndarray
    accepted: np.ndarray
    clipped: int
    not_finite: int


Kernel = Callable[..., tuple[State, Info]]
"""What `build_kernel` returns; see there for the arguments."""


def init(position: np.ndarray, evaluate: Evaluate, energy: Energy) -> State:
    """Makes the state that the first block starts from, with one evaluation of each energy.

    Args:
        position: [B, *S] float32, inside the bounds.
        evaluate: S and dS/dx at a point.
        energy: E at a point.
    """
    surrogate, grad = evaluate(position)
    surrogate, grad = surrogate.copy(), grad.copy()
    # A chain cannot leave a point where S is not finite, so the state's energy says that too.
    return State(position, np.where(np.isfinite(surrogate), energy(position), np.nan), grad, surrogate)


def build_kernel(step: mala.Kernel) -> Kernel:
    """Builds the function that takes one block.

    Args:
        step: the kernel of a step on the surrogate, from `mala.build_kernel`.

    Returns:
        kernel(random, state, evaluate, energy, step_size, temperature, count, buffers=None) -> (new state, info), where
        `random` is a `ChainRandom` at the block's first step, `evaluate` and `energy` are those of `init`, step_size (h)
        and temperature (T, above 0) are numbers or [B], count is K, and `buffers` are the arrays of two steps that take
        turns, from `mala.new_buffers` (None allocates). The state is left as it is; the same random numbers and state give
        the same result.
    """

    def kernel(
        random: ChainRandom,
        state: State,
        evaluate: Evaluate,
        energy: Energy,
        step_size: float | np.ndarray,
        temperature: float | np.ndarray,
        count: int,
        buffers: Sequence[mala.Buffers] | None = None,
    ) -> tuple[State, Info]:
        turns = buffers or mala.new_buffers(state.position.shape, 2)
        inner = mala.State(state.position, state.surrogate, state.grad)
        acceptance = np.zeros(len(state.position))
        for number in range(count):
            inner, told = step(random.ahead(number), inner, evaluate, step_size, temperature, turns[number % 2])
            acceptance += told.acceptance / count
        new_energy = energy(inner.position)
        log_ratio = _log_ratio(state, new_energy, inner.energy, temperature)
        accepted, block_acceptance = accept(log_ratio, random.uniform(Stream.CORRECT))
        new = State(
            select(accepted, inner.position, state.position, out=inner.position),
            select(accepted, new_energy, state.energy),
            select(accepted, inner.grad, state.grad, out=inner.grad),
            select(accepted, inner.energy, state.surrogate),
        )
        not_finite = int(np.count_nonzero(np.isnan(log_ratio)))
        return new, Info(acceptance, block_acceptance, accepted, told.clipped, not_finite)

    return kernel


def _log_ratio(
    state: State, new_energy: np.ndarray, new_surrogate: np.ndarray, temperature: float | np.ndarray
) -> np.ndarray:
    """Returns (-(E(y) - E(x)) + (S(y) - S(x))) / T [B] float64; NaN where E(y) is not finite."""
    true_rise = new_energy.astype(np.float64) - state.energy
    surrogate_rise = new_surrogate.astype(np.float64) - state.surrogate
    log_ratio = np.asarray((surrogate_rise - true_rise) / temperature)
    log_ratio[~np.isfinite(new_energy)] = np.nan
    return log_ratio
