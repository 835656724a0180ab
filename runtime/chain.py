"""The loop: an engine, a kernel, gradient scaling and noise make chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .config import SamplerConfig
from .engine import Engine
from .errors import DivergenceError
from .gradient_scale import ScaledScore
from .noise import NoiseSource
from .samplers import langevin
from .schedule import noise_schedule, spread

__all__ = ["Callback", "Progress", "run_chains"]


class Progress(NamedTuple):
    """What a callback is told, once at the start of each batch of chains and once after every step.

    The arrays are overwritten by the steps that follow; copy what is to be kept.

    Attributes:
        done: steps taken, 0 at the start.
        steps: steps in all.
        chains: numbers of the chains in this batch.
        n: number of chains in all batches together.
        state: positions, energies and gradients of these chains.
        info: what the step reports; None at the start.
        grad_scale: [B] float32, the scale that energy and gradient were computed with; None where nothing has been.
    """

    done: int
    steps: int
    chains: range
    n: int
    state: langevin.State
    info: langevin.Info | None
    grad_scale: np.ndarray | None


Callback = Callable[[Progress], None]


def run_chains(
    engine: Engine,
    config: SamplerConfig,
    start: Callable[[range], np.ndarray],
    n: int,
    *,
    seed: int = 0,
    cond: Mapping[str, np.ndarray] | None = None,
    max_batch: int | None = None,
    callback: Callback | None = None,
) -> np.ndarray:
    """Runs n chains from start to end, in batches where they are many.

    Neither the batches nor n change what a chain's noise and start are.

    Args:
        engine: an open engine.
        config: the sampler's settings.
        start: gives the start states [len(chains), *S] float32 of the chain numbers it is asked for.
        n: number of chains, at least 1.
        seed: as in `NoiseSource`.
        cond: conditioning arrays by graph name, each [n, ...], or [1, ...] where all chains share it.
        max_batch: most chains in one engine call; None means all.
        callback: told about every step, see `Progress`.

    Returns:
        [n, *S] float32, the final positions.

    Raises:
        DivergenceError: an energy, gradient or final position is not finite.
    """
    batch = min(n, max_batch or n)
    result: np.ndarray | None = None
    for first in range(0, n, batch):
        chains = range(first, min(first + batch, n))
        position = np.ascontiguousarray(start(chains), dtype=np.float32)
        if result is None:
            result = np.empty((n, *position.shape[1:]), dtype=np.float32)
        score = ScaledScore(engine, {name: _rows(array, chains) for name, array in (cond or {}).items()})
        result[first : chains.stop] = _run_batch(score, config, position, chains, n, seed, callback)
    assert result is not None, "run_chains needs at least one chain"
    return result


def _run_batch(
    score: ScaledScore,
    config: SamplerConfig,
    position: np.ndarray,
    chains: range,
    n: int,
    seed: int,
    callback: Callback | None,
) -> np.ndarray:
    """Runs one batch of chains and returns their final positions [B, *S]; arguments as in `run_chains`."""
    step_sizes = spread(config.step_size, config.steps).tolist()
    sigmas = noise_schedule(config).tolist()
    kernel = langevin.build_kernel(config.order, config.grad_clip, config.grad_clip_mode, config.bounds)
    source = NoiseSource(seed)
    noise = np.zeros_like(position)
    # A step reads one position and writes another, so two buffers take turns. The start is neither: it is not ours.
    positions = (np.empty_like(position), np.empty_like(position))
    drift = np.empty_like(position)

    # Numbers that leave float32's range are looked for below; numpy need not warn of them as well.
    with np.errstate(over="ignore", invalid="ignore"):
        state = langevin.init(position, score, config.order)
    if config.order == "drift-noise":
        _stop_if_diverged(langevin.count_not_finite(state.energy, state.grad), 0, chains)
    if callback is not None:
        callback(Progress(0, config.steps, chains, n, state, None, score.scale))
    for step, (step_size, sigma) in enumerate(zip(step_sizes, sigmas, strict=True)):
        if sigma > 0:  # else the numbers of an earlier step are multiplied by zero
            source.normal(step, chains, position.shape[1:], out=noise)
        buffers = langevin.Buffers(positions[step % 2], drift)
        with np.errstate(over="ignore", invalid="ignore"):
            state, info = kernel(noise, state, score, step_size, sigma, buffers)
        _stop_if_diverged(info.not_finite, step + 1, chains)
        if callback is not None:
            callback(Progress(step + 1, config.steps, chains, n, state, info, score.scale))
    # The last drift of the order "noise-drift" is followed by no evaluation that would notice an overflow.
    finite = np.isfinite(state.position).reshape(len(chains), -1).all(axis=1)
    _stop_if_diverged(int(np.count_nonzero(~finite)), config.steps, chains)
    return state.position


def _rows(array: np.ndarray, chains: range) -> np.ndarray:
    """Returns the rows of these chains, C-contiguous; a single row is repeated for all."""
    if len(array) == 1:
        return np.ascontiguousarray(np.broadcast_to(array, (len(chains), *array.shape[1:])))
    return np.ascontiguousarray(array[chains.start : chains.stop])


def _stop_if_diverged(hit: int, step: int, chains: range) -> None:
    if hit:
        where = f"after step {step}" if step else "at the start"
        raise DivergenceError(
            f"{hit} of {len(chains)} chains have an energy, gradient or position that is not finite {where}; "
            "try a smaller step_size, grad_clip, or bounds"
        )
