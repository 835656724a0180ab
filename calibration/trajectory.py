"""States along a model's own chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
from ..runtime.progress import Progress
from ..runtime.run import run_chains
from ..runtime.start import start_states

__all__ = ["Trajectory", "Watched", "record_trajectory"]


@dataclass(frozen=True)
class Trajectory:
    """States of n chains at G stages between their start and their end."""

    step: np.ndarray
    """[G] int64, steps taken at each stage; the first is 0, the last is the number of steps."""
    x: np.ndarray
    """[G, n, *S] float32."""
    grad_scale: np.ndarray
    """[G, n] float32, the gradient scale that the chains ran with."""


def record_trajectory(
    engine: Engine,
    config: SamplerConfig,
    shape: tuple[int, ...],
    n: int,
    *,
    seed: int,
    stages: int = 12,
    cond: Mapping[str, np.ndarray] | None = None,
    data: np.ndarray | None = None,
    max_batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Runs n chains from the model's own start distribution and keeps states at evenly spaced stages.

    A state is where a gradient is asked that makes the sample: see `Watched`.

    Args:
        engine: an open engine; the sampler is the runtime's own, gradient scaling included.
        config: the sampler's settings.
        shape: shape of one state.
        n: number of chains.
        seed: same seed, same trajectory.
        stages: number of stages, start and end included; fewer where there are fewer steps.
        cond: conditioning arrays by graph name, each [n, ...] or [1, ...].
        data: states to start from, for init="data".
        max_batch: most chains in one engine call.
        progress: called with (steps done, steps in all).

    Raises:
        DivergenceError: a chain left the numbers that a float can hold.
    """
    wanted = sorted({round(done) for done in np.linspace(0, config.steps, stages)})
    states, scales = np.empty((len(wanted), n, *shape), np.float32), np.empty((len(wanted), n), np.float32)
    watched = Watched(engine, config)

    def keep(now: Progress) -> None:
        if progress is not None:
            progress(now.part[0] // n, now.steps)
        if now.done in wanted:
            stage, chains = wanted.index(now.done), np.asarray(now.chains)
            assert now.grad_scale is not None, "chains on a watched engine have a scale"
            states[stage, chains], scales[stage, chains] = watched.where(now), now.grad_scale

    run_chains(
        watched,
        config,
        lambda chains: start_states(config, shape, chains, seed, data),
        n,
        seed=seed,
        cond=cond,
        max_batch=max_batch,
        callback=keep,
    )
    return Trajectory(np.asarray(wanted, np.int64), states, scales)


class Watched(Engine):
    """An open engine that knows where the gradients of a chain's steps are asked.

    That is at its positions, whatever else a sampler asks on the way: points that it rejects, the hot replicas of a
    tempered chain. Overdamped Langevin dynamics in the order "noise-drift" alone asks elsewhere, at the noised points, and
    not at the positions that the drift leads to.

    Chains on it have a running gradient scale whatever the engine needs: what is recorded is for engines that need one.

    Args:
        engine: an open engine.
        config: the sampler's settings.
    """

    def __init__(self, engine: Engine, config: SamplerConfig) -> None:
        self.backend, self.known_scales = engine.backend, engine.known_scales
        self._engine = engine
        self._noised = config.sampler == "langevin" and config.order == "noise-drift"
        self._asked: np.ndarray | None = None

    def where(self, now: Progress) -> np.ndarray:
        """Returns where the chains of a batch were asked last, [B, *S]; the array is overwritten by the next step."""
        return now.state.position if self._asked is None else self._asked

    def open(self) -> None:
        """The engine is open already."""

    def close(self) -> None:
        """Whoever opened the engine closes it."""

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._engine.prepare(cond)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._noised:
            self._asked = inputs["x"].copy()  # the drift goes on in the same array
        return self._engine.run(inputs)
