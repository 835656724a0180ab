"""What the gate does not judge by."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ebm_export.calibration.chain_plan import fitted_plan
from ebm_export.calibration.gate_metrics import Pools
from ebm_export.calibration.metrics.frechet import frechet_distance
from ebm_export.calibration.metrics.manifold import manifold_quality
from ebm_export.calibration.sample_figures import SampleFigures, sample_figures
from ebm_export.calibration.sample_set import SampleSet

COUNT = 300


def drawn(seed: int, width: float = 1.0, count: int = COUNT, features: int = 0) -> SampleSet:
    """Normal samples of three numbers, with that many features of them."""
    x = width * np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)
    mix = np.random.default_rng(9).standard_normal((3, features))
    return SampleSet(x, np.square(x).sum(axis=1), features=np.tanh(x @ mix) if features else None)


def figures(reference: SampleSet, candidate: SampleSet, **changes: object) -> SampleFigures | None:
    settings = {"temperature": 1.0, "network": False, **changes}
    return sample_figures(reference, candidate, fitted_plan(1.25, 0.1, COUNT), **settings)


def test_shares_are_those_of_the_whole_sets() -> None:
    """Principal components of three numbers are a rotation, which moves no distance."""
    first, second = drawn(0), drawn(1, 0.5)
    found, wanted = figures(first, second), manifold_quality(first.x, second.x, k=5)
    assert found is not None
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=0.01)
    assert found.precision > 0.97 and found.recall < 0.9  # tame samples
    assert (found.chains, found.neighbours) == (COUNT, 5)


def test_the_frechet_distance_is_that_of_all_features_of_a_network() -> None:
    first, second = drawn(0, features=40), drawn(1, features=40)
    found = figures(first, second, network=True)
    assert found is not None
    assert found.frechet == frechet_distance(first.features, second.features) and found.width == 40
    assert figures(first, second).frechet is None  # the model's own features make no FID


def test_more_samples_of_a_candidate_do_not_count() -> None:
    """An undecided gate draws more chains; a Frechet distance would fall by that alone."""
    first, second = drawn(0, features=40), drawn(1, features=40, count=3 * COUNT)
    cut = dataclasses.replace(
        second, x=second.x[:COUNT], energy=second.energy[:COUNT], features=second.features[:COUNT]
    )
    assert figures(first, second, network=True) == figures(first, cut, network=True)


def test_points_of_rest_within_a_hundredth_of_the_spread_are_the_same() -> None:
    """All of FP32's chains rest at two points; another precision's rest a hair beside them."""
    ends = np.repeat([[-1.0, 0, 0], [1.0, 0, 0]], COUNT // 2, axis=0).astype(np.float32)
    first, second = (SampleSet(x, np.zeros(COUNT)) for x in (ends, ends + np.float32(1e-5)))
    found = figures(first, second, temperature=0.0)
    assert found is not None and found.precision > 0.8


def test_no_figures_where_there_is_nothing_to_count() -> None:
    broken = drawn(1)
    broken.x[0] = np.nan
    assert figures(drawn(0), broken) is None
    assert figures(drawn(0), drawn(1, count=5)) is None


def test_wide_samples_are_not_parted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate took their components; twice would be gigabytes and minutes for each engine."""
    monkeypatch.setattr("ebm_export.calibration.sample_figures._WIDEST_PARTED", 3)
    assert figures(drawn(0), drawn(1)).too_wide is None  # type: ignore[union-attr]
    wide = drawn(0, features=4), drawn(1, features=4)
    with monkeypatch.context() as patched:
        patched.setattr("ebm_export.calibration.sample_figures.Pools", None)
        assert figures(*wide) == SampleFigures(COUNT, 5, None, None, None, None, too_wide=4)
    monkeypatch.setattr("ebm_export.calibration.sample_figures._WIDEST_PARTED", 2)
    narrow = drawn(0, features=2), drawn(1, features=2)
    found = figures(*narrow)
    assert found is not None and found.precision is not None, "x is wider, and not what they are compared by"


def test_features_of_samples_need_no_copy_of_the_samples() -> None:
    pools = Pools(drawn(0, features=4), drawn(1, features=4), fitted_plan(1.25, 0.1, COUNT), 1.0, 0)
    assert pools.components[0].shape == (COUNT, 4) and "x" not in vars(pools)
