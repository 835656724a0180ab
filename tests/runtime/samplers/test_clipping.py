"""Limits on a gradient."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_export.runtime.samplers.clipping import clip_gradient

GRAD = np.array([[3, -4], [0.1, 0.2], [0, 0], [-1, 0.5]], np.float32)


def test_no_limit_changes_nothing() -> None:
    clipped, touched = clip_gradient(GRAD, None, "value", np.empty_like(GRAD))
    assert clipped is GRAD and touched == 0


def test_value_limits_each_number() -> None:
    clipped, touched = clip_gradient(GRAD, 1.0, "value", np.empty_like(GRAD))
    np.testing.assert_array_equal(clipped, np.array([[1, -1], [0.1, 0.2], [0, 0], [-1, 0.5]], np.float32))
    assert touched == 1  # a number of exactly the limit is within it


def test_norm_shortens_each_sample_and_keeps_its_direction() -> None:
    clipped, touched = clip_gradient(GRAD, 1.0, "norm", np.empty_like(GRAD))
    long = np.sqrt(1.25)
    np.testing.assert_allclose(clipped, [[0.6, -0.8], [0.1, 0.2], [0, 0], [-1 / long, 0.5 / long]], rtol=1e-6)
    assert touched == 2


@pytest.mark.parametrize("mode", ["value", "norm"])
def test_leaves_the_gradient_itself_alone(mode: str) -> None:
    before = GRAD.copy()
    clip_gradient(GRAD, 0.5, mode, np.empty_like(GRAD))  # type: ignore[arg-type]
    np.testing.assert_array_equal(GRAD, before)


def test_norm_of_numbers_whose_squares_overflow() -> None:
    huge = np.array([[3e30, 4e30]], np.float32)
    clipped, _ = clip_gradient(huge, 5.0, "norm", np.empty_like(huge))
    np.testing.assert_allclose(clipped, [[3, 4]], rtol=1e-6)
