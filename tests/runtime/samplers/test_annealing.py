"""Chains that start hot reach the heavier of two modes, where cold ones stay in the one that they started next to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig

from .targets import assert_split_normal, draw, left_mass, split_normal, two_modes

COLD = 0.1
"""A barrier of 1.5 is then fifteen times the temperature."""


@pytest.mark.parametrize("sampler", ["langevin", "underdamped", "mala", "hmc"])
def test_hot_starts_find_the_heavier_mode(sampler: str) -> None:
    config = SamplerConfig.from_dict(
        {
            "sampler": sampler,
            "steps": 800,
            "step_size": 0.02,
            "temperature": COLD,
            "leapfrog": 4,
            "anneal": 20.0,
            "warmup": 0,
        }
    )
    plain = draw(two_modes, config.replace(anneal=1.0), (1,), 500, at=1.0)
    annealed = draw(two_modes, config, (1,), 2000, at=1.0)
    assert (plain < 0).mean() < 0.05
    # Chains keep the masses of the temperature at which they last crossed: above that of T = 1, below the cold one.
    assert left_mass() - 4 * np.sqrt(0.25 / 2000) < (annealed < 0).mean() < left_mass(1 / COLD)


def test_ends_at_the_temperature_itself() -> None:
    config = SamplerConfig(sampler="mala", steps=400, step_size=0.05, temperature=COLD, anneal=20.0)
    samples = draw(two_modes, config, (1,), 4000, at=1.0)
    left = samples[samples < 0]
    grid = np.linspace(-4, 0, 40_001)
    weights = np.exp(-two_modes(grid[:, None])[0] / COLD)
    mean = np.average(grid, weights=weights)
    sd = np.sqrt(np.average((grid - mean) ** 2, weights=weights))
    assert abs(left.mean() - mean) < 4 * sd / np.sqrt(len(left))
    assert abs(left.std() / sd - 1) < 4 / np.sqrt(len(left))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize(
    ("settings", "bias"),
    [
        ({"sampler": "langevin", "step_size": 0.02, "steps": 800}, 0.04),  # h / 2 of the curvature on the left, 4
        ({"sampler": "underdamped", "step_size": 0.02, "steps": 300}, 0.02),
        ({"sampler": "mala", "step_size": 0.2, "steps": 300, "warmup": 0}, 0.0),
        ({"sampler": "hmc", "step_size": 0.05, "steps": 150, "leapfrog": 5, "warmup": 0}, 0.0),
    ],
    ids=lambda value: value["sampler"] if isinstance(value, dict) else "",
)
def test_skewed(settings: dict[str, Any], bias: float, temperature: float) -> None:
    config = SamplerConfig.from_dict({**settings, "temperature": temperature, "anneal": 20.0})
    assert_split_normal(draw(split_normal, config, (1,), 5000), temperature, 5000, bias)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "langevin", "step_size": 0.01, "steps": 2400},
        {"sampler": "underdamped", "step_size": 0.01, "steps": 1000},
        {"sampler": "mala", "step_size": 0.05, "steps": 1000},
        {"sampler": "hmc", "step_size": 0.02, "steps": 400, "leapfrog": 5},
    ],
    ids=lambda settings: settings["sampler"],
)
def test_moments_over_both_modes(settings: dict[str, Any]) -> None:
    """At a temperature at which chains cross to its end, so that the masses are its own; all start in the lighter mode."""
    temperature, n = 0.7, 4000
    config = SamplerConfig.from_dict({**settings, "temperature": temperature, "anneal": 5.0, "warmup": 0})
    samples = draw(two_modes, config, (1,), n, at=1.0)
    grid = np.linspace(-4, 4, 80_001)
    weights = np.exp(-two_modes(grid[:, None])[0] / temperature)
    mean = np.average(grid, weights=weights)
    variance = np.average((grid - mean) ** 2, weights=weights)
    kurtosis = np.average((grid - mean) ** 4, weights=weights) / variance**2
    assert abs(samples.mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(samples.var() / variance - 1) < 4 * np.sqrt((kurtosis - 1) / n)
    left = left_mass(1 / temperature)
    assert abs((samples < 0).mean() - left) < 4 * np.sqrt(left * (1 - left) / n)
