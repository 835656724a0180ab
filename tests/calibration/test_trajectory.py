from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration import record_trajectory
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.errors import DivergenceError


def quadratic(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * np.square(x).reshape(len(x), -1).sum(1), x


def record(config: SamplerConfig, **options):
    with FunctionEngine(quadratic) as engine:
        return record_trajectory(engine, config, (3,), 8, seed=5, **options)


def test_stages_run_from_start_to_end() -> None:
    found = record(SamplerConfig(steps=60, step_size=0.1, noise=0.1))
    assert found.step.tolist() == sorted({round(step) for step in np.linspace(0, 60, 12)})
    assert found.x.shape == (12, 8, 3)
    assert found.grad_scale.shape == (12, 8)
    norms = np.linalg.norm(found.x, axis=2).mean(1)
    assert norms[-1] < 0.5 * norms[0]


def test_short_chains_have_fewer_stages() -> None:
    assert record(SamplerConfig(steps=3, step_size=0.1)).step.tolist() == [0, 1, 2, 3]


def test_same_seed_same_states() -> None:
    config = SamplerConfig(steps=12, step_size=0.1)
    np.testing.assert_array_equal(record(config).x, record(config).x)


def test_noise_drift_keeps_the_noised_point() -> None:
    """One step of size one takes a quadratic to its minimum, so only the noised point is anywhere else."""
    found = record(SamplerConfig(steps=4, step_size=1.0, noise=0.3, order="noise-drift"))
    assert (np.abs(found.x[1:]).reshape(4, -1).max(1) > 0.1).all()


def test_progress_counts_steps() -> None:
    seen: list[tuple[int, int]] = []
    record(SamplerConfig(steps=5, step_size=0.1), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(6)]


def test_divergence_is_an_error() -> None:
    with pytest.raises(DivergenceError):
        record(SamplerConfig(steps=200, step_size=1e3))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "noise-drift"},
        {"sampler": "preconditioned"},
        {"sampler": "underdamped"},
        {"sampler": "mala", "step_size": 0.5},
        {"sampler": "hmc", "step_size": 0.3, "leapfrog": 3},
        {"sampler": "tempering", "step_size": 0.5, "ladder": (1, 2, 4)},
    ],
    ids=lambda settings: settings.get("order") or settings.get("sampler") or "langevin",
)
def test_states_are_those_of_the_chains_whatever_the_sampler(settings: dict) -> None:
    """Not proposals that were rejected, nor the hot replicas: at temperature 1 the states have a variance of 1."""
    config = SamplerConfig.from_dict({"steps": 60, "step_size": 0.1, **settings})
    with FunctionEngine(quadratic) as engine:
        found = record_trajectory(engine, config, (3,), 256, seed=5)
    assert found.x.shape == (12, 256, 3)
    assert found.grad_scale.shape == (12, 256)
    for states in found.x[4:]:
        # 768 numbers with a variance of 1: their mean square is off by less than 0.2 in four standard errors, and the
        # longest step here adds 0.1 to it.
        assert 0.75 < np.square(states).mean() < 1.35
