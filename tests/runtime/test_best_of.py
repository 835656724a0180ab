"""The best of several candidates."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

CENTRES = np.array([[0, 0, 0], [50, 50, 50]], np.float32)


CENTRE = TensorSpec("centre", (3,), "float32")


def ebm(spec: TensorSpec = CENTRE) -> Ebm:
    def energy(x: np.ndarray, **cond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 0.5 * ((x - cond[spec.name]) ** 2).sum(axis=1), x - cond[spec.name]

    model = ModelSpec("bowl", TensorSpec("x", (3,), "float32"), cond=(spec,))
    return Ebm(FunctionEngine(energy), model, SamplerConfig(steps=60, step_size=0.2))


def test_is_the_lowest_of_its_own_candidates() -> None:
    x, energy = best_of(ebm(), 2, candidates=10, seed=4, centre=CENTRES)
    everything = ebm().sample(20, seed=4, centre=np.repeat(CENTRES, 10, axis=0))
    energies = ebm().score(everything, centre=np.repeat(CENTRES, 10, axis=0))[0].reshape(2, 10)
    assert x.shape == (2, 3)
    np.testing.assert_array_equal(energy, energies.min(axis=1))
    np.testing.assert_array_equal(x, everything.reshape(2, 10, 3)[[0, 1], energies.argmin(axis=1)])


def test_one_observation_for_all() -> None:
    x, energy = best_of(ebm(), 3, candidates=5, centre=CENTRES[:1])
    assert x.shape == (3, 3) and len(set(energy)) == 3


def test_a_condition_goes_by_its_name_in_the_model_and_in_the_graph() -> None:
    renamed = ebm(TensorSpec("energy_", (3,), "float32", parameter="energy"))
    expected, _ = best_of(ebm(), 2, candidates=4, centre=CENTRES)
    for name in ("energy", "energy_"):
        np.testing.assert_array_equal(best_of(renamed, 2, candidates=4, **{name: CENTRES})[0], expected)


class TestWithoutAnEnergy:
    """There is none from 5 on, where the last drift leads some chains, and nothing asks any more."""

    @staticmethod
    def ebm(drift: float) -> Ebm:
        def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.where(x[:, 0] < 5, x[:, 0], np.nan).astype(np.float32), np.full_like(x, -drift)

        model = ModelSpec("cliff", TensorSpec("x", (1,), "float32"))
        return Ebm(FunctionEngine(energy), model, SamplerConfig(steps=1, step_size=1.0, noise=0.0, order="noise-drift"))

    def test_a_candidate_is_not_the_lowest(self) -> None:
        some = self.ebm(drift=4)
        assert np.isnan(some.score(some.sample(80, seed=1))[0]).sum() > 5
        states, lowest = best_of(some, 10, candidates=8, seed=1)
        np.testing.assert_array_equal(states[:, 0], lowest)
        assert (lowest < 5).all()

    def test_an_answer_is_an_error(self) -> None:
        with pytest.raises(DivergenceError, match="3 of 3 answers have no candidate with a finite energy, of 4 each"):
            best_of(self.ebm(drift=20), 3, candidates=4)


def test_more_candidates_are_better() -> None:
    few, many = (best_of(ebm(), 1, candidates=count, centre=CENTRES[:1])[1][0] for count in (4, 200))
    assert many < few


@pytest.mark.parametrize("max_batch", [1, 5, 64])
def test_no_engine_call_is_larger_than_a_batch(max_batch: int) -> None:
    sizes = set()

    def watched(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.add(len(x))
        return 0.5 * (x * x).sum(axis=1), x

    model = ModelSpec("bowl", TensorSpec("x", (2,), "float32"))
    with Ebm(FunctionEngine(watched), model, SamplerConfig(steps=5, step_size=0.1)) as ebm:
        x, energy = best_of(ebm, 3, 8, max_batch=max_batch)
        assert max(sizes) <= max_batch
        np.testing.assert_allclose(energy, ebm.score(x)[0])
        np.testing.assert_array_equal(x, best_of(ebm, 3, 8)[0])


def test_refuses() -> None:
    with pytest.raises(UsageError, match="candidates: expected a whole number of at least 1, got 0"):
        best_of(ebm(), 2, candidates=0, centre=CENTRES)
    with pytest.raises(UsageError, match=r"centre: expected shape \[3 or 1, 3\], got \[2, 3\]"):
        best_of(ebm(), 3, centre=CENTRES)
