"""How long it takes to draw the samples that the gate compares, before any is drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
from ..runtime.method import evaluations, replicas
from .written_engine import steps_of

__all__ = ["seconds_to_draw"]

_CALLS = 3
_SIDES = 2
"""FP32 draws as many chains, and is taken to be as fast: it is opened where samples are drawn, and not before."""


def seconds_to_draw(
    engine: Engine, golden: Mapping[str, np.ndarray], config: SamplerConfig, *, chains: int, rows: int
) -> float:
    """Times a few calls of an open engine, and returns the seconds that the first samples of both sides take.

    Args:
        engine: open.
        golden: states x [G, N, *S] with `grad_scale` and "cond.NAME", as in golden.npz.
        config: of the chains.
        chains: how many are drawn of each side.
        rows: samples in one call.
    """
    states = chains * replicas(config)
    rows = min(rows, states, engine.largest_batch or rows)

    def taken(name: str) -> np.ndarray:
        last = golden[name][-1]
        return np.resize(last, (rows, *last.shape[1:]))

    cond = {name.removeprefix("cond."): taken(name) for name in golden if name.startswith("cond.")}
    inputs = {name: taken(name) for name in ("x", "grad_scale")} | engine.prepare(cond)
    steps = steps_of(engine)
    steps.run(inputs)  # compiles for this batch, and is the slower for it
    times = []
    for _ in range(_CALLS):
        begun = time.perf_counter()
        steps.run(inputs)
        times.append(time.perf_counter() - begun)
    calls = -(-states // rows) * config.steps * evaluations(config)
    return _SIDES * calls * float(np.median(times))
