from __future__ import annotations

from typing import Any

import pytest

from ebm_export.calibration.temperature import comes_to_rest, ends_without_noise, final_temperature
from ebm_export.runtime import SamplerConfig


@pytest.mark.parametrize(
    ("settings", "rests"),
    [
        ({}, False),
        ({"noise": 0.01}, False),
        ({"noise": [0.1, 0.0]}, False),  # what noise there was still shows
        ({"noise": 0.0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.0, "sampler": "underdamped"}, True),
        ({"sampler": "optimize"}, True),
        ({"sampler": "optimize", "noise": 0.1}, True),
    ],
)
def test_chains_that_come_to_rest(settings: dict[str, Any], rests: bool) -> None:
    assert comes_to_rest(SamplerConfig(steps=10, step_size=0.1, **settings)) == rests


def test_the_last_temperature() -> None:
    assert final_temperature(SamplerConfig(steps=10, step_size=[0.2, 0.1], noise=0.1)) == pytest.approx(0.05)
    assert final_temperature(SamplerConfig(steps=10, step_size=0.1, temperature=0.0)) == 0.0
    assert final_temperature(SamplerConfig(steps=10, step_size=0.1, noise=[0.1, 0.0])) == 1.0


def test_noise_that_ends() -> None:
    for settings in ({"noise": [0.1, 0.0]}, {"temperature": [1.0, 0.0]}, {"noise": 0.0}, {"sampler": "optimize"}):
        assert ends_without_noise(SamplerConfig(steps=10, step_size=0.1, **settings))
    for settings in ({}, {"noise": [0.0, 0.1]}, {"step_size": [0.1, 0.0]}, {"anneal": 10.0}):
        assert not ends_without_noise(SamplerConfig(**{"steps": 10, "step_size": 0.1, **settings}))
