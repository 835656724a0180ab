from __future__ import annotations

import math

import numpy as np
import pytest

from ebm_export.calibration.metrics.likelihood import GaussianBase, LogPartition, UniformBase, log_partition_bounds
from ebm_export.runtime.errors import UsageError

WIDTHS = np.array([0.5, 1.5, 2.0])
CENTRE = np.array([1.0, -1.0, 0.5])
LOG_Z = math.log(np.prod(WIDTHS)) + 1.5 * math.log(2 * math.pi)


def gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    moved = (x - CENTRE) / WIDTHS
    return 0.5 * np.square(moved).sum(axis=1), moved / WIDTHS


def warm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twice the energy: the same density at temperature 2."""
    energy, grad = gaussian(x)
    return 2.0 * energy, 2.0 * grad


def samples(n: int) -> np.ndarray:
    return CENTRE + WIDTHS * np.random.default_rng(1).standard_normal((n, 3))


class TestLogPartitionBounds:
    @pytest.mark.parametrize("leapfrog", [1, 5])
    @pytest.mark.parametrize("base", [GaussianBase(0.0, 2.0), UniformBase(-9.0, 9.0)])
    def test_a_gaussian_lies_between(self, base: GaussianBase | UniformBase, leapfrog: int) -> None:
        found = log_partition_bounds(
            gaussian, (3,), base, samples=np.clip(samples(64), -9, 9), leapfrog=leapfrog, temperatures=100
        )
        assert found.upper is not None
        assert found.upper_error is not None
        assert found.lower == pytest.approx(LOG_Z, abs=4 * found.lower_error)
        assert found.upper == pytest.approx(LOG_Z, abs=4 * found.upper_error)
        assert max(found.lower_error, found.upper_error) < 0.35
        assert 0.4 < found.accepted < 0.95

    def test_temperature_divides_the_energy(self) -> None:
        options = {"temperatures": 50, "chains": 32}
        plain = log_partition_bounds(gaussian, (3,), GaussianBase(0.0, 2.0), **options)
        heated = log_partition_bounds(warm, (3,), GaussianBase(0.0, 2.0), temperature=2.0, **options)
        assert heated.lower == pytest.approx(plain.lower, abs=1e-5)

    def test_two_modes(self) -> None:
        """A mixture whose modes no chain crosses at t = 1: annealing finds both."""

        def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x = x[:, 0].astype(np.float64)
            left, right = -0.5 * (x + 4) ** 2, -0.5 * (x - 4) ** 2
            both = np.logaddexp(left, right)
            grad = np.exp(left - both) * (x + 4) + np.exp(right - both) * (x - 4)
            return -both, grad[:, None]

        truth = math.log(2) + 0.5 * math.log(2 * math.pi)
        found = log_partition_bounds(energy, (1,), GaussianBase(0.0, 5.0), temperatures=100)
        assert found.lower == pytest.approx(truth, abs=4 * found.lower_error)

    def test_few_temperatures_leave_a_gap_to_the_right_side(self) -> None:
        data = samples(200)
        lows, highs = [], []
        for seed in range(6):
            found = log_partition_bounds(
                gaussian, (3,), GaussianBase(0.0, 6.0), samples=data, temperatures=4, chains=8, seed=seed
            )
            lows.append(found.lower)
            highs.append(found.upper)
        assert np.mean(lows) < LOG_Z < np.mean(highs)

    def test_same_seed_same_bounds(self) -> None:
        first, second = (
            log_partition_bounds(gaussian, (3,), GaussianBase(), temperatures=5, chains=4, seed=2) for _ in "12"
        )
        assert first == second

    def test_energies_that_are_not_finite_are_rejected(self) -> None:
        def walled(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            energy, grad = gaussian(x)
            return np.where(x[:, 0] > 1.0, np.nan, energy), grad

        # Half of the first axis is gone. Chains that start behind the wall have no weight there, so none may.
        base = GaussianBase(-1.0, 0.3)
        found = log_partition_bounds(walled, (3,), base, temperatures=60, chains=64)
        assert math.isfinite(found.lower)
        assert found.lower < LOG_Z

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperatures": 1}, "temperatures: expected at least 2, got 1"),
            ({"chains": 1}, "chains: expected at least 2"),
            ({"leapfrog": 0}, "leapfrog: expected at least 1"),
            ({"temperature": 0.0}, "temperature: expected a number above 0"),
            ({"samples": np.zeros((4, 2))}, "samples: expected 3 numbers per sample"),
            ({"samples": np.full((4, 3), 99.0), "base": UniformBase(-1, 1)}, "where the base has mass"),
        ],
    )
    def test_refusals(self, options, message: str) -> None:
        base = options.pop("base", GaussianBase())
        with pytest.raises(UsageError, match=message):
            log_partition_bounds(gaussian, (3,), base, **{"temperatures": 3, "chains": 4, **options})


def test_log_likelihood_of_data() -> None:
    bounds = LogPartition(lower=1.0, lower_error=0.0, upper=1.5, upper_error=0.0, accepted=1.0)
    assert bounds.log_likelihood([2.0, 4.0], temperature=2.0) == (-3.0, -2.5)
    one_sided = LogPartition(1.0, 0.0, None, None, 1.0)
    assert one_sided.log_likelihood([3.0]) == (None, -4.0)
    with pytest.raises(UsageError, match="energies: expected finite"):
        bounds.log_likelihood([np.nan])
