"""Schedules over the steps."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig, UsageError
from ebm_export.runtime.schedule import noise_schedule, spread, temperature_schedule


def test_a_number_holds_at_every_step() -> None:
    np.testing.assert_array_equal(spread(0.25, 4), [0.25] * 4)


def test_a_million_steps_take_no_room() -> None:
    config = SamplerConfig(steps=10**9, step_size=0.1, temperature=2.0)
    for found in (spread(0.5, 10**9), noise_schedule(config), temperature_schedule(config)):
        assert found.shape == (10**9,)
        assert found.strides == (0,)
    assert noise_schedule(config).item(10**8) == pytest.approx(np.sqrt(0.4))
    assert temperature_schedule(config.replace(noise=0.2)).item(7) == pytest.approx(0.2)


def test_first_and_last_entry_hold_at_first_and_last_step() -> None:
    np.testing.assert_allclose(spread((1.0, 0.0), 5), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(spread((0.0, 4.0, 0.0), 9), [0, 1, 2, 3, 4, 3, 2, 1, 0])


def test_a_list_as_long_as_the_steps_is_one_value_per_step() -> None:
    values = (3.0, 1.0, 4.0, 1.0, 5.0)
    np.testing.assert_array_equal(spread(values, 5), values)


def test_one_step_takes_the_first_entry() -> None:
    np.testing.assert_array_equal(spread((2.0, 9.0), 1), [2])


def test_noise_follows_step_size_and_temperature_step_by_step() -> None:
    config = SamplerConfig(steps=3, step_size=(0.1, 0.3), temperature=(2.0, 0.0))
    np.testing.assert_allclose(noise_schedule(config), np.sqrt([2 * 0.1 * 2.0, 2 * 0.2 * 1.0, 0.0]))


def test_given_noise_wins_over_temperature() -> None:
    config = SamplerConfig(steps=2, step_size=5.0, temperature=7.0, noise=(0.1, 0.2))
    np.testing.assert_array_equal(noise_schedule(config), [0.1, 0.2])


def test_annealing_falls_geometrically_over_the_first_half() -> None:
    config = SamplerConfig(steps=8, step_size=0.5, temperature=3.0, anneal=16.0)
    expected = 3 * np.array([16, 8, 4, 2, 1, 1, 1, 1])
    np.testing.assert_allclose(temperature_schedule(config), expected)
    np.testing.assert_allclose(noise_schedule(config), np.sqrt(expected))
    cold = config.replace(noise=0.1)
    np.testing.assert_allclose(noise_schedule(cold), 0.1 * np.sqrt(expected / 3))
    np.testing.assert_allclose(temperature_schedule(cold), 0.01 * expected / 3)


def test_annealing_has_ended_at_the_last_step() -> None:
    for steps in (1, 2, 3):
        config = SamplerConfig(steps=steps, step_size=0.5, temperature=2.0, anneal=10.0)
        assert temperature_schedule(config)[-1] == 2.0


def test_the_temperature_is_that_of_the_noise() -> None:
    config = SamplerConfig(steps=2, step_size=(0.5, 2.0), noise=(1.0, 4.0), temperature=7.0)
    np.testing.assert_allclose(temperature_schedule(config), [1.0, 4.0])
    with pytest.raises(UsageError, match="expected numbers above 0, since with noise set the temperature is"):
        temperature_schedule(config.replace(step_size=0.0))
