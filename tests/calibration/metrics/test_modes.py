from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.modes import find_modes, loss_interval, mode_masses
from ebm_export.runtime.errors import UsageError

CENTRES = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])


def mixture(n: int, masses: list[float], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return CENTRES[rng.choice(4, size=n, p=masses)] + rng.standard_normal((n, 2))


class TestFindModes:
    @pytest.mark.parametrize("masses", [[0.25, 0.25, 0.25, 0.25], [0.55, 0.28, 0.15, 0.02]])
    def test_finds_separate_modes_rare_ones_too(self, masses: list[float]) -> None:
        modes = find_modes(mixture(1500, masses, 0))
        found = {
            tuple(centre) for centre in CENTRES[np.argmin(np.abs(modes.centres[:, None] - CENTRES).sum(2), axis=1)]
        }
        assert len(found) == 4

    def test_the_largest_stands_first_and_seeds_repeat(self) -> None:
        x = mixture(1000, [0.1, 0.2, 0.3, 0.4], 0)
        modes = find_modes(x, count=4)
        sizes = np.bincount(modes.assign(x))
        assert (np.diff(sizes) < 0).all()
        np.testing.assert_array_equal(modes.centres, find_modes(x, count=4).centres)

    def test_one_gaussian_and_constants_are_one_mode(self) -> None:
        assert len(find_modes(np.random.default_rng(0).standard_normal((500, 5))).centres) == 1
        assert len(find_modes(np.ones((50, 3))).centres) == 1

    def test_a_few_far_samples_are_no_mode(self) -> None:
        x = mixture(1000, [0.5, 0.5, 0.0, 0.0], 0)
        x[:3] = [500.0, 500.0]
        assert np.abs(find_modes(x).centres).max() < 100.0

    def test_refusals(self) -> None:
        with pytest.raises(UsageError, match="count: expected 1 to 5 modes.* got 6"):
            find_modes(np.ones((5, 2)), count=6)
        with pytest.raises(UsageError, match="as many as there are different samples, got 2"):
            find_modes(np.ones((5, 2)), count=2)
        with pytest.raises(UsageError, match="expected 2 numbers per sample"):
            find_modes(np.ones((5, 2))).assign(np.ones((5, 3)))


class TestModeMasses:
    def test_masses_coverage_and_distance(self) -> None:
        found = mode_masses([0, 0, 1, 1], [0, 0, 0, 0])
        assert found.reference.tolist() == [0.5, 0.5]
        assert found.candidate.tolist() == [1.0, 0.0]
        assert found.coverage == 0.5
        assert found.distance == pytest.approx(0.25 / 0.75 + 0.25 / 0.25)
        # Two of four labels are 1 and all of them fell into the first set: 1 of (4 choose 2) * .. = C(6, 2) / C(8, 4).
        assert found.loss_p_value[1] == pytest.approx(15 / 70)

    def test_a_rare_mode_that_vanished(self) -> None:
        reference = np.repeat([0, 1], [988, 12])
        found = mode_masses(reference, np.zeros(1000, int))
        assert found.loss_p_value[1] == pytest.approx(0.5**12, rel=0.1)
        assert found.loss_p_value[0] > 0.99
        assert found.p_value <= 2 / 200

    def test_one_distribution(self) -> None:
        rng = np.random.default_rng(0)
        masses = [0.5, 0.3, 0.18, 0.02]
        found = [mode_masses(rng.choice(4, 300, p=masses), rng.choice(4, 300, p=masses), 4, seed=i) for i in range(100)]
        assert np.mean([one.p_value for one in found]) == pytest.approx(0.5, abs=0.12)
        # An exact test is conservative: at most 5 % of the modes, within two standard deviations of 400.
        assert np.mean([one.loss_p_value for one in found], axis=0).min() > 0.4
        assert np.mean(np.array([one.loss_p_value for one in found]) < 0.05) < 0.07

    def test_an_empty_mode_counts_for_nothing(self) -> None:
        found = mode_masses([0, 1], [0, 1], 3)
        assert found.distance == 0.0
        assert found.coverage == 1.0
        assert found.loss_p_value[2] == 1.0

    @pytest.mark.parametrize("labels", [[0.5], [[0]], [], [-1]])
    def test_refusals(self, labels) -> None:
        with pytest.raises(UsageError, match="candidate labels: expected"):
            mode_masses([0, 1], labels)

    def test_labels_beyond_the_count(self) -> None:
        with pytest.raises(UsageError, match="labels: expected 0 to 1, got 2"):
            mode_masses([0, 2], [0, 1], 2)


class TestLossInterval:
    def test_known_cases(self) -> None:
        low, high = loss_interval(36, 1000, 0, 1000, 0.05)
        # Nothing left: the upper end of f is 1 - 0.025^(1/36).
        share = 1 - 0.025 ** (1 / 36)
        assert (low, high) == (pytest.approx(1 - share / (1 - share)), 1.0)
        assert loss_interval(0, 100, 5, 100, 0.05)[0] == -np.inf
        low, high = loss_interval(50, 1000, 100, 2000, 0.05)
        assert low < 0.0 < high

    def test_holds_the_truth_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(0)
        held = 0
        for _ in range(300):
            a, b = rng.binomial(500, 0.06), rng.binomial(400, 0.03)
            low, high = loss_interval(a, 500, b, 400, 0.1)
            held += low <= 0.5 <= high
        assert held / 300 > 0.87  # 0.9 less two standard errors
