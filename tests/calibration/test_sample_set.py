from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.sample_networks import SampleNetworks
from ebm_export.calibration.sample_set import SampleSet, score_samples
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.ebm import Ebm
from ebm_export.runtime.errors import UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec


def conditioned(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * np.square(x - centre).reshape(len(x), -1).sum(axis=1), x - centre


@pytest.fixture
def ebm():
    centre = TensorSpec("centre", (2, 3), "float32")
    model = ModelSpec("m", TensorSpec("x", (2, 3), "float32"), cond=(centre,))
    engine = FunctionEngine(conditioned)
    with Ebm(engine, model, SamplerConfig(steps=1, step_size=0.1)) as made:
        engine.open()
        yield made


X = np.random.default_rng(0).standard_normal((7, 2, 3)).astype(np.float32)


class TestScoreSamples:
    def test_energies_and_gradients_in_batches(self, ebm) -> None:
        centre = np.random.default_rng(1).standard_normal((7, 2, 3)).astype(np.float32)
        found = score_samples(ebm, X, cond={"centre": centre}, batch=3)
        energy, grad = conditioned(X, centre)
        np.testing.assert_allclose(found.energy, energy, rtol=1e-5)
        np.testing.assert_allclose(found.grad, grad, rtol=1e-5)
        assert found.features is None
        assert len(found) == 7

    def test_a_shared_condition_features_and_labels(self, ebm) -> None:
        found = score_samples(
            ebm,
            X.astype(np.float64),
            cond={"centre": np.zeros((1, 2, 3), np.float32)},
            networks=SampleNetworks(lambda x: x.sum(axis=2), lambda x: (x[:, 0, 0] > 0).astype(int)),
            batch=4,
        )
        np.testing.assert_allclose(found.features, X.sum(axis=2))
        assert found.labels.tolist() == (X[:, 0, 0] > 0).astype(int).tolist()
        assert found.x.dtype == np.float32

    def test_no_samples(self, ebm) -> None:
        with pytest.raises(UsageError, match="at least one sample"):
            score_samples(ebm, X[:0])


class TestSampleSet:
    def test_join(self) -> None:
        one = SampleSet(X, np.zeros(7), X, np.zeros((7, 2)), np.zeros(7, int))
        both = one.join(SampleSet(X[:2], np.ones(2), X[:2]))
        assert both.x.shape == (9, 2, 3)
        assert both.energy.tolist() == [0.0] * 7 + [1.0] * 2
        assert both.grad is not None
        assert both.features is None
        assert both.labels is None
        with pytest.raises(UsageError, match=r"x: expected samples of \[2, 3\], got \[2\]"):
            one.join(SampleSet(np.zeros((2, 2)), np.zeros(2)))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"energy": np.zeros(6)}, r"energy: expected one per sample, \[7\], got \[6\]"),
            ({"grad": np.zeros((7, 6))}, r"grad: expected the shape of x"),
            ({"features": np.zeros((6, 2))}, r"features: expected \[7, D\], got \[6, 2\]"),
            ({"labels": np.zeros(6)}, r"labels: expected one per sample"),
        ],
    )
    def test_one_row_per_chain(self, arrays, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            SampleSet(**{"x": X, "energy": np.zeros(7), **arrays})
