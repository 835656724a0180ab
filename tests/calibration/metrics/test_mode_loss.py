from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.metrics import mode_loss
from ebm_export.calibration.metrics.mode_loss import surest_loss


def labels(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def test_one_clustering_is_fishers_test_for_all_its_clusters() -> None:
    found = surest_loss([(labels([60, 28, 12]), labels([70, 30, 0]))], 0.5)
    assert (found.clustering, found.mode, found.reference, found.candidate, found.tested) == (0, 2, 12, 0, 3)
    # C(100, 12) / C(200, 12) by hand, and three clusters were looked at.
    wanted = np.prod([(100 - i) / (200 - i) for i in range(12)])
    assert 0.3 * wanted < found.p_value <= 3 * wanted


def test_a_smaller_loss_counts_only_where_none_lost_so_much() -> None:
    """A common mode that surely lost a third of its mass, and a rare one that lost most of it."""
    first, second = labels([600, 380, 20]), labels([400, 596, 4])
    assert surest_loss([(first, second)], 0.5).mode == 2
    assert surest_loss([(first, second)], 0.2).mode == 0
    assert surest_loss([(first[:980], second[:996])], 0.5).mode == 0


def test_the_clustering_that_has_the_mode_for_itself_tells() -> None:
    """20 of the 50 samples of one cluster are gone; a finer one has all of them."""
    coarse = (labels([550, 50]), labels([570, 30]))
    fine = (labels([550, 30, 20]), labels([570, 30, 0]))
    found = surest_loss([coarse, fine, coarse], 0.5)
    assert (found.clustering, found.mode, found.tested) == (1, 2, 7)
    assert found.p_value < 1e-4


def test_shuffles_take_less_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same clustering ten times is one question, not ten."""
    pair = (labels([290, 10]), labels([300, 0]))
    bound = 20 * np.prod([(300 - i) / (600 - i) for i in range(10)])
    found = surest_loss([pair] * 10, 0.5).p_value
    assert bound / 20 < found < bound / 5
    monkeypatch.setattr(mode_loss, "_UNSURE", (1.0, 1.0))
    assert surest_loss([pair] * 10, 0.5).p_value == pytest.approx(bound)


def test_p_values_of_sets_without_a_difference_are_no_smaller_than_they_say() -> None:
    """Overlapping clusters of 300 numbers in two sets: at most as many below 0.05 and 0.2 as chance has, within 3 standard errors."""
    random = np.random.default_rng(0)
    found = []
    for seed in range(200):
        both = random.random(300)
        sizes = [np.minimum((both * count).astype(int), count - 1) for count in (4, 9, 12, 15)]
        pairs = [(own[:150], own[150:]) for own in sizes]
        found.append(surest_loss(pairs, 0.5, permutations=199, seed=seed).p_value)
    for level in (0.05, 0.2):
        assert np.mean(np.array(found) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 200)
    assert min(found) < 0.2
