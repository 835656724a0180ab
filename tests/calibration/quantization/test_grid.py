from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.quantization.grid import Grid, grid_for_range

from .graphs import graph, run


@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(0, 2.55, 0), (-1, 1.55, 100), (-2.55, 0, 255), (-1e-3, 1e3, 0), (0, 0, 0)]
)
def test_asymmetric(low: float, high: float, zero_point: int) -> None:
    grid = grid_for_range(low, high, symmetric=False)
    assert (grid.zero_point, grid.signed, grid.dtype) == (zero_point, False, np.uint8)
    values = np.linspace(low, high, 999, dtype=np.float32)
    # Zero is a point of the grid, so an end may lie half a step outside of it.
    assert np.abs(grid.round(values) - values).max() <= 1.001 * grid.scale
    assert grid.round(np.zeros(1, np.float32)) == 0


@pytest.mark.parametrize(("low", "high"), [(-1, 2), (-2, 1), (0, 2)])
def test_symmetric(low: float, high: float) -> None:
    grid = grid_for_range(low, high, symmetric=True)
    assert grid == Grid(2 / 127, 0, True)
    assert grid.dtype == np.int8
    values = np.linspace(low, high, 999, dtype=np.float32)
    assert np.abs(grid.round(values) - values).max() <= 0.501 * grid.scale


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_dead_tensor_has_a_grid(symmetric: bool) -> None:
    grid = grid_for_range(0.0, 0.0, symmetric=symmetric)
    assert np.float32(grid.scale) > 0
    assert np.abs(grid.round(np.array([0, 1, -1], np.float32))).max() < 1e-15


@pytest.mark.parametrize("grid", [Grid(0.1, 0, True), Grid(0.037, 91, False)])
def test_rounds_as_onnxruntime_does(grid: Grid) -> None:
    values = np.concatenate([np.linspace(-20, 20, 1001), 0.5 * grid.scale * np.arange(-50, 50)]).astype(np.float32)
    model = graph(
        """g (float[N] x, float[N] grad_scale) => (float[N] y) { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }""",
        {"s": np.array(grid.scale, np.float32), "z": np.array(grid.zero_point, grid.dtype)},
    )
    np.testing.assert_array_equal(run(model, {"x": values, "grad_scale": values})["y"], grid.round(values))
