from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ebm_export.calibration.gate import GateResult, judge, plan_chains
from ebm_export.calibration.gate_metrics import GATE_METRICS
from ebm_export.calibration.metrics.score_fidelity import StageFidelity, score_fidelity
from ebm_export.calibration.report.words import own_limit
from ebm_export.calibration.sample_set import SampleSet
from ebm_export.runtime.errors import UsageError

MEANS = 6.0 * np.random.default_rng(99).standard_normal((6, 8))
MASSES = np.array([0.40, 0.28, 0.15, 0.10, 0.05, 0.02])
FEW = 0.3
"""A coarse smallest difference: pools of 208 chains, a tenth of the time."""


def gaussian(n: int, seed: int, width: int = 8, scale: float = 1.0) -> SampleSet:
    """Samples of N(0, scale^2 I) under E = |x|^2 / 2."""
    x = scale * np.random.default_rng(seed).standard_normal((n, width))
    return SampleSet(x.astype(np.float32), 0.5 * np.square(x).sum(axis=1), x.astype(np.float32))


def mixture(n: int, seed: int, masses: np.ndarray = MASSES) -> SampleSet:
    """Samples of unit Gaussians around six means, of the given masses, under the energy of `MASSES`."""
    rng = np.random.default_rng(seed)
    x = MEANS[rng.choice(6, size=n, p=masses / masses.sum())] + rng.standard_normal((n, 8))
    terms = np.log(MASSES) - 0.5 * np.square(x[:, None] - MEANS).sum(axis=2)
    energy = -np.logaddexp.reduce(terms, axis=1)
    weights = np.exp(terms + energy[:, None])
    return SampleSet(x.astype(np.float32), energy, (x - weights @ MEANS).astype(np.float32))


def without(mode: int) -> np.ndarray:
    return np.where(np.arange(6) == mode, 0.0, MASSES)


def named(result: GateResult) -> dict:
    return {verdict.metric: verdict for verdict in result.verdicts}


class TestChainsThatRest:
    """Ends of chains without noise: six points, each with its own energy, and what an engine is off by at each."""

    def ends(self, seed: int, off: float, masses: np.ndarray = MASSES) -> SampleSet:
        rng = np.random.default_rng(seed)
        n = plan_chains(1.25, FEW).pool
        mode = rng.choice(6, size=n, p=masses / masses.sum())
        spread = np.sqrt(np.square(MEANS).mean())
        away = np.random.default_rng(5).standard_normal((6, 8))[mode] * off * spread
        away += 1e-7 * rng.standard_normal((n, 8))
        energy = mode + 0.5 * np.square(away).sum(axis=1)
        return SampleSet((MEANS[mode] + away).astype(np.float32), energy, away.astype(np.float32))

    def judged(self, candidate: SampleSet, temperature: float = 0.0) -> GateResult:
        return judge(self.ends(0, 0.0), candidate, (), smallest_difference=FEW, temperature=temperature)

    def test_a_small_fraction_of_the_spread_is_the_same_point(self) -> None:
        assert self.judged(self.ends(1, 0.0)).passed
        assert self.judged(self.ends(1, 0.002)).passed
        held = named(self.judged(self.ends(1, 0.002), temperature=1.0))
        assert not held["coverage"].passed, "with noise the neighbours' distances say something"

    def test_a_larger_one_is_not(self) -> None:
        assert not self.judged(self.ends(1, 0.1)).passed

    def test_a_lost_end(self) -> None:
        assert not self.judged(self.ends(1, 0.0, without(2))).passed


