"""The loop: an engine, a kernel, gradient scaling and noise make chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .chain_random import ChainRandom
from .config import SamplerConfig
from .engine import Engine
from .errors import DivergenceError, UsageError
from .gradient_scale import ScaledScore
from .method import build_method
from .samplers.langevin import count_not_finite
from .samplers.surrogate import Energy
from .schedule import spread
from .warm_up import WarmUp

__all__ = ["Callback", "Progress", "run_chains"]


class Progress(NamedTuple):
    """What a callback is told, once at the start of each batch of chains and once after every step.

    The arrays are overwritten by the steps that follow; copy what is to be kept.

    Attributes:
        done: steps taken, 0 at the start. Exact sampling tells of whole blocks after its warm-up.
        steps: steps in all.
        chains: numbers of the chains in this batch.
        n: number of chains in all batches together.
        state: positions, energies and gradients of these chains, as the sampler's `State` names them.
        info: what the step reports, the sampler's `Info`; None at the start.
        grad_scale: [B] float32, the scale that energy and gradient were computed with; None where nothing has been.
        warming_up: whether the step was one of the warm-up.
    """

    done: int
    steps: int
    chains: range
    n: int
    state: Any
    info: Any
    grad_scale: np.ndarray | None
    warming_up: bool = False


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
    switches: Mapping[int, Engine] | None = None,
    exact: Engine | None = None,
    free: np.ndarray | None = None,
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
        switches: open engines of the same energy that take over at a step, by its number. Where the step uses an energy
            or gradient of its starting point, the new engine evaluates that point again; the gradient scale goes on.
        exact: an open engine of the energy to be sampled; `engine` is then its surrogate, see `samplers/surrogate.py`.
        free: [n, *S] or [1, *S] float32, 1 where a number of x may move and 0 where it stays at its start; None lets all
            move. What moves is sampled given what stays.

    Returns:
        [n, *S] float32, the final positions.

    Raises:
        DivergenceError: a final position is not finite, or an energy or gradient, at the start or where the sampler
            cannot reject.
        UsageError: the settings leave the sampler nothing that it can sample.
    """
    if max_batch is not None and config.sampler == "tempering":  # every replica is a sample of the engine call
        if max_batch < len(config.ladder):
            raise UsageError(
                f"ladder: its {len(config.ladder)} replicas go into one engine call, which takes {max_batch} samples: give "
                "a shorter ladder or a larger max_batch"
            )
        max_batch //= len(config.ladder)
    batch = min(n, max_batch or n)
    result: np.ndarray | None = None
    for first in range(0, n, batch):
        chains = range(first, min(first + batch, n))
        position = np.ascontiguousarray(start(chains), dtype=np.float32)
        if result is None:
            result = np.empty((n, *position.shape[1:]), dtype=np.float32)
        rows = {name: _rows(array, chains) for name, array in (cond or {}).items()}
        own_free = None if free is None else free if len(free) == 1 else free[chains.start : chains.stop]
        # Numbers that leave float32's range are looked for; numpy need not warn of them as well.
        with np.errstate(over="ignore", invalid="ignore"):
            for now in _steps(engine, config, position, rows, own_free, chains, n, seed, switches or {}, exact):
                if callback is not None:
                    callback(now)
        result[first : chains.stop] = now.state.position
    assert result is not None, "run_chains needs at least one chain"
    return result


def _steps(
    engine: Engine,
    config: SamplerConfig,
    position: np.ndarray,
    cond: Mapping[str, np.ndarray],
    free: np.ndarray | None,
    chains: range,
    n: int,
    seed: int,
    switches: Mapping[int, Engine],
    exact: Engine | None,
) -> Iterator[Progress]:
    """Runs one batch of chains from its positions [B, *S], and tells of the start and of every step.

    Arguments as in `run_chains`; `cond` and `free` are those of this batch.
    """
    energy = None if exact is None else _energy_of(exact, cond, len(chains))
    method = build_method(config, position, energy)
    replicas = method.replicas
    if replicas > 1:
        cond = {name: np.repeat(array, replicas, axis=0) for name, array in cond.items()}
        free = free if free is None or len(free) == 1 else np.repeat(free, replicas, axis=0)
    score = ScaledScore(engine, cond, free)
    random = ChainRandom(seed, chains, position.shape[1:], free, replicas)
    step_sizes = spread(config.step_size, config.steps).tolist()
    warm_up = WarmUp(method.warm_up, len(chains) * replicas, method.target)

    def tell(done: int, info: Any) -> Progress:
        scale = score.scale if replicas == 1 or score.scale is None else score.scale[::replicas]
        return Progress(done, config.steps, chains, n, state, info, scale, max(done - 1, 0) < warm_up.steps)

    state = method.init(random, position, score)
    if score.scale is not None:  # something was evaluated
        _stop_if_diverged(count_not_finite(state.energy, state.grad), 0, chains)
    yield tell(0, None)
    done = 0
    while done < config.steps:
        step = done
        done = min(step + (1 if step < warm_up.steps else method.stride), config.steps)
        if step in switches:
            score.switch(switches[step])
            state = method.refresh(state, score)
        if method.rejects and step == warm_up.steps:
            score.freeze(warm_up.settle(score.scale))
            state = method.refresh(state, score)
            _stop_if_diverged(count_not_finite(state.energy, state.grad), step, chains)
        step_size = step_sizes[step] * warm_up.factor if method.rejects and warm_up.steps else step_sizes[step]
        state, info = method.step(random.at(step), state, score, step_size, step)
        if not method.rejects:
            _stop_if_diverged(info.not_finite, step + 1, chains)
        elif step < warm_up.steps:
            warm_up.update(step, info.acceptance, score.scale)
        yield tell(done, info)
    # The last drift of the order "noise-drift" is followed by no evaluation that would notice an overflow.
    finite = np.isfinite(state.position).reshape(len(chains), -1).all(axis=1)
    _stop_if_diverged(int(np.count_nonzero(~finite)), config.steps, chains)


def _energy_of(engine: Engine, rows: Mapping[str, np.ndarray], chains: int) -> Energy:
    """Returns x -> energy through an engine whose gradients are not used, so that their scale does not matter."""
    score = ScaledScore(engine, rows)
    score.freeze(np.ones(chains, dtype=np.float32))
    return lambda x: score(x)[0]


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
