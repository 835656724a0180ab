from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from ebm_export.calibration import record_trajectory
from ebm_export.calibration.metrics.score_fidelity import StageFidelity
from ebm_export.calibration.score_along import fidelity_along, gradients_along
from ebm_export.calibration.score_bias import judge_score
from ebm_export.calibration.trajectory import Trajectory
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine


def steep(factor: float) -> FunctionEngine:
    """E = factor * |x - centre|^2 / 2."""

    def energy(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return factor * 0.5 * np.square(x - centre).sum(1), factor * (x - centre)

    return FunctionEngine(energy)


@pytest.fixture
def cond() -> dict[str, np.ndarray]:
    return {"centre": np.linspace(-2, 2, 48, dtype=np.float32).reshape(16, 3)}


@pytest.fixture
def trajectory(cond: dict[str, np.ndarray]) -> Trajectory:
    config = SamplerConfig(steps=20, step_size=0.2, noise=0.3)
    return record_trajectory(steep(1.0), config, (3,), 16, seed=0, stages=5, cond=cond)


def test_gradients_are_divided_by_their_scale(trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
    assert not np.allclose(trajectory.grad_scale, 1)
    found = gradients_along(steep(1.0), trajectory, cond)
    np.testing.assert_allclose(found, trajectory.x - cond["centre"], atol=1e-6)


def test_batches_change_nothing(trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
    whole = gradients_along(steep(1.0), trajectory, cond)
    np.testing.assert_array_equal(gradients_along(steep(1.0), trajectory, cond, max_batch=5), whole)


def test_an_engine_that_takes_few_rows_is_asked_for_few(cond: dict[str, np.ndarray]) -> None:
    """A plan of TensorRT refuses more, in a prologue too."""

    class Few(type(steep(1.0))):  # type: ignore[misc]
        def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert len(cond["centre"]) <= 5
            return super().prepare(cond)  # type: ignore[no-any-return]

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert len(inputs["x"]) <= 5
            return super().run(inputs)  # type: ignore[no-any-return]

    def energy(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 0.5 * np.square(x - centre).sum(1), x - centre

    config = SamplerConfig(steps=20, step_size=0.2, noise=0.3)
    asked = {"seed": 0, "stages": 5, "cond": cond}
    whole = record_trajectory(FunctionEngine(energy), config, (3,), 16, **asked)
    found = record_trajectory(Few(energy), config, (3,), 16, **asked, max_batch=5)
    np.testing.assert_array_equal(found.x, whole.x)
    np.testing.assert_array_equal(found.grad_scale, whole.grad_scale)
    np.testing.assert_allclose(
        gradients_along(Few(energy), found, cond, max_batch=5), found.x - cond["centre"], atol=1e-6
    )


def test_a_prologue_runs_once_for_each_condition(trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
    prepared: list[int] = []

    class Counting(type(steep(1.0))):  # type: ignore[misc]
        def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            prepared.append(len(cond["centre"]))
            return super().prepare(cond)  # type: ignore[no-any-return]

    def energy(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 0.5 * np.square(x - centre).sum(1), x - centre

    few = {"centre": cond["centre"][:3]}
    found = gradients_along(Counting(energy), trajectory, few, max_batch=5)
    assert prepared == [3]
    np.testing.assert_allclose(found, trajectory.x - few["centre"][np.arange(16) % 3], atol=1e-6)


def test_a_schedule_is_asked_phase_by_phase(trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
    early, late = steep(1.1), steep(1.0)
    reference = gradients_along(steep(1.0), trajectory, cond)
    found = fidelity_along(
        trajectory, reference, gradients_along(lambda step: early if step < 10 else late, trajectory, cond)
    )
    assert [stage.step for stage in found] == [0, 5, 10, 15, 20]
    assert [stage.gain for stage in found] == pytest.approx([0.1, 0.1, 0, 0, 0], abs=1e-6)


def test_a_stage_without_a_gradient_is_left_out(trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
    reference = gradients_along(steep(1.0), trajectory, cond)
    reference[1] = 0
    assert [stage.stage for stage in fidelity_along(trajectory, reference, reference)] == [0, 2, 3, 4]


class TestChainsThatRest:
    """Gradients that shrink to a millionth, and a candidate that is off by the same everywhere."""

    def found(
        self, trajectory: Trajectory, cond: dict[str, np.ndarray], off: float, rests: bool
    ) -> list[StageFidelity]:
        reference = gradients_along(steep(1.0), trajectory, cond)
        reference /= np.sqrt(np.square(reference).mean(axis=(1, 2), keepdims=True))
        reference *= np.logspace(0, -6, len(reference)).astype(np.float32)[:, None, None]
        return list(fidelity_along(trajectory, reference, reference + np.float32(off), np.arange(16) % 2, rests=rests))

    def test_errors_are_beside_the_largest(self, trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
        off = 1e-4
        own, rests = (self.found(trajectory, cond, off, rests) for rests in (False, True))
        assert own[0] == rests[0]
        assert own[-1].bias == pytest.approx(off / 1e-6, rel=0.01)
        assert rests[-1].bias == pytest.approx(off, rel=0.01)
        assert rests[-1].relative_error == pytest.approx(off, rel=0.01)
        assert rests[-1].bias_squared == pytest.approx(off**2, rel=0.01)
        assert rests[-1].condition_bias_squared == pytest.approx(off**2, rel=0.01)

    @pytest.mark.parametrize(("off", "passed"), [(5e-3, True), (2e-2, False)])
    def test_what_passes(self, trajectory: Trajectory, cond: dict[str, np.ndarray], off: float, passed: bool) -> None:
        verdicts = judge_score(self.found(trajectory, cond, off, True), 0.01)
        assert all(verdict.passed for verdict in verdicts) == passed
        assert not all(verdict.passed for verdict in judge_score(self.found(trajectory, cond, off, False), 0.01))

    def test_a_gain_moves_no_point_of_rest(self, trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
        reference = gradients_along(steep(1.0), trajectory, cond)
        reference[1:] *= np.float32(0.01)
        own, rests = (fidelity_along(trajectory, reference, 1.02 * reference, rests=rests) for rests in (False, True))
        assert own[0].gain == rests[0].gain == pytest.approx(0.02, rel=1e-4)
        assert own[-1].gain == pytest.approx(0.02, rel=1e-4) and rests[-1].gain < 2e-4
        assert not judge_score(own, 0.01)[0].passed and judge_score(rests, 0.01)[0].passed


def test_progress_counts_stages(trajectory: Trajectory, cond: dict[str, np.ndarray]) -> None:
    seen: list[tuple[int, int]] = []
    gradients_along(steep(1.0), trajectory, cond, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(stage, 5) for stage in range(1, 6)]
