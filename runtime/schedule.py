"""Settings that change over the steps of a chain.

Schedules are worked out before the first step, outside the kernels: a kernel sees plain numbers.
"""

from __future__ import annotations

import numpy as np

from .config import SamplerConfig, Schedule
from .errors import UsageError

__all__ = ["distinct", "noise_schedule", "spread", "temperature_schedule"]


def spread(setting: Schedule, steps: int) -> np.ndarray:
    """Spreads a number or a list of numbers over the steps.

    Entry j of m stands at position j * (steps - 1) / (m - 1), and steps between two entries are interpolated
    linearly. So the first entry holds at step 0, the last at step steps - 1, and a list as long as `steps`
    gives exactly one value per step. With a single step the first entry holds.

    Args:
        setting: a number, or m >= 1 numbers.
        steps: number of steps, at least 1.

    Returns:
        [steps] float64; read-only where it is one number for all, which then takes no room.
    """
    return np.broadcast_to(_entries(setting, steps), steps)


def _entries(setting: Schedule, steps: int) -> np.ndarray:
    """[steps], or [1] where that is the number of all steps: a million steps may be asked for of which a deadline leaves ten."""
    entries = np.atleast_1d(np.asarray(setting, dtype=np.float64))  # [m]
    if len(entries) == 1 or steps == 1:  # with one step all would stand at position 0, where np.interp takes the last
        return np.array(entries[:1])
    return np.interp(np.arange(steps), np.linspace(0, steps - 1, num=len(entries)), entries)


def distinct(schedule: np.ndarray) -> np.ndarray:
    """Returns a schedule, or its one number where it is the same for all steps, to look at all there are."""
    return schedule[:1] if schedule.strides == (0,) else schedule


def noise_schedule(config: SamplerConfig) -> np.ndarray:
    """Returns the standard deviation of the noise at every step.

    sigma = `noise` where it is set, else sqrt(2 * step_size * temperature), step by step, times the square root of the
    factor that `anneal` puts on the temperature.

    Args:
        config: the sampler's settings.

    Returns:
        [steps] float64, in units of x.
    """
    if config.noise is not None:
        return np.broadcast_to(_entries(config.noise, config.steps) * np.sqrt(_heat(config)), config.steps)
    temperatures = _entries(config.temperature, config.steps) * _heat(config)
    return np.broadcast_to(np.sqrt(2.0 * _entries(config.step_size, config.steps) * temperatures), config.steps)


def temperature_schedule(config: SamplerConfig) -> np.ndarray:
    """Returns the temperature at every step that a chain of small steps would sample at.

    T = `temperature`, or noise^2 / (2 * step_size) where `noise` is set: the temperature whose noise that is. `anneal` puts
    a factor on either.

    Args:
        config: the sampler's settings.

    Returns:
        [steps] float64, in units of energy.

    Raises:
        UsageError: `noise` is set and a step size is 0, which leaves the temperature open.
    """
    if config.noise is None:
        return np.broadcast_to(_entries(config.temperature, config.steps) * _heat(config), config.steps)
    step_sizes = _entries(config.step_size, config.steps)
    if not step_sizes.all():
        raise UsageError(
            "step_size: expected numbers above 0, since with noise set the temperature is noise^2 / (2 * step_size); "
            "got 0: set noise=None and a temperature (--noise none --temperature T)"
        )
    return np.broadcast_to(_entries(config.noise, config.steps) ** 2 / (2.0 * step_sizes) * _heat(config), config.steps)


def _heat(config: SamplerConfig) -> np.ndarray:
    """Returns the factor of the temperature: anneal^(1 - k / half) for k below half the steps, then 1; as `_entries` does."""
    if config.anneal == 1:
        return np.ones(1)
    half = config.steps // 2
    if half == 0:  # the one step there is is the last
        return np.ones(1)
    return np.asarray(config.anneal ** np.maximum(1 - np.arange(config.steps) / half, 0.0))
