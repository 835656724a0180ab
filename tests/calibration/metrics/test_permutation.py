from __future__ import annotations

import numpy as np

from ebm_export.calibration.metrics.permutation import permutation_p_value, shuffled_labels


def test_labels_keep_the_counts_and_the_truth_stands_first() -> None:
    labels = shuffled_labels(3, 5, 20, 0)
    assert labels.shape == (21, 8)
    assert labels[0].tolist() == [True] * 3 + [False] * 5
    assert (labels.sum(axis=1) == 3).all()
    assert len(np.unique(labels, axis=0)) > 10
    np.testing.assert_array_equal(labels, shuffled_labels(3, 5, 20, 0))


def test_p_value_counts_the_truth_itself() -> None:
    assert permutation_p_value(np.array([5.0, 1.0, 2.0, 3.0])) == 0.25
    assert permutation_p_value(np.array([1.0, 1.0, 1.0])) == 1.0
    assert permutation_p_value(np.zeros(4)) == 1.0