class TestPerfectEngines:
    @pytest.mark.parametrize("draw", [gaussian, mixture])
    def test_nearly_all_pass(self, draw) -> None:
        """At most 0.012 fail by `gate`'s account; 2 of 20 would have a probability of 0.02."""
        pool = plan_chains(1.25, FEW).pool
        results = [
            judge(draw(pool, 2 * seed), draw(pool, 2 * seed + 1), (), smallest_difference=FEW, seed=seed)
            for seed in range(20)
        ]
        assert sum(result.passed for result in results) >= 19
        ratios = np.array(
            [[verdict.ratio for verdict in result.verdicts if verdict.limit == 1.25] for result in results]
        )
        assert np.abs(np.square(ratios).mean(axis=0) - 1.0).max() < 0.15

    @pytest.mark.slow
    @pytest.mark.parametrize("draw", [gaussian, mixture])
    def test_at_the_planned_size(self, draw) -> None:
        pool = plan_chains().pool
        passed = [judge(draw(pool, 2 * seed), draw(pool, 2 * seed + 1), (), seed=seed).passed for seed in range(30)]
        assert sum(passed) >= 29

    @pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (7,)])
    def test_any_shape_from_a_hundred_chains_on(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(1)
        pools = []
        for _ in "aq":
            x = rng.standard_normal((100, *shape)).astype(np.float32)
            pools.append(SampleSet(x, np.square(x).reshape(100, -1).sum(axis=1)))
        result = judge(*pools, ())
        assert result.passed
        assert result.subset == 6
        assert result.smallest_difference > 0.4
        assert "stein" not in named(result)

    def test_one_seed_one_result(self) -> None:
        a, q = gaussian(208, 0), gaussian(208, 1)
        assert judge(a, q, (), seed=5) == judge(a, q, (), seed=5)

    def test_pools_of_different_size(self) -> None:
        result = judge(gaussian(300, 0), gaussian(208, 1), (), smallest_difference=FEW)
        assert result.passed
        assert result.chains == 208

    def test_chains_that_all_end_in_one_place(self) -> None:
        x = np.zeros((100, 3), np.float32)
        same = SampleSet(x, np.zeros(100), x)
        assert judge(same, same, ()).passed
        moved = SampleSet(x + 1, np.ones(100), x + 1)
        result = judge(same, moved, ())
        assert not result.passed
        assert named(result)["energy"].ratio == math.inf
        assert "energy 1, where FP32's distance from itself is 0; 0 passes" in result.reason
        assert "inf" not in result.reason
        json.dumps(result.to_dict(), allow_nan=False)


class TestDamage:
    """Each kind is caught by the metrics named; the others may pass. Pools as large as planned by default."""

    def judged(self, candidate: SampleSet, *metrics: str, reference: SampleSet | None = None) -> dict:
        reference = mixture(1808, 0) if reference is None else reference
        result = judge(reference, candidate, (), metrics=metrics)
        assert not result.passed
        assert result.decided
        assert metrics[0] in result.reason
        return named(result)

    def test_an_energy_that_is_off(self) -> None:
        a, q = gaussian(1808, 0), gaussian(1808, 1)
        self.judged(replace(q, energy=q.energy + 0.25 * a.energy.std()), "energy", reference=a)

    def test_the_smallest_difference_is_a_coin_toss_and_half_of_it_passes(self) -> None:
        def passes(shift: float) -> int:
            count = 0
            for seed in range(20):
                a, q = gaussian(1808, 2 * seed), gaussian(1808, 2 * seed + 1)
                moved = replace(q, energy=q.energy + shift * a.energy.std())
                count += judge(a, moved, (), metrics=["energy"]).passed
            return count

        assert 3 <= passes(0.1) <= 17
        assert passes(0.03) >= 18
        assert passes(0.18) <= 2

    def test_a_lost_mode_of_a_tenth(self) -> None:
        found = self.judged(mixture(1808, 1, without(3)), "modes", "rare modes", "coverage", "frechet")
        assert not any(verdict.passed for verdict in found.values())

    def test_a_lost_rare_mode(self) -> None:
        """2 % of the mass: 36 chains. No ratio sees it; the exact test does."""
        found = self.judged(mixture(1808, 1, without(5)), "rare modes", "modes", "energy")
        assert not found["rare modes"].passed
        assert found["rare modes"].p_value < 1e-6
        assert found["energy"].passed

    def test_a_lost_mode_that_lies_beside_another(self) -> None:
        """4 % of the mass, in one cluster with far more: whatever counts clusters alone lets it go."""

        def samples(seed: int, *, lost: bool = False) -> SampleSet:
            random = np.random.default_rng(seed)
            x = random.standard_normal((1808, 6)).astype(np.float32)
            x[:, 0] *= 1.5
            rare = random.random(1808) < 0.04
            x[rare] = 0.3 * x[rare] + np.float32([1, 2.5, 0, 0, 0, 0])
            if lost:
                x[rare] = x[~rare][: rare.sum()] + random.standard_normal((rare.sum(), 6)).astype(np.float32) / 10
            return SampleSet(x, np.zeros(1808))

        reference = samples(0)
        found = self.judged(samples(1, lost=True), "rare modes", "modes", reference=reference)
        assert found["modes"].passed and found["rare modes"].value > 0.5
        assert "a cluster within the modes" in found["rare modes"].note
        for seed in (2, 3, 4):
            assert judge(reference, samples(seed), (), metrics=["rare modes"]).passed

    def test_a_common_mode_that_lost_some_is_what_is_shown(self) -> None:
        """Not one of the hundreds of small clusters of which some lose half by chance."""
        (verdict,) = judge(
            mixture(1808, 0),
            mixture(1808, 1, np.where(np.arange(6) == 0, 0.7 * MASSES, MASSES)),
            (),
            metrics=["rare modes"],
        ).verdicts
        assert verdict.passed and verdict.decided and 0.02 < verdict.value < 0.2
        assert verdict.note.startswith("mode ") and verdict.p_value < 1e-6

    def test_one_chain_in_a_hundred_is_a_mode(self) -> None:
        x, lost = (mixture(1808, seed, without(5)) for seed in (0, 1))
        apart = np.random.default_rng(0).standard_normal((20, *x.x.shape[1:])).astype(np.float32) + 40
        x.x[:20] = apart
        found = self.judged(lost, "rare modes", reference=x)
        assert "20 of 1808 FP32 chains, 0 of 1808" in found["rare modes"].note

    def test_a_rare_mode_in_too_few_chains_cannot_be_told(self) -> None:
        result = judge(mixture(208, 0), mixture(208, 1, without(5)), (), metrics=["rare modes"])
        assert result.passed

    def test_one_mode_is_no_ratio_and_never_the_nearest_to_its_limit(self) -> None:
        wide = replace(gaussian(208, 1), labels=np.zeros(208, np.int64))
        result = judge(replace(gaussian(208, 0), labels=wide.labels), wide, (), metrics=["modes", "frechet"])
        assert named(result)["modes"].note == "one mode: nothing to compare"
        assert [verdict.metric for verdict in result.ratios] == ["frechet"]
        assert named(result)["frechet"].ratio < 1 and "nearest to its limit: frechet" in result.reason

    def test_a_classifier_names_the_modes(self) -> None:
        rng = np.random.default_rng(0)
        labels = [rng.choice(3, 1808, p=p) for p in ([0.68, 0.3, 0.02], [0.7, 0.3, 0.0])]
        a, q = (replace(gaussian(1808, seed), labels=own) for seed, own in enumerate(labels))
        found = self.judged(q, "rare modes", "modes", reference=a)
        assert found["rare modes"].note.startswith("mode 2 of 3, the worst of all modes, rare or not: ")
        assert found["modes"].passed

    def test_a_common_mode_may_be_the_worst_and_is_not_called_rare(self) -> None:
        rng = np.random.default_rng(0)
        labels = [rng.choice(3, 1808, p=p) for p in ([0.68, 0.3, 0.02], [0.78, 0.2, 0.02])]
        a, q = (replace(gaussian(1808, seed), labels=own) for seed, own in enumerate(labels))
        (verdict,) = judge(a, q, (), metrics=["rare modes"]).verdicts
        assert verdict.passed and verdict.note.startswith("mode 1 of 3, the worst of all modes, rare or not: ")
        assert f"(the worst: {verdict.note.partition(': ')[2]}, p" in own_limit(verdict)
        assert 0.2 < verdict.value < 1 - 350 / 560  # of which so much is sure

    def test_a_tenth_less_variance(self) -> None:
        narrow = gaussian(1808, 1, scale=math.sqrt(0.9))
        found = self.judged(narrow, "energy", "density", reference=gaussian(1808, 0))
        assert not found["density"].passed

    def test_a_shift_of_x(self) -> None:
        q = gaussian(1808, 1, width=2)
        moved = replace(q, x=q.x + np.float32(0.25))
        names = ["sliced wasserstein", "mmd", "frechet"]
        found = self.judged(moved, *names, reference=gaussian(1808, 0, width=2))
        assert all(not verdict.passed and verdict.p_value < 0.02 for verdict in found.values())

    def test_samples_at_another_temperature(self) -> None:
        hot = gaussian(400, 1, width=2, scale=1.5)
        self.judged(replace(hot, energy=np.zeros(400)), "stein", reference=gaussian(400, 0, width=2))

    def test_features_are_what_is_compared(self) -> None:
        a, q = (
            SampleSet(x.x, x.energy, features=np.random.default_rng(s).standard_normal((400, 3)) + s)
            for s, x in ((0, gaussian(400, 0)), (1, gaussian(400, 1)))
        )
        self.judged(q, "mmd", "frechet", reference=a)
        assert judge(a, q, (), metrics=["sliced wasserstein"]).passed

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_a_chain_that_left(self, value: float) -> None:
        q = gaussian(208, 1)
        q.x[3] = value
        result = judge(gaussian(208, 0), q, ())
        assert not result.passed
        assert result.decided
        assert result.reason.startswith("not finite or far out: 1 of 208 chains")
        assert GateResult.from_dict(result.to_dict()) == result


class TestScore:
    def judged(self, change) -> GateResult:
        g = np.random.default_rng(0).standard_normal((64, 50))
        noisy = g + 0.1 * np.random.default_rng(1).standard_normal(g.shape)
        stages = [score_fidelity(g, change(noisy), stage=i, step=10 * i) for i in range(5)]
        return judge(gaussian(208, 0), gaussian(208, 1), stages, metrics=["energy"])

    def test_noise_passes_and_a_bent_gradient_fails(self) -> None:
        assert self.judged(lambda q: q).passed
        longer = self.judged(lambda q: 1.02 * q)
        assert not longer.passed
        assert longer.decided
        assert longer.reason.startswith("score gain 0.0")
        shifted = self.judged(lambda q: q + 0.02)
        assert not shifted.passed
        assert "score bias" in shifted.reason
        assert len(shifted.fidelity) == 5


class TestUndecided:
    def test_a_ratio_just_over_the_gate_asks_for_more_chains(self) -> None:
        """A shift of the smallest difference: some seed is over the gate with an interval that includes it."""
        open_cases = []
        for seed in range(12):
            a, q = gaussian(1808, 2 * seed), gaussian(1808, 2 * seed + 1)
            result = judge(a, replace(q, energy=q.energy + 0.12 * a.energy.std()), (), metrics=["energy"])
            verdict = named(result)["energy"]
            assert result.decided == (result.passed or verdict.low > 1.25)
            if not result.decided:
                open_cases.append(seed)
                assert result.reason.endswith("more chains could settle it")
        assert open_cases

    def test_more_chains_settle_it(self) -> None:
        rng = np.random.default_rng(0)

        def interval(n: int):
            a, q = gaussian(n, int(rng.integers(1000))), gaussian(n, int(rng.integers(1000, 2000)))
            result = judge(a, replace(q, energy=q.energy + 0.2 * a.energy.std()), (), metrics=["energy"])
            return result.subset, named(result)["energy"]

        (n_small, small), (n_large, large) = interval(1808), interval(14464)
        assert n_small == n_large
        assert large.high - large.low < 0.6 * (small.high - small.low)
        assert large.low > 1.25

    def test_no_more_samples_are_drawn_for_an_open_score(self) -> None:
        """More chains say nothing new of a score that was measured along a trajectory."""
        a, q = gaussian(208, 0), gaussian(208, 1)
        for gain in (0.005, 0.012):
            stage = StageFidelity(0, 10, 1.0, 1.0, gain, 0.02, 0.0, 0.001, 0.1, 0.1, 8, 0.0, 1e-6)
            result = judge(a, q, [stage], metrics=["mmd"])
            assert named(result)["mmd"].decided
            assert result.decided


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"gate": 0.9}, "gate: expected a number above 1, got 0.9"),
            ({"metrics": ["speed"]}, "metrics: expected some of energy, .* got 'speed'"),
            ({"temperature": -1.0}, "temperature: expected a number of at least 0"),
            ({"bias_limit": 0.0}, "bias_limit: expected a number above 0"),
        ],
    )
    def test_options(self, options, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            judge(gaussian(100, 0), gaussian(100, 1), (), **options)

    def test_samples(self) -> None:
        with pytest.raises(UsageError, match=r"candidate: expected samples of \[8\].* got \[3\]"):
            judge(gaussian(100, 0), gaussian(100, 1, width=3), ())
        with pytest.raises(UsageError, match="expected at least 32 in each pool"):
            judge(gaussian(20, 0), gaussian(100, 1), ())
        with pytest.raises(UsageError, match="'stein' needs gradients"):
            judge(gaussian(100, 0), replace(gaussian(100, 1), grad=None), (), metrics=["stein"])
        broken = gaussian(100, 0)
        broken.energy[0] = np.nan
        with pytest.raises(UsageError, match="reference: energy holds NaN"):
            judge(broken, gaussian(100, 1), ())


def test_every_metric_names_itself() -> None:
    result = judge(mixture(208, 0), mixture(208, 1), ())
    assert [verdict.metric for verdict in result.verdicts] == list(GATE_METRICS)
