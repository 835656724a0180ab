from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics.principal_components import principal_components
from ebm_export.runtime.errors import UsageError


def test_narrow_features_are_only_turned() -> None:
    x = np.random.default_rng(0).standard_normal((50, 3)) * [1.0, 5.0, 0.2]
    found = principal_components(x, 8)
    assert found.shape == (50, 3)
    assert (np.diff(found.var(axis=0)) < 0).all()
    moved = x - x.mean(axis=0)
    np.testing.assert_allclose(found @ found.T, moved @ moved.T, atol=1e-9)


def test_wide_features_keep_what_is_widest() -> None:
    rng = np.random.default_rng(0)
    x = 0.1 * rng.standard_normal((200, 100))
    x[:, 7] += 3.0 * rng.standard_normal(200)
    found = principal_components(x, 2)
    assert abs(np.corrcoef(found[:, 0], x[:, 7])[0, 1]) > 0.999
    np.testing.assert_array_equal(found, principal_components(x, 2))


def test_constants_and_refusals() -> None:
    assert principal_components(np.full((5, 3), 0.1), 2).tolist() == [[0.0, 0.0]] * 5
    with pytest.raises(UsageError, match="count: expected at least 1"):
        principal_components(np.ones((5, 3)), 0)
    with pytest.raises(UsageError, match="features: expected finite"):
        principal_components(np.full((5, 3), np.nan), 1)
