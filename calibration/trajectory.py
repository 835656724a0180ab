"""States along a model's own chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..runtime.chain import Progress, run_chains
from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
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
    """[G, n] float32, the gradient scale that the chains ran with; ones where nothing had been evaluated yet."""


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
    progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Runs n chains from the model's own start distribution and keeps states at evenly spaced stages.

    A state is where the engine was asked for a gradient: in the order "noise-drift" that is the noised point, not the
    position that the drift led to, and the gradients there are the ones that make the sample.

    Args:
        engine: an open engine; the sampler is the runtime's own, gradient scaling included.
        config: the sampler's settings.
        shape: shape of one state.
        n: number of chains.
        seed: same seed, same trajectory.
        stages: number of stages, start and end included; fewer where there are fewer steps.
        cond: conditioning arrays by graph name, each [n, ...] or [1, ...].
        data: states to start from, for init="data".
        progress: called with (steps done, steps in all).

    Raises:
        DivergenceError: a chain left the numbers that a float can hold.
    """
    wanted = sorted({round(done) for done in np.linspace(0, config.steps, stages)})
    states: list[np.ndarray] = []
    scales: list[np.ndarray] = []
    watched = Watched(engine)

    def keep(now: Progress) -> None:
        if progress is not None:
            progress(now.done, now.steps)
        if now.done in wanted:
            # At the start of "noise-drift" nothing has been asked yet.
            states.append(now.state.position.copy() if watched.asked is None else watched.asked)
            scales.append(np.ones(n, np.float32) if now.grad_scale is None else now.grad_scale.copy())

    run_chains(
        watched,
        config,
        lambda chains: start_states(config, shape, chains, seed, data),
        n,
        seed=seed,
        cond=cond,
        callback=keep,
    )
    return Trajectory(np.asarray(wanted, np.int64), np.stack(states), np.stack(scales))


class Watched(Engine):
    """An open engine that remembers where it was asked last."""

    def __init__(self, engine: Engine) -> None:
        self.backend = engine.backend
        self.asked: np.ndarray | None = None
        self._engine = engine

    def open(self) -> None:
        """The engine is open already."""

    def close(self) -> None:
        """Whoever opened the engine closes it."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.asked = inputs["x"].copy()  # the sampler may go on in the same array
        return self._engine.run(inputs)
