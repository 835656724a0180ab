"""The best states by a deadline, of chains that stay on the engine's device."""

from __future__ import annotations

import contextlib

import numpy as np

from .best_so_far import BestSoFar, Steps, check_energies
from .config import SamplerConfig
from .device_loop import DeviceLoop
from .engine import Engine
from .noise import NoiseSource
from .on_device import hand_over
from .pace import Pace

__all__ = ["until_on_device"]


def until_on_device(
    loop: DeviceLoop,
    engine: Engine,
    steps: Steps,
    config: SamplerConfig,
    seed: int,
    free: np.ndarray | None,
    pace: Pace,
    first: int = 0,
) -> BestSoFar:
    """What `best_so_far.until` gives: the start is evaluated on the host, all that follows on the device.

    Args:
        loop: of the engine.
        engine: what evaluates.
        steps: all chains in one batch, not begun; order "drift-noise", whose states have the energy of their position.
        config: the sampler's settings.
        seed: of the noise.
        free: [n, *S] or [1, *S] float32, 1 where a number may move; None where all may.
        pace: knows the deadline; the same as that of `chain_steps`.
        first: as in `run_chains`.

    Raises:
        DivergenceError: no chain ever had a finite energy.
    """
    with contextlib.closing(steps):
        now = next(steps)
        pace.started(now.calls)
        start = hand_over(now, config, NoiseSource(seed).key, free, engine.highest_scale, first=first)

        def goes_on(done: int, lost: int) -> bool:
            if done > start.done:
                pace.took()
            more = pace.has_time() and lost < now.n
            if not more:
                pace.over()
            return more

        energy = np.asarray(now.state.energy, dtype=np.float32)
        if now.diverged is not None:
            energy = np.where(now.diverged, np.float32(np.inf), energy)
        best = loop.run_while(start, energy, goes_on)
        if now.diverged is not None:  # which the device does not know: the engine may answer them as if they were well
            best.x[now.diverged], best.energy[now.diverged] = start.position[now.diverged], np.inf
            best = best._replace(lost=best.lost | now.diverged)
    check_energies(best.energy, best.steps)
    return BestSoFar(best.x, best.energy, best.steps, best.steps == config.steps, best.lost)
