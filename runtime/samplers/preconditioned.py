"""Langevin dynamics with a step size for each number of x.

With E the energy, T the temperature, h the step size and P > 0 an array in the shape of x, one step is

    x' = confine(x - h * P * clip(dE/dx(x)) + sqrt(P) * sigma * n),        n ~ N(0, I),  sigma = sqrt(2 h T)

which keeps exp(-E / T) up to an error that vanishes with h, as long as P does not change. With

    P = a / (V + 0.01 * mean(V)),        V the mean of (dE/dx)^2 along the chain,  a such that mean(P) = 1

(means over the numbers of x that may move; P = 1 where a number stays)

steep directions take short steps and flat ones long steps: 1 / V is the diagonal of the inverse Fisher matrix, the
preconditioner with which a Langevin step moves furthest (Titsias, "Optimal preconditioning and Fisher adaptive Langevin
sampling", NeurIPS 2023). The 0.01 keeps a direction that was flat by chance from taking steps without limit.

P is 1 until `settle` takes it from the gradients that `learn` has seen. What was learned is part of the state, so that a state
alone says how its chain goes on.

The sampler cannot reject: `Info.not_finite` counts chains whose numbers are no longer finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from .boundary import build_confine
from .clipping import clip_gradient
from .langevin import Evaluate, Info, count_not_finite

__all__ = ["Buffers", "Info", "Kernel", "State", "build_kernel", "init", "learn", "preconditioner", "settle"]

_DAMPING = 0.01


class State(NamedTuple):
    """What the next step needs, so that a step costs one evaluation.

    Attributes:
        position: [B, *S] float32.
        energy: [B] float32, at `position`.
        grad: [B, *S] float32, dE/dx at `position`, not clipped.
        squares: [B, *S] float64, the sum of the squared gradients that were learned from.
        precondition: [B, *S] float32, P.
    """

    position: np.ndarray
    energy: np.ndarray
    grad: np.ndarray
    squares: np.ndarray
    precondition: np.ndarray


class Buffers(NamedTuple):
    """Arrays a step may write into, [B, *S] float32; none may overlap the state that the step starts from.

    Attributes:
        position: becomes the new state's position.
        scratch: anything.
        clip: the clipped gradient.
    """

    position: np.ndarray
    scratch: np.ndarray
    clip: np.ndarray


Kernel = Callable[..., tuple[State, Info]]
"""What `build_kernel` returns; see there for the arguments."""


def init(position: np.ndarray, evaluate: Evaluate) -> State:
    """Makes the state that the first step starts from, with one evaluation.

    Args:
        position: [B, *S] float32.
        evaluate: energy and gradient at a point.
    """
    return State(position, *evaluate(position), np.zeros(position.shape), np.ones_like(position))


def build_kernel(
    grad_clip: float | None = None,
    grad_clip_mode: Literal["value", "norm"] = "value",
    bounds: tuple[float, float] | None = None,
    bounds_mode: Literal["project", "reflect"] = "project",
) -> Kernel:
    """Builds the function that takes one step.

    Args:
        grad_clip: limit of `clip`, above 0; None leaves the gradient as it is.
        grad_clip_mode: see `clip_gradient`.
        bounds: (low, high) of `confine`; None for none.
        bounds_mode: what `confine` does, see `boundary.build_confine`.

    Returns:
        kernel(noise, state, evaluate, step_size, sigma, buffers=None) -> (new state, info), where `noise` is [B, *S] float32
        standard normal, step_size (h) and sigma are numbers, and `buffers` are arrays to write into (None allocates). Noise and
        state are left as they are; the same ones give the same result.
    """
    confine = build_confine(bounds, bounds_mode)

    def kernel(
        noise: np.ndarray,
        state: State,
        evaluate: Evaluate,
        step_size: float,
        sigma: float,
        buffers: Buffers | None = None,
    ) -> tuple[State, Info]:
        position, scratch, clip = buffers or Buffers(*(np.empty_like(state.position) for _ in range(3)))
        drift, clipped = clip_gradient(state.grad, grad_clip, grad_clip_mode, clip)
        np.multiply(state.precondition, step_size, out=scratch)
        scratch *= drift
        np.subtract(state.position, scratch, out=position)
        np.sqrt(state.precondition, out=scratch)
        scratch *= sigma
        scratch *= noise
        position += scratch
        confine(position, None)
        energy, grad = evaluate(position)
        new = state._replace(position=position, energy=energy, grad=grad)
        return new, Info(clipped, count_not_finite(energy, grad))

    return kernel


def learn(state: State) -> State:
    """Returns the state with its gradient taken into what P will be made of."""
    return state._replace(squares=state.squares + np.square(state.grad, dtype=np.float64))


def settle(state: State, free: np.ndarray | None = None) -> State:
    """Returns the state with the P of the gradients learned from; ones where there were none.

    Args:
        state: what `learn` returned.
        free: as in `preconditioner`.
    """
    return state._replace(precondition=preconditioner(state.squares, free))


def preconditioner(mean_square: np.ndarray, free: np.ndarray | None = None) -> np.ndarray:
    """Returns P from the mean squares of the gradient.

    Args:
        mean_square: [B, *S] float64, V up to a factor.
        free: [B, *S] or [1, *S] float32, 1 where a number may move and 0 where it stays; None lets all move. Numbers that
            stay have no gradient, and counted as flat directions they would take nearly all of the mean.

    Returns:
        [B, *S] float32, with mean 1 over what may move of each sample; ones where V is 0 everywhere, or x stays.
    """
    axes = tuple(range(1, mean_square.ndim))
    moves = np.broadcast_to(True if free is None else free > 0, mean_square.shape)
    damped = mean_square + _DAMPING * mean_square.mean(axis=axes, keepdims=True, where=moves)
    damped = np.where(damped > 0, damped, 1.0)
    inverse = 1 / damped
    normal = inverse / inverse.mean(axis=axes, keepdims=True, where=moves)
    return np.where(moves, normal, 1).astype(np.float32)
