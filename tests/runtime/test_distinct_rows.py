from __future__ import annotations

import numpy as np

from ebm_export.runtime.distinct_rows import distinct_rows


def test_rows_are_the_same_where_all_arrays_are() -> None:
    a, b = np.array([[1, 2], [1, 2], [3, 4], [1, 2]], np.float32), np.array([0, 1, 0, 0])
    first, which = distinct_rows([a, b], 4)
    assert first.tolist() == [0, 1, 2] and which.tolist() == [0, 1, 2, 0]


def test_large_rows_too() -> None:
    rows = np.zeros((6, 40, 40), np.float32)
    rows[[2, 3, 5], 7, 7] = 1
    rows[4, 0, 0] = -0.0
    turned = np.moveaxis(np.ascontiguousarray(np.moveaxis(rows, 0, 2)), 2, 0)
    for array in (rows, turned):
        first, which = distinct_rows([array, np.array([0, 0, 0, 1, 0, 0])], 6)
        assert first.tolist() == [0, 2, 3, 4] and which.tolist() == [0, 0, 1, 2, 3, 1]


def test_bits_count() -> None:
    first, _ = distinct_rows([np.array([0.0, -0.0, np.nan, np.nan], np.float32)], 4)
    assert first.tolist() == [0, 1, 2]


def test_a_row_that_is_repeated_by_its_stride_is_one() -> None:
    shared = np.broadcast_to(np.ones((1, 5)), (3, 5))
    assert distinct_rows([shared], 3)[0].tolist() == [0]
    first, which = distinct_rows([shared, np.arange(3)], 3)
    assert first.tolist() == which.tolist() == [0, 1, 2]


def test_without_arrays_all_rows_are_one() -> None:
    first, which = distinct_rows([], 3)
    assert first.tolist() == [0] and which.tolist() == [0, 0, 0]
    assert distinct_rows([], 0)[0].tolist() == []
