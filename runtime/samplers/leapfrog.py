"""The leapfrog integrator of Hamiltonian dynamics between walls.

With E the energy, T the temperature, h the step size and p a momentum that is N(0, I) at every point, one step is

    p <- p - sqrt(h / (2 T)) * clip(dE/dx(x))
    x <- x + sqrt(2 h T) * p                       p changes sign for each number of x that a wall turns round
    p <- p - sqrt(h / (2 T)) * clip(dE/dx(x))      between two steps of a flight, one change for this and the next

which is the usual leapfrog with time step sqrt(2 h) and momentum sqrt(T) p. One step moves x by -h * dE/dx + sqrt(2 h T) * p,
so h means the same here as in Langevin dynamics. Each line keeps volume, and the whole taken with -p leads back, also
where the gradient is clipped or wrong: a Metropolis test on

    E(x) / T + |p|^2 / 2

then makes the chain exact (Neal, "MCMC using Hamiltonian dynamics", 2011, sections 2.3 and 5.1; walls as there in 5.5.1.5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from ..row_norms import square_sums
from .boundary import build_confine
from .clipping import clip_gradient
from .langevin import Evaluate

__all__ = ["Flight", "FlightBuffers", "Integrator", "build_integrator"]


class Flight(NamedTuple):
    """Where a flight ended.

    Attributes:
        position: [B, *S] float32, that of the buffers.
        momentum: [B, *S] float32, p there, that of the buffers.
        energy: [B] float32, at `position`; the evaluation's own array.
        grad: [B, *S] float32, dE/dx at `position`; the evaluation's own array.
        log_ratio: [B] float64, -(E'/T + |p'|^2 / 2) + (E/T + |p|^2 / 2); NaN where the energy at the end or
            a gradient on the way was not finite; energies on the way are not looked at.
        clipped: number of chains whose first gradient was changed by clipping.
    """

    position: np.ndarray
    momentum: np.ndarray
    energy: np.ndarray
    grad: np.ndarray
    log_ratio: np.ndarray
    clipped: int


class FlightBuffers(NamedTuple):
    """Arrays a flight may write into, [B, *S] float32; none may overlap what it starts from.

    Attributes:
        position: becomes that of the flight.
        momentum: becomes that of the flight.
        scratch: anything.
        total: the sum of both momenta.
    """

    position: np.ndarray
    momentum: np.ndarray
    scratch: np.ndarray
    total: np.ndarray


Integrator = Callable[..., Flight]
"""What `build_integrator` returns; see there for the arguments."""


def build_integrator(
    grad_clip: float | None = None,
    grad_clip_mode: Literal["value", "norm"] = "value",
    bounds: tuple[float, float] | None = None,
) -> Integrator:
    """Builds the function that flies some steps.

    Args:
        grad_clip: limit of `clip`, above 0; None leaves the gradient as it is.
        grad_clip_mode: see `clip_gradient`.
        bounds: (low, high), the walls; None for none.

    Returns:
        integrate(momentum, position, energy, grad, evaluate, step_size, temperature, count=1, buffers=None) -> Flight, where
        momentum is [B, *S] float32 standard normal, position, energy and grad are a point that was evaluated, step_size (h)
        and temperature (T, above 0) are numbers or [B], count is the number of steps, and `buffers` are arrays to write into
        (None allocates). Nothing else that is given is changed.
    """
    bounce = build_confine(bounds, "reflect")

    def integrate(
        momentum: np.ndarray,
        position: np.ndarray,
        energy: np.ndarray,
        grad: np.ndarray,
        evaluate: Evaluate,
        step_size: float | np.ndarray,
        temperature: float | np.ndarray,
        count: int = 1,
        buffers: FlightBuffers | None = None,
    ) -> Flight:
        kick = _per_chain(np.sqrt(np.divide(step_size, np.multiply(2.0, temperature))), position.ndim)
        stride = _per_chain(np.sqrt(2.0 * np.multiply(step_size, temperature)), position.ndim)
        start_energy = np.array(energy, dtype=np.float64)
        new, flying, scratch, total = buffers or FlightBuffers(*(np.empty_like(position) for _ in range(4)))

        pushed, clipped = clip_gradient(grad, grad_clip, grad_clip_mode, scratch)
        np.multiply(kick, pushed, out=scratch)
        np.subtract(momentum, scratch, out=flying)
        np.copyto(new, position)
        for left in range(count - 1, -1, -1):
            np.multiply(stride, flying, out=scratch)
            new += scratch
            bounce(new, flying)
            new_energy, new_grad = evaluate(new)
            pushed, _ = clip_gradient(new_grad, grad_clip, grad_clip_mode, scratch)
            np.multiply(2 * kick if left else kick, pushed, out=scratch)
            flying -= scratch

        # |p'|^2 - |p|^2 as a product, which loses nothing where the two are nearly the same.
        shape = (len(position), -1)
        np.subtract(flying, momentum, out=scratch)
        np.add(flying, momentum, out=total)
        gained = np.einsum("bd,bd->b", scratch.reshape(shape), total.reshape(shape), dtype=np.float64)
        log_ratio = (start_energy - new_energy) / temperature - gained / 2
        log_ratio[~(np.isfinite(new_energy) & np.isfinite(square_sums(new_grad)) & np.isfinite(gained))] = np.nan
        return Flight(new, flying, new_energy, new_grad, log_ratio, clipped)

    return integrate


def _per_chain(number: np.ndarray, ndim: int) -> np.ndarray:
    """Makes a number or [B] multiply [B, *S] without turning float32 into float64."""
    number = np.asarray(number, dtype=np.float32)
    return number.reshape(-1, *[1] * (ndim - 1)) if number.ndim else number
