"""Compares a loop that stays on the engine's device with the loop on the host, chain by chain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .config import SamplerConfig
from .ebm import Ebm
from .engine import Engine
from .errors import DivergenceError
from .fused_steps import FUSABLE
from .manifest import ModelSpec
from .progress import on_the_host

__all__ = ["LARGEST_GAP", "check_device_loop"]

STEPS = 36  # two CUDA graphs and some steps outside them
LARGEST_GAP = 0.05
"""Largest gap of a loop that passes. A wrong noise, step or scale leaves a gap of about one; the two loops round some sums
differently, which FP16 turns into 1e-3 of a step."""

_CHAINS = 8  # as many as golden data has at least


def check_device_loop(
    engine: Engine, model: ModelSpec, config: SamplerConfig, golden: Mapping[str, np.ndarray]
) -> float | None:
    """Runs a few short chains both ways, from the same start and with the same noise.

    The gap is |x - y| / |y - s|, Euclidean norms over all chains: x where the device's chains end, y the host's, and s their
    start. It is at least 0, and 0 is best.

    Args:
        engine: an open engine.
        model: what its energy takes.
        config: the sampler's settings; where their sampler has no such loop, it is Langevin.
        golden: as in `verify.check_engine`; the chains start from its first stage.

    Returns:
        The gap; infinite where the chains diverge on the device alone. None where the engine has no such loop, or the chains
        diverge on the host or do not move, so that there is nothing to compare.
    """
    if engine.device_loop() is None:
        return None
    rows = slice(0, _CHAINS)
    start = golden["x"][0][rows]
    cond = {name.removeprefix("cond."): array[0][rows] for name, array in golden.items() if name.startswith("cond.")}
    sampler = config.sampler if config.sampler in FUSABLE else "langevin"
    ebm = Ebm(engine, model, config.replace(sampler=sampler, steps=STEPS, warmup=None), max_batch=engine.largest_batch)
    try:
        host = ebm.refine(start, cond=cond, callback=on_the_host)
    except DivergenceError:
        return None
    moved = float(np.linalg.norm(host.astype(np.float64) - start))
    if moved == 0:
        return None
    try:
        device = ebm.refine(start, cond=cond)
    except DivergenceError:
        return float("inf")
    return float(np.linalg.norm(device.astype(np.float64) - host)) / moved
