"""Parallel tempering: copies of a chain at rising temperatures that trade places.

Each chain has R replicas at the temperatures T_1 < ... < T_R, which all take a step of MALA at their own temperature. Then
neighbours r and r + 1, for even r after one step and odd r after the next, swap their states with probability

    min(1, exp((1 / T_r - 1 / T_{r+1}) * (E_r - E_{r+1})))

so the replicas keep the product of exp(-E / T_r), and the first of them exp(-E / T_1), while a hot one carries it from mode to
mode (Geyer, "Markov chain Monte Carlo maximum likelihood", 1991; alternating pairs: Okabe et al., 2001). Step sizes belong
to temperatures and stay where they are, as do gradient scales.

An energy or gradient that is not finite is a rejection of that replica's step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..chain_random import ChainRandom
from ..noise import Stream
from . import mala
from .langevin import Evaluate
from .metropolis import accept

__all__ = ["Info", "Kernel", "State", "build_kernel", "init", "refresh"]


class State(NamedTuple):
    """What the next step needs, so that a step costs one evaluation of all replicas.

    Attributes:
        position: [B, *S] float32, of the coldest replica.
        energy: [B] float32, at `position`.
        grad: [B, *S] float32, dE/dx at `position`, not clipped.
        replicas: the same of all replicas, [B * R, ...]; those of one chain follow one another, the coldest first.
    """

    position: np.ndarray
    energy: np.ndarray
    grad: np.ndarray
    replicas: mala.State


class Info(NamedTuple):
    """What only a reader needs.

    Attributes:
        acceptance: [B * R] float64, the probability with which each replica's step was accepted.
        accepted: [B * R] bool, where it was.
        swap_acceptance: [B * P] float64, the probabilities with which the P pairs of this step swapped.
        clipped: number of replicas whose gradient was changed by clipping.
        not_finite: number of replicas whose step was rejected because something there was not finite.
    """

    acceptance: np.ndarray
    accepted: np.ndarray
    swap_acceptance: np.ndarray
    clipped: int
    not_finite: int


Kernel = Callable[..., tuple[State, Info]]
"""What `build_kernel` returns; see there for the arguments."""


def init(position: np.ndarray, evaluate: Evaluate, count: int) -> State:
    """Makes the state that the first step starts from: all replicas of a chain at its start, with one evaluation.

    Args:
        position: [B, *S] float32, inside the bounds.
        evaluate: energy and gradient at a point, of B * R samples.
        count: number of replicas (R), at least 2.
    """
    return _of(mala.init(np.repeat(position, count, axis=0), evaluate), count)


def refresh(state: State, evaluate: Evaluate, count: int) -> State:
    """Returns the state with energies and gradients of all replicas evaluated again; arguments as in `init`."""
    return _of(mala.init(state.replicas.position, evaluate), count)


def build_kernel(step: mala.Kernel, count: int) -> Kernel:
    """Builds the function that takes one step.

    Args:
        step: the kernel of a replica's step, from `mala.build_kernel`.
        count: number of replicas (R), at least 2.

    Returns:
        kernel(random, state, evaluate, step_size, temperature, number, buffers=None) -> (new state, info), where `random` is
        a `ChainRandom` with R replicas, step_size (h) is a number or [B * R], temperature is [R], above 0, number is the
        step's, whose parity says which pairs swap, and `buffers` are arrays of all replicas to write into (None allocates).
        The state is left as it is; the same random numbers and state give the same result.
    """

    def kernel(
        random: ChainRandom,
        state: State,
        evaluate: Evaluate,
        step_size: float | np.ndarray,
        temperature: np.ndarray,
        number: int,
        buffers: mala.Buffers | None = None,
    ) -> tuple[State, Info]:
        chains = len(state.position)
        own = buffers or mala.new_buffers(state.replicas.position.shape, 1)[0]
        moved, told = step(random, state.replicas, evaluate, step_size, np.tile(temperature, chains), own)
        lower = np.arange(number % 2, count - 1, 2)  # [P], the colder of each pair
        energy = moved.energy.reshape(chains, count).astype(np.float64)
        colder = 1 / temperature
        log_ratio = (colder[lower] - colder[lower + 1]) * (energy[:, lower] - energy[:, lower + 1])  # [B, P]
        swapped, probability = accept(log_ratio, random.uniform(Stream.SWAP).reshape(chains, count)[:, lower])
        order = np.tile(np.arange(count), (chains, 1))  # [B, R], where each replica's new state comes from
        order[:, lower] += swapped
        order[:, lower + 1] -= swapped
        rows = (order + count * np.arange(chains)[:, None]).reshape(-1)
        for array, out in ((moved.position, own.flight.position), (moved.grad, own.grad)):
            # Any mode but "raise" writes at once.
            np.copyto(out, np.take(array, rows, axis=0, out=own.flight.scratch, mode="clip"))
        new = mala.State(own.flight.position, moved.energy[rows], own.grad)
        info = Info(told.acceptance, told.accepted, probability.reshape(-1), told.clipped, told.not_finite)
        return _of(new, count), info

    return kernel


def _of(replicas: mala.State, count: int) -> State:
    return State(replicas.position[::count], replicas.energy[::count], replicas.grad[::count], replicas)
