from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.observers import Histogram, min_max_range


@pytest.mark.parametrize(
    ("values", "asymmetric", "symmetric"),
    [([-3, 2], (-3, 2), (-3, 3)), ([1, 2], (0, 2), (-2, 2)), ([-4, -1], (-4, 0), (-4, 4)), ([0, 0], (0, 0), (0, 0))],
)
def test_range(values: list[float], asymmetric: tuple[float, float], symmetric: tuple[float, float]) -> None:
    histogram = Histogram()
    histogram.update(np.array(values, np.float32))
    assert min_max_range(histogram, False) == [asymmetric]
    assert min_max_range(histogram, True) == [symmetric]
