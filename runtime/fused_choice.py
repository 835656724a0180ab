"""Whether several steps in one call are faster than one by one, on this device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np

from .config import SamplerConfig
from .engine import Engine
from .fused_steps import Fused
from .noise import normal
from .progress import on_the_host
from .run import run_chains

__all__ = ["is_faster"]

_LONG_STEP = 2e-3
"""Seconds of a step beside which what a call costs (tens of microseconds) is nothing; then no engine is compiled to find out."""
_ROUNDS = 5


def is_faster(
    engine: Engine,
    fused: Fused,
    config: SamplerConfig,
    shape: tuple[int, ...],
    batch: int,
    cond: Mapping[str, np.ndarray],
) -> bool:
    """Times a block of steps both ways, in turns.

    Args:
        engine: open.
        fused: with settings that fit; its engine is opened where that is still to be found out, and stays open.
        config: the sampler's settings.
        shape: of one state.
        batch: number of chains.
        cond: conditioning inputs, one row or `batch` rows each.
    """
    settings = config.replace(steps=fused.count, warmup=0)

    def seconds(steps: Fused | None) -> float:
        begun = time.perf_counter()
        run_chains(
            engine,
            settings,
            lambda chains: normal(0, 0, chains, shape),
            batch,
            cond=cond,
            callback=on_the_host,  # chains that stay on a device have no use for fused steps
            diverged="drop",
            fused=steps,
        )
        return time.perf_counter() - begun

    seconds(None)
    if seconds(None) / fused.count > _LONG_STEP:
        return False
    fused.open()
    seconds(fused)
    pairs = [(seconds(None), seconds(fused)) for _ in range(_ROUNDS)]
    return statistics.median(one / many for one, many in pairs) > 1
