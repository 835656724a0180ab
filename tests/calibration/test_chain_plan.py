from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from ebm_export.calibration.chain_plan import fitted_plan, plan_chains, pool_factor
from ebm_export.runtime.errors import UsageError


class TestPlanChains:
    def test_the_default(self) -> None:
        plan = plan_chains()
        assert plan.subset == 113  # 2 (1.25^2 - 1) / 0.1^2 = 112.5
        assert plan.energy_subset == 226
        assert plan.pool == 16 * 113
        assert plan.smallest_difference == pytest.approx(0.1, rel=0.01)
        assert plan.false_failure == pytest.approx(chi2.sf(10.0, 1), rel=1e-6)

    def test_the_pool_hardly_depends_on_the_gate(self) -> None:
        pools = [plan_chains(gate).pool for gate in (1.05, 1.1, 1.25, 1.5)]
        assert max(pools) < 1.15 * min(pools)  # whole sets
        assert min(pools) >= 1800

    def test_a_small_difference_takes_as_many_chains_as_it_takes(self) -> None:
        fine = plan_chains(1.25, 0.02)
        assert fine.pool == 16 * 2813  # 2 (1.25^2 - 1) / 0.02^2 = 2812.5
        assert fine.smallest_difference == pytest.approx(0.02, rel=0.01)

    def test_a_large_one_still_takes_some(self) -> None:
        assert plan_chains(1.25, 2.0).pool == 128

    def test_the_formula_is_what_means_do(self) -> None:
        """Two sets of n normals whose means are d apart, against two without: the ratio is the gate."""
        plan = plan_chains(1.25, 0.3)
        rng = np.random.default_rng(0)
        means = rng.standard_normal((2, 200_000)) / np.sqrt(plan.subset)
        apart = means[0] - means[1]
        ratio = np.sqrt(np.mean((apart + 0.3) ** 2) / np.mean(apart**2))
        assert ratio == pytest.approx(1.25, abs=0.02)  # n is rounded up

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((1.0, 0.1), "gate: expected a number above 1, got 1.0"),
            ((float("nan"), 0.1), "gate: expected"),
            ((1.25, 0.0), "smallest_difference: expected a number above 0"),
        ],
    )
    def test_refusals(self, arguments, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            plan_chains(*arguments)


class TestFittedPlan:
    def test_more_chains_keep_n_and_see_surer(self) -> None:
        small, large = fitted_plan(1.25, 0.1, 1808), fitted_plan(1.25, 0.1, 7232)
        assert small.subset == large.subset
        assert large.sure_difference < small.sure_difference
        assert large.false_failure < 1e-6

    def test_fewer_chains_see_less(self) -> None:
        plan = fitted_plan(1.25, 0.1, 100)
        assert plan.subset == 6
        assert plan.smallest_difference > 0.4
        assert plan.false_failure < 0.002

    @pytest.mark.parametrize("gate", [1.01, 1.05, 1.25])
    def test_a_narrow_gate_and_a_large_difference_take_what_their_sets_take(self, gate: float) -> None:
        plan = plan_chains(gate, 0.5)
        assert plan.pool >= 2 * pool_factor(gate)
        assert plan.subset >= 2

    def test_too_few(self) -> None:
        with pytest.raises(UsageError, match="chains: expected at least 32 in each pool for a gate of 1.25, got 31"):
            fitted_plan(1.25, 0.1, 31)

    def test_a_wide_gate_still_has_sets_to_compare(self) -> None:
        assert pool_factor(5.0) == 6
