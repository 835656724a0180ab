"""Sampler settings for a model that comes without any."""

from __future__ import annotations

import numpy as np
import torch

from ..calibration import record_trajectory
from ..runtime.backends.function import FunctionEngine
from ..runtime.config import SamplerConfig
from ..runtime.errors import DivergenceError, UsageError
from .energy import Energy
from .golden import CHAINS, fresh_conditions
from .reference import Reference

__all__ = ["find_sampler"]

_STEP_SIZES = tuple(10.0**exponent for exponent in range(1, -9, -1))


def find_sampler(energy: Energy, *, seed: int = 0) -> SamplerConfig:
    """Finds the largest step size, among powers of ten, with which the model's chains go down in energy.

    What a model should be sampled with is the business of whoever trained it; this is only enough to verify engines
    on states that its own gradient leads to, and to have settings that do not diverge.

    Args:
        energy: the model.
        seed: of the trial chains.

    Returns:
        The default settings with that step size: 60 steps from N(0, I) at temperature 1.

    Raises:
        UsageError: no step size in 1e1 .. 1e-8 does it; the text says to give settings.
    """
    shape = tuple(energy.x.shape[1:])
    cond = fresh_conditions(energy, CHAINS, seed)
    with FunctionEngine(Reference(energy, torch.float32)) as engine:
        for step_size in _STEP_SIZES:
            config = SamplerConfig(step_size=step_size)
            try:
                states = record_trajectory(engine, config, shape, CHAINS, seed=seed, stages=2, cond=cond).x
            except DivergenceError:
                continue
            ones = np.ones(CHAINS, np.float32)
            first, last = (
                engine.run({"x": x, "grad_scale": ones, **cond})["energy"].astype(np.float64).copy() for x in states
            )
            if np.isfinite(last).all() and np.mean(last) <= np.mean(first):
                return config
    raise UsageError(
        "no sampler settings were given and none were found: from N(0, I) the energy rises or diverges with every "
        "step size from 10 down to 1e-8; give the settings that the model was trained with "
        "(sampler=SamplerConfig(..), on the command line --steps, --step-size, --noise, --init, --bounds)"
    )
