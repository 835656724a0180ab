from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.energy_distance import energy_p_value, energy_wasserstein
from ebm_export.runtime.errors import UsageError


class TestEnergyWasserstein:
    def test_a_shift_is_its_size(self) -> None:
        energies = np.random.default_rng(0).standard_normal(50)
        assert energy_wasserstein(energies, energies + 0.3) == pytest.approx(0.3)
        assert energy_wasserstein(energies, energies) == 0.0

    def test_constants_and_unequal_counts(self) -> None:
        assert energy_wasserstein(np.ones(3), np.full(7, 3.0)) == pytest.approx(2.0)
        assert energy_wasserstein([0.0, 1.0], [0.0, 0.0, 1.0, 1.0]) == pytest.approx(0.0)

    def test_refusals(self) -> None:
        with pytest.raises(UsageError, match="NaN"):
            energy_wasserstein([0.0], [np.nan])
        with pytest.raises(UsageError, match="at least 1"):
            energy_wasserstein([0.0], [])


class TestEnergyPValue:
    def test_two_seeds_and_a_shift(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal(200), rng.standard_normal(300)
        assert energy_p_value(a, b) > 0.05
        assert energy_p_value(a, b + 0.5) == pytest.approx(1 / 200)
        assert energy_p_value(np.ones(5), np.ones(6)) == 1.0

    def test_is_uniform_under_the_null(self) -> None:
        rng = np.random.default_rng(1)
        found = [energy_p_value(rng.standard_normal(30), rng.standard_normal(20), seed=seed) for seed in range(200)]
        # A mean of 200 uniform numbers has standard deviation 0.02.
        assert np.mean(found) == pytest.approx(0.5, abs=0.08)
