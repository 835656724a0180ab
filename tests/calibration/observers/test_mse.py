from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.observers import Histogram, min_max_range, mse_range
from ebm_export.calibration.quantization.grid import grid_for_range


def error(values: np.ndarray, ends: tuple[float, float], symmetric: bool) -> float:
    return float(np.square(grid_for_range(*ends, symmetric=symmetric).round(values) - values).mean())


def ranges(values: np.ndarray, symmetric: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """(mse, min-max)."""
    histogram = Histogram()
    histogram.update(values)
    return mse_range(histogram, symmetric)[0], min_max_range(histogram, symmetric)[0]


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_long_tail_is_cut_where_the_error_is_least(symmetric: bool) -> None:
    values = np.append(np.random.default_rng(0).laplace(size=50_000), [-30, 30]).astype(np.float32)
    chosen, whole = ranges(values, symmetric)
    assert error(values, chosen, symmetric) < 0.95 * error(values, whole, symmetric)
    tried = [(share * whole[0], share * whole[1]) for share in np.geomspace(1, 1 / 64, 200)]
    # The bins' centres and the candidates' distance of 8 % cost a little.
    assert error(values, chosen, symmetric) < 1.05 * min(error(values, ends, symmetric) for ends in tried)


@pytest.mark.parametrize("symmetric", [True, False])
def test_even_values_are_not_cut(symmetric: bool) -> None:
    chosen, whole = ranges(np.linspace(-1, 1, 5001, dtype=np.float32), symmetric)
    assert chosen == whole


def test_both_ends_keep_their_proportion() -> None:
    (low, high), (least, most) = ranges(
        np.append(np.random.default_rng(1).laplace(size=50_000), [-20, 40]).astype(np.float32), False
    )
    assert low / least == pytest.approx(high / most)
    assert low / least < 1
