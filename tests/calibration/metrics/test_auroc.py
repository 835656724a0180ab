from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from ebm_export.calibration.metrics.auroc import ood_auroc
from ebm_export.runtime.errors import UsageError


def test_separate_equal_and_swapped() -> None:
    assert ood_auroc([0.0, 1.0], [2.0, 3.0, 4.0]) == 1.0
    assert ood_auroc([2.0, 3.0], [0.0, 1.0]) == 0.0
    assert ood_auroc(np.ones(4), np.ones(3)) == 0.5


def test_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    found = ood_auroc(rng.standard_normal(4000), 1.0 + rng.standard_normal(4000))
    # Its standard error is at most 0.5 / sqrt(4000).
    assert found == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.025)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="outside: expected at least 1"):
        ood_auroc([0.0], [])
    with pytest.raises(UsageError, match="inside: expected finite"):
        ood_auroc([np.inf], [0.0])
