"""Sampler settings for a model that comes without any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..calibration import Trajectory
from ..runtime.config import SamplerConfig
from ..runtime.errors import DivergenceError, UsageError
from ..runtime.start import start_states
from .energy import Energy
from .golden import CHAINS, fresh_conditions, run_in_pytorch
from .reference import Reference

__all__ = ["find_sampler"]

_FIRST_MOVE = 0.05
"""Root mean square of the first trial's first drift, against a start distribution of variance one."""
_NOISE_SHARE = 0.1
"""Noise of a step against that drift: enough to leave saddle points, too little to hide a rising energy."""
_TRIALS = 8
_GIVE = (
    "give the settings that the model was trained with "
    "(sampler=SamplerConfig(..), on the command line --steps, --step-size, --noise, --init, --bounds)"
)


def find_sampler(
    energy: Energy, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> tuple[SamplerConfig, Trajectory]:
    """Finds a step size with which the model's chains go down in energy.

    What a model should be sampled with is the business of whoever trained it; this is only enough to verify engines
    on states that its own gradient leads to. The first trial moves each number by some 0.05 in its first step; each
    further trial moves a tenth of that.

    Args:
        energy: the model.
        seed: of the trial chains.
        progress: called with (steps done, steps in all) of a trial.

    Returns:
        60 steps from N(0, I) with that step size and little noise, and the chains that were run with it.

    Raises:
        UsageError: chains cannot start, or no trial goes down; the text says to give settings.
    """
    shape = tuple(energy.x.shape[1:])
    cond = fresh_conditions(energy, CHAINS, seed)
    reference = Reference(energy, torch.float32)
    start = start_states(SamplerConfig(), shape, range(CHAINS), seed)
    first, grad = reference(start, **cond)
    lost = int(np.count_nonzero(~np.isfinite(first)))
    if lost:
        raise UsageError(
            f"no sampler settings were given, and {lost} of {CHAINS} energies are not finite at states from N(0, I), where chains start "
            f"without any; {_GIVE}{energy.made_up}"
        )
    size = float(np.sqrt(np.mean(np.square(grad, dtype=np.float64))))
    for trial in range(_TRIALS):
        move = _FIRST_MOVE / 10**trial
        config = SamplerConfig(step_size=float(f"{move / size:.1g}"), noise=float(f"{_NOISE_SHARE * move:.1g}"))
        try:
            trajectory = run_in_pytorch(energy, config, seed=seed, progress=progress)
        except DivergenceError:
            continue
        last, _ = reference(trajectory.x[-1], **cond)
        if np.isfinite(last).all() and np.mean(last) <= np.mean(first):
            return config, trajectory
    raise UsageError(
        "no sampler settings were given and none were found: from N(0, I) the energy rises or diverges with every "
        f"step size down to {config.step_size:g}; {_GIVE}{energy.made_up}"
    )
