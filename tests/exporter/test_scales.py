from __future__ import annotations

import numpy as np
import pytest

from ebm_export.exporter.scales import scales_of


def golden(size: float, scales: list[list[float]], rests: bool = False) -> dict[str, np.ndarray]:
    """Two stages or so of chains whose gradients have this size."""
    found = np.array(scales, np.float32)
    return {"grad": np.full((*found.shape, 4), size), "grad_scale": found, "rests": np.array(rests)}


@pytest.mark.parametrize(
    ("size", "scales", "rests", "usual", "highest"),
    [
        (0.5, [[2, 2, 2], [5, 8, 700]], False, 2, 700),
        (0.5, [[2, 2, 2], [1, 1, 1]], False, 2, 2),
        (1.0, [[1, 1, 1], [1, 1, 1]], False, 1, 1),
        (0.5, [[1, 1, 1], [1, 1, 1]], False, 2, 2),  # not below the usual one
        (1.0, [[1, 1, 1], [9e9, 9e9, 9e9]], False, 1, 1024),
        (1.0, [[1, 1, 1], [9e9, 9e9, 9e9]], True, 1, 16),
        (1.0, [[1, 1, 1], [3, 3, 3]], True, 1, 3),
        (0.0, [[1, 1, 1], [1, 1, 1]], False, 1, 1),  # no gradient says anything
    ],
)
def test_scales(size: float, scales: list[list[float]], rests: bool, usual: float, highest: float) -> None:
    found = golden(size, scales, rests)
    assert scales_of(found) == (usual, highest)
    written = found | {"grad_scale": np.minimum(found["grad_scale"], np.float32(highest))}
    assert scales_of(written) == (usual, highest), "what a bundle holds says the same"


def test_a_start_without_a_gradient_says_nothing() -> None:
    found = golden(1e-7, [[1, 1, 1], [1e7, 1e7, 2e7]])
    found["grad"][0] = 0
    assert scales_of(found) == pytest.approx((1e7, 2e7), rel=1e-6)
