"""By how much energies are rounded, of engines for which that is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ebm_export.calibration.rounded_energies import energy_rounding
from ebm_export.runtime import FunctionEngine, SamplerConfig

CONFIG = SamplerConfig(steps=4, step_size=0.05)
SAMPLES = np.random.default_rng(0).standard_normal((400, 3)).astype(np.float32)
PULL = np.random.default_rng(1).standard_normal((400, 1)).astype(np.float32)


def engine(
    error: Callable[[np.ndarray, np.ndarray], np.ndarray], seen: list[np.ndarray] | None = None
) -> FunctionEngine:
    """A bowl around a condition, with an error."""

    def bowl(x: np.ndarray, pull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if seen is not None:
            seen.append(x.copy())
        return 0.5 * np.square(x - pull).sum(axis=1) + error(x, pull), x - pull

    return FunctionEngine(bowl)


def found(error: Callable[[np.ndarray, np.ndarray], np.ndarray], config: SamplerConfig = CONFIG) -> float | None:
    return energy_rounding(engine(error), engine(lambda x, pull: 0 * x[:, 0]), SAMPLES, {"pull": PULL}, config)


def another_at_each_place(x: np.ndarray, pull: np.ndarray) -> np.ndarray:
    return 0.2 * np.random.default_rng(np.frombuffer(x.tobytes(), np.uint32)).standard_normal(len(x))


def test_what_differs_from_state_to_state() -> None:
    assert found(another_at_each_place) == pytest.approx(0.2, rel=0.05)


def test_a_slope_counts_as_far_as_a_step_goes() -> None:
    """The last that has any: of four steps the third. Three of four states moved, the fourth is the sample itself."""
    for config, noise in ((CONFIG, 0.1**0.5), (SamplerConfig(steps=4, step_size=0.05, noise=[9, 0.1, 0]), 0.2 / 3)):
        assert found(lambda x, pull: 2 * x[:, 0], config) == pytest.approx(2 * noise * np.sqrt(0.75), rel=0.05)


def test_offsets_of_all_and_of_each_condition_do_not_count() -> None:
    rounding = found(lambda x, pull: 40 + 3 * pull[:, 0])
    assert rounding is not None and rounding < 1e-5


def test_states_stay_within_bounds() -> None:
    seen: list[np.ndarray] = []
    exact = engine(lambda x, pull: 0 * x[:, 0])
    inside = np.clip(SAMPLES, 0, 1)
    bounded = CONFIG.replace(bounds=(0, 1))
    energy_rounding(engine(lambda x, pull: 0 * x[:, 0], seen), exact, inside, {"pull": PULL}, bounded)
    (x,) = seen
    assert x.shape == (1600, 3) and x.min() == 0 and x.max() == 1
    np.testing.assert_array_equal(x[::4], inside)


def test_without_noise_there_is_nothing_to_say() -> None:
    assert found(another_at_each_place, CONFIG.replace(temperature=0.0)) is None


def test_an_energy_that_is_not_finite_shows() -> None:
    rounding = found(lambda x, pull: np.where(x[:, 0] > 0, np.inf, 0))
    assert rounding is not None and not np.isfinite(rounding)
