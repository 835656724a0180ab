from __future__ import annotations

import math

from ebm_export.calibration.pareto import pareto_front


def test_what_is_beaten_in_everything_is_off_the_front() -> None:
    #           quick and rough, slow and good, between, slow and rough
    assert pareto_front([(1, 9), (9, 1), (4, 4), (9, 9)]) == [True, True, True, False]


def test_a_tie_in_one_number_is_decided_by_the_other() -> None:
    assert pareto_front([(1, 2), (1, 3), (2, 2)]) == [True, False, False]


def test_equals_share_the_front() -> None:
    assert pareto_front([(1, 1), (1, 1)]) == [True, True]


def test_what_was_not_measured_is_on_no_front_and_beats_nothing() -> None:
    assert pareto_front([None, (0, math.nan), (math.inf, 0), (5, 5)]) == [False, False, False, True]


def test_nothing_has_no_front() -> None:
    assert pareto_front([]) == []
