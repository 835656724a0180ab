"""States that are not finite, on an engine that answers them as if they were: OpenVINO's ReLU makes 0 of NaN."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import DivergenceError, Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.device_loop import BestOnDevice, DeviceLoop, Handover
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.ood import ood_scores

GIVEN = np.array([[np.nan, 0.5], [0.5, 0.5], [-np.inf, 0.2], [1.0, 2.0]], np.float32)
BROKEN = [0, 2]
SAMPLERS: list[dict[str, Any]] = [
    {},
    {"order": "noise-drift"},
    *({"sampler": name} for name in ("preconditioned", "underdamped", "optimize", "mala", "hmc", "tempering")),
]
each = pytest.mark.parametrize("settings", SAMPLERS, ids=lambda settings: next(iter(settings.values()), "langevin"))


def hiding(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The energy of relu(x), and its gradient, finite for whatever is asked."""
    positive = np.nan_to_num(np.where(x > 0, x, 0), posinf=1.0)
    return positive.sum(1), np.where(positive > 0, 1, 0).astype(np.float32)


def ebm(**settings: Any) -> Ebm:
    model = ModelSpec("relu", TensorSpec("x", (2,), "float32"))
    return Ebm(FunctionEngine(hiding), model, SamplerConfig.from_dict({"steps": 8, "step_size": 0.01, **settings}))


class TestScore:
    def test_has_no_energy_and_no_gradient_there(self) -> None:
        energy, grad = ebm().score(GIVEN)
        np.testing.assert_array_equal(energy, [np.nan, 1, np.nan, 3])
        np.testing.assert_array_equal(grad, [[np.nan] * 2, [1, 1], [np.nan] * 2, [1, 1]])

    def test_in_batches(self) -> None:
        model = ModelSpec("relu", TensorSpec("x", (2,), "float32"))
        some = Ebm(FunctionEngine(hiding), model, max_batch=1)
        np.testing.assert_array_equal(some.score(GIVEN)[0], [np.nan, 1, np.nan, 3])

    @pytest.mark.parametrize("kind", ["energy", "gradient", "typicality"])
    def test_is_as_far_out_as_can_be(self, kind: Any) -> None:
        """NaN is above no threshold, and would pass for what belongs there."""
        scores = ood_scores(ebm(), GIVEN, kind, reference=[1.0] if kind == "typicality" else None)
        assert (scores[BROKEN] == np.inf).all() and np.isfinite(scores[[1, 3]]).all()


class TestRefine:
    @each
    def test_stops_at_the_start(self, settings: dict[str, Any]) -> None:
        with pytest.raises(DivergenceError, match=r"2 of 4 chains have .* at the start; look at the states that they"):
            ebm(**settings).refine(GIVEN)

    @each
    def test_drops_them(self, settings: dict[str, Any]) -> None:
        kept = ebm(**settings).refine(GIVEN, diverged="drop")
        assert kept.shape == (2, 2) and np.isfinite(kept).all()

    @each
    def test_by_a_deadline_they_have_no_energy(self, settings: dict[str, Any]) -> None:
        some = ebm(**settings)
        for best in (some.refine(GIVEN, deadline_ms=10_000), *some.stream(4, x0=GIVEN)):
            assert best.diverged.tolist() == [True, False, True, False]
            assert (best.energy[BROKEN] == np.inf).all() and np.isfinite(best.energy[[1, 3]]).all()
            np.testing.assert_array_equal(best.x[BROKEN], GIVEN[BROKEN])

    def test_the_best_of_several_has_none(self) -> None:
        best = best_of(ebm(), 4, 3, x0=GIVEN, deadline_ms=10_000)
        assert (best.energy[BROKEN] == np.inf).all() and best.diverged.tolist() == [True, False, True, False]

    def test_exact_sampling(self) -> None:
        model = ModelSpec("relu", TensorSpec("x", (2,), "float32"))
        config = SamplerConfig(steps=8, step_size=0.01)
        some = Ebm(FunctionEngine(hiding), model, config, exact=FunctionEngine(hiding))
        with pytest.raises(DivergenceError, match="2 of 4 chains have .* at the start"):
            some.refine(GIVEN)

    def test_data_that_is_picked_anew(self) -> None:
        data = np.where(np.arange(40)[:, None] % 8 == 0, np.nan, np.linspace(0, 1, 80).reshape(40, 2))
        samples = ebm(init="data").sample(30, data=data, diverged="restart")
        assert samples.shape == (30, 2) and np.isfinite(samples).all()


class Loop(DeviceLoop):
    """One step down, whose end is the best state wherever the engine has an energy."""

    def run(self, start: Handover) -> tuple[np.ndarray, np.ndarray]:
        return start.position - hiding(start.position)[1], np.full(len(start.position), -1, np.int32)

    def run_while(self, start: Handover, energy: np.ndarray, goes_on: Any) -> BestOnDevice:
        x, lost = self.run(start)
        return BestOnDevice(x, hiding(x)[0], start.config.steps, lost >= 0)


class OnDevice(FunctionEngine):
    def device_loop(self) -> DeviceLoop:
        return Loop()


def test_chains_on_a_device() -> None:
    some = Ebm(OnDevice(hiding), ebm().model, SamplerConfig(steps=1, step_size=1.0))
    best = some.refine(GIVEN, deadline_ms=10_000)
    assert best.diverged.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(best.energy, [np.inf, 0, np.inf, 1])
    np.testing.assert_array_equal(best.x[BROKEN], GIVEN[BROKEN])
    with pytest.raises(DivergenceError, match="2 of 4 chains have .* at the start"):
        some.refine(GIVEN)
    np.testing.assert_array_equal(some.refine(GIVEN, diverged="drop"), [[-0.5, -0.5], [0, 1]])


class TestKnown:
    KEEP = ((True, False),)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("bounds", [None, (-1, 1)])
    def test_numbers_that_stay_have_to_be_finite(self, value: float, bounds: Any) -> None:
        said = "known: expected finite numbers where keep is true, got NaN or infinity among them"
        with pytest.raises(UsageError, match=re.escape(said)):
            ebm(bounds=bounds).sample(2, keep=self.KEEP, known=[[value, 0.0]])

    def test_holes_may_be_nan(self) -> None:
        some = ebm()
        samples = some.sample(2, keep=self.KEEP, known=[[0.5, np.nan]])
        np.testing.assert_array_equal(samples[:, 0], [0.5, 0.5])
        assert np.isfinite(samples).all()
        filled = some.sample(2, x0=[[np.nan, 0.5]], keep=self.KEEP, known=[[0.5, 0]])
        assert np.isfinite(filled).all()
