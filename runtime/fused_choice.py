"""Whether several steps in one call are faster than one by one, on this device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from .config import SamplerConfig
from .engine import Engine
from .errors import DivergenceError
from .fused_steps import Fused
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
    start: Callable[[range], np.ndarray],
    batch: int,
    cond: Mapping[str, np.ndarray],
) -> bool:
    """Times a block of steps both ways, in turns.

    Args:
        engine: open.
        fused: with settings that fit; its engine is opened where that is still to be found out, and stays open.
        config: the sampler's settings.
        start: gives start states like those of the calls to come.
        batch: number of chains.
        cond: conditioning inputs, one row or `batch` rows each.
    """
    settings = config.replace(steps=fused.count, warmup=0)

    def seconds(steps: Fused | None) -> float:
        begun = time.perf_counter()
        run_chains(
            engine,
            settings,
            start,
            batch,
            cond=cond,
            callback=on_the_host,  # chains that stay on a device have no use for fused steps
            fused=steps,
        )
        return time.perf_counter() - begun

    try:
        seconds(None)
        if seconds(None) / fused.count > _LONG_STEP:
            return False
        fused.open()
        seconds(fused)
        pairs = [(seconds(None), seconds(fused)) for _ in range(_ROUNDS)]
    except DivergenceError:  # blocks that are done again step by step are no faster
        return False
    return statistics.median(one / many for one, many in pairs) > 1
