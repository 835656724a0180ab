"""Accepting and rejecting."""

from __future__ import annotations

import numpy as np

from ebm_export.runtime.samplers.metropolis import accept, select


def test_probability_is_the_ratio_up_to_one() -> None:
    accepted, probability = accept(np.log([0.25, 0.25, 4.0]), np.array([0.2, 0.3, 0.999]))
    np.testing.assert_allclose(probability, [0.25, 0.25, 1])
    assert accepted.tolist() == [True, False, True]


def test_nan_and_minus_infinity_are_rejections_even_at_zero() -> None:
    accepted, probability = accept(np.array([np.nan, -np.inf, np.inf]), np.zeros(3))
    assert accepted.tolist() == [False, False, True]
    assert probability.tolist() == [0, 0, 1]


def test_select_takes_whole_rows() -> None:
    old, new = np.zeros((2, 2, 2)), np.ones((2, 2, 2))
    np.testing.assert_array_equal(select(np.array([True, False]), new, old), [[[1, 1], [1, 1]], [[0, 0], [0, 0]]])


def test_select_writes_into_what_it_is_given() -> None:
    accepted, old = np.array([True, False]), np.zeros((2, 3))
    proposed, out = np.ones((2, 3)), np.full((2, 3), 7.0)
    assert select(accepted, proposed, old, out=out) is out
    np.testing.assert_array_equal(out, [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(proposed, np.ones((2, 3)))
    assert select(accepted, proposed, old, out=proposed) is proposed
    np.testing.assert_array_equal(proposed, out)
    np.testing.assert_array_equal(old, np.zeros((2, 3)))
