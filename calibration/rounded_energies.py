"""By how much a low precision rounds differences of energies, which samplers that reject accept by."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..runtime.config import SamplerConfig
from ..runtime.engine import Engine
from ..runtime.fitting_batch import largest_call
from ..runtime.schedule import noise_schedule

__all__ = ["energy_rounding"]

_COPIES = 4
"""States around each sample, itself one of them."""


def energy_rounding(
    engine: Engine,
    exact: Engine,
    samples: np.ndarray,
    cond: Mapping[str, np.ndarray],
    config: SamplerConfig,
    *,
    seed: int = 0,
) -> float | None:
    """The standard deviation of E - E_exact among states that are one step's noise apart, at samples.

    What an engine is off by has a constant part, another one for each condition, and one that hardly changes along a chain. None of
    them is in the difference of two energies that a proposal is accepted by, so an offset of its own is taken off at each sample:

        s^2 = mean over samples of the variance, over states around the sample, of E - E_exact.

    The noise is that of the chain's last step that has any.

    Args:
        engine: open, of the low precision.
        exact: open, in float32.
        samples: [N, *S] float32, where chains end.
        cond: conditioning arrays by graph name, [N, ...].
        config: the sampler's settings, whose bounds states keep to.
        seed: of the noise.

    Returns:
        s, at least 0, in units of energy; NaN or infinity where an energy is. None where chains have no noise.
    """
    noise = noise_schedule(config)
    noise = noise[noise > 0]
    if not len(noise):
        return None
    moved = np.repeat(samples, _COPIES, axis=0)
    steps = np.random.default_rng(seed).standard_normal(moved.shape, dtype=np.float32) * np.float32(noise[-1])
    steps[::_COPIES] = 0
    moved += steps
    if config.bounds is not None:
        np.clip(moved, *(np.float32(end) for end in config.bounds), out=moved)
    rows = {name: np.repeat(array, _COPIES, axis=0) for name, array in cond.items()}
    off = _energies(engine, moved, rows) - _energies(exact, moved, rows)
    with np.errstate(invalid="ignore"):
        return math.sqrt(off.reshape(len(samples), _COPIES).var(axis=1, ddof=1).mean())


def _energies(engine: Engine, x: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns [N] float64."""
    found = np.empty(len(x))
    size = largest_call(x.shape[1:])
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        features = engine.prepare({name: np.ascontiguousarray(array[part]) for name, array in cond.items()})
        scale = np.ones(len(x[part]), np.float32)
        found[part] = engine.run({"x": x[part], "grad_scale": scale, **features})["energy"]
    return found
