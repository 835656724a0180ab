"""Schedules over the steps."""

from __future__ import annotations

import numpy as np

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.schedule import noise_schedule, spread


def test_a_number_holds_at_every_step() -> None:
    np.testing.assert_array_equal(spread(0.25, 4), [0.25] * 4)


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
