"""The temperature that a chain's samples have."""

from __future__ import annotations

import math

from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError
from ..runtime.schedule import temperature_schedule

__all__ = ["final_temperature"]


def final_temperature(config: SamplerConfig) -> float:
    """Returns T of exp(-E / T) that the last steps of a chain keep; 1 for a chain without noise, which keeps none."""
    try:
        temperature = float(temperature_schedule(config)[-1])
    except UsageError:  # noise without a drift has no temperature
        return 1.0
    return temperature if 0 < temperature < math.inf else 1.0
