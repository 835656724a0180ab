"""The temperature that a chain's samples have."""

from __future__ import annotations

import math

from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError
from ..runtime.schedule import noise_schedule, spread, temperature_schedule

__all__ = ["NO_DENSITY", "comes_to_rest", "ends_without_noise", "final_temperature"]

NO_DENSITY = "the last step of the bundle's chains has no noise, so they end in samples of no density"
"""Why nothing that holds samples against a density can be had of chains that end so."""


def final_temperature(config: SamplerConfig) -> float:
    """Returns T of exp(-E / T) that the last steps of a chain keep; 0 for one that comes to rest, 1 where noise ends and keeps none."""
    if comes_to_rest(config):
        return 0.0
    try:
        temperature = float(temperature_schedule(config)[-1])
    except UsageError:  # noise without a drift has no temperature
        return 1.0
    return temperature if 0 < temperature < math.inf else 1.0


def comes_to_rest(config: SamplerConfig) -> bool:
    """Whether a chain has no noise, so that it goes where the gradient vanishes."""
    return config.sampler == "optimize" or not noise_schedule(config).any()


def ends_without_noise(config: SamplerConfig) -> bool:
    """Whether the last step has no noise beside its drift. Where a step size alone falls to 0, samples keep the temperature."""
    kept = config.temperature if config.noise is None else config.noise
    return comes_to_rest(config) or bool(spread(kept, config.steps)[-1] == 0)
