from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.score_fidelity import score_fidelity
from ebm_export.runtime.errors import UsageError

N, S = 200, (3, 4)


@pytest.fixture
def g() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, *S))


class TestScoreFidelity:
    def test_a_copy_has_no_error(self, g) -> None:
        found = score_fidelity(g, g, stage=3, step=40)
        assert (found.stage, found.step, found.states) == (3, 40, N)
        assert found.cosine_mean == pytest.approx(1.0)
        assert found.cosine_min == pytest.approx(1.0)
        assert abs(found.gain) < 1e-12
        assert (found.bias, found.noise, found.relative_error) == (0.0, 0.0, 0.0)

    def test_a_longer_gradient_is_all_gain(self, g) -> None:
        found = score_fidelity(g, 1.02 * g)
        assert found.gain == pytest.approx(0.02)
        assert found.gain_error < 1e-9
        assert found.bias < 1e-7
        assert found.noise < 1e-7
        assert found.relative_error == pytest.approx(0.02)

    def test_a_constant_error_is_bias(self, g) -> None:
        found = score_fidelity(g, g + 0.02)
        # rms(g) is 1 within 1 / sqrt(2 * 2400); the error's part along g is gain.
        assert found.bias == pytest.approx(0.02, rel=0.03)
        assert abs(found.gain) < 4 * 0.02 / np.sqrt(N * 12)
        assert found.noise < 1e-3

    def test_noise_is_no_bias(self, g) -> None:
        """bias^2 is 0 in the mean over seeds, so it is cut at 0 about half of the time."""
        biases, gains, errors = [], [], []
        for seed in range(40):
            noise = 0.1 * np.random.default_rng(100 + seed).standard_normal(g.shape)
            found = score_fidelity(g, g + noise)
            biases.append(found.bias)
            gains.append(found.gain)
            errors.append(found.gain_error)
            # sqrt(2 / 12)^(1/2) * 0.1 / sqrt(200) is the size of bias that chance leaves.
            assert found.bias < 0.0045 * 3
            assert found.bias <= 3.0 * found.bias_error
            assert found.noise == pytest.approx(0.1, rel=0.06)
        assert 8 <= sum(bias == 0.0 for bias in biases) <= 32
        # The standard error is the spread over seeds: 40 of them know it to 11 %.
        assert np.std(gains) == pytest.approx(np.mean(errors), rel=0.4)

    def test_the_standard_error_of_bias_is_its_spread(self, g) -> None:
        found = [
            score_fidelity(g, g + 0.05 + 0.2 * np.random.default_rng(seed).standard_normal(g.shape))
            for seed in range(60)
        ]
        biases = np.array([one.bias for one in found])
        assert biases.mean() == pytest.approx(0.05, rel=0.05)
        assert biases.std() == pytest.approx(np.mean([one.bias_error for one in found]), rel=0.35)

    def test_parts_add_up_to_the_whole(self, g) -> None:
        noise = np.random.default_rng(1).standard_normal(g.shape)
        found = score_fidelity(g, 1.03 * g + 0.05 + 0.1 * noise)
        whole = found.gain**2 + found.bias**2 + found.noise**2
        assert found.relative_error**2 == pytest.approx(whole, rel=0.01)

    def test_opposite_gradient(self, g) -> None:
        found = score_fidelity(g, -g)
        assert found.gain == pytest.approx(-2.0)
        assert found.cosine_mean == pytest.approx(-1.0)

    def test_a_still_state_has_no_cosine(self, g) -> None:
        g[0] = 0.0
        assert score_fidelity(g, g).cosine_min == pytest.approx(1.0)
        assert score_fidelity(g, np.zeros_like(g)).cosine_mean == 0.0

    def test_two_states_suffice(self, g) -> None:
        found = score_fidelity(g[:2], g[:2] + 0.1)
        assert np.isfinite([found.bias, found.bias_error, found.gain_error]).all()

    def test_nan_in_the_candidate_is_nan(self, g) -> None:
        q = g.copy()
        q[0, 0, 0] = np.nan
        found = score_fidelity(g, q)
        assert np.isnan([found.gain, found.bias, found.noise, found.cosine_mean]).all()

    def test_opposite_errors_at_two_conditions(self, g) -> None:
        """Their mean is 0; each is what a user of one condition gets."""
        own = np.arange(N) % 2
        found = score_fidelity(g, g + 0.05 * np.where(own, 1, -1)[:, None, None], conditions=own)
        assert found.bias < 0.01
        assert np.sqrt(found.condition_bias_squared) == pytest.approx(0.05, rel=0.05)

    def test_opposite_gains_at_two_conditions(self, g) -> None:
        own = np.arange(N) % 2
        found = score_fidelity(g, g * (1 + 0.04 * np.where(own, 1, -1)[:, None, None]), conditions=own)
        assert abs(found.gain) < 0.005
        assert np.sqrt(found.condition_gain_squared) == pytest.approx(0.04, rel=0.1)

    def test_noise_is_neither_at_many_conditions(self, g) -> None:
        """Fifty conditions of four states: the squares are 0 in the mean over seeds, and their standard errors are their spread."""
        own = np.arange(N) % 50
        found = [
            score_fidelity(g, g + 0.1 * np.random.default_rng(100 + seed).standard_normal(g.shape), conditions=own)
            for seed in range(60)
        ]
        for name in ("condition_bias_squared", "condition_gain_squared"):
            squares = np.array([getattr(one, name) for one in found])
            error = np.mean([getattr(one, f"{name}_error") for one in found])
            assert abs(squares.mean()) < 3 * squares.std() / np.sqrt(len(squares))
            assert squares.std() == pytest.approx(error, rel=0.35)

    def test_pair_by_pair(self, g) -> None:
        """As written in the docstring."""
        own, q = np.arange(12) % 5, g[:12] * 1.1 + np.random.default_rng(3).standard_normal((12, *S))
        found = score_fidelity(g[:12], q, conditions=own)
        flat, other = g[:12].reshape(12, -1), q.reshape(12, -1)
        power = np.mean((flat**2).sum(1))
        e = other - (1 + found.gain) * flat
        along = ((other - flat) * flat).sum(1) / power
        pairs = [(i, j) for i in range(12) for j in range(12) if i != j and own[i] == own[j]]
        assert found.condition_bias_squared == pytest.approx(np.mean([e[i] @ e[j] for i, j in pairs]) / power)
        assert found.condition_gain_squared == pytest.approx(np.mean([along[i] * along[j] for i, j in pairs]))

    def test_one_condition_is_as_none(self, g) -> None:
        q = 1.01 * g + 0.02
        assert score_fidelity(g, q, conditions=np.zeros(N, int)) == score_fidelity(g, q)

    def test_nan_at_conditions(self, g) -> None:
        found = score_fidelity(g, np.full_like(g, np.nan), conditions=np.arange(N) % 2)
        assert np.isnan([found.condition_bias_squared, found.condition_gain_squared]).all()

    def test_conditions_that_say_nothing(self, g) -> None:
        with pytest.raises(UsageError, match="at least three states of one condition"):
            score_fidelity(g, g, conditions=np.arange(N) % 100)
        with pytest.raises(UsageError, match=r"conditions: expected one per state, \[200\], got \[3\]"):
            score_fidelity(g, g, conditions=np.zeros(3, int))

    @pytest.mark.parametrize(
        ("reference", "candidate", "message"),
        [
            (np.ones((4, 2)), np.ones((5, 2)), r"candidate gradients: expected shape \[4, 2\].* got \[5, 2\]"),
            (np.ones((1, 2)), np.ones((1, 2)), "at least 2 samples"),
            (np.zeros((4, 2)), np.ones((4, 2)), "all are 0"),
            (np.full((4, 2), np.nan), np.ones((4, 2)), "finite"),
        ],
    )
    def test_refusals(self, reference, candidate, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            score_fidelity(reference, candidate)
