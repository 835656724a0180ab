"""Chains that start hot reach the heavier of two modes, where cold ones stay in the one that they started next to."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig

from .targets import draw, left_mass, two_modes

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
