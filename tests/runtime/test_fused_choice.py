"""Fused steps that were asked for and cannot be taken are told of."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.fused_choice import FusedChoice, nearby
from ebm_export.runtime.fused_steps import Fused

MADE_WITH = SamplerConfig(steps=100, step_size=0.1, grad_clip=0.5)


def choice(asked: bool | None, *, each: bool = False) -> FusedChoice:
    fused = Fused(FunctionEngine(lambda x: (x.sum(1), x)), 8, MADE_WITH, each=each)
    return FusedChoice(fused, asked, None, lambda *_: True)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sampler": "mala"}, "the sampler 'mala' accepts and rejects, which no graph of fixed steps can"),
        (
            {"grad_clip": None, "bounds": (-1, 1)},
            "the graph was exported with grad_clip=0.5 and not None, bounds=None and not (-1.0, 1.0)",
        ),
        ({"steps": 7}, "the graph takes 8 steps at once, and the chain has 7"),
    ],
)
def test_why_there_are_none_is_told_once(settings: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = choice(True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert asked.open_for(MADE_WITH.replace(**settings), 4, calls=math.inf) is None
        for unasked in (choice(None), choice(False)):
            assert unasked.open_for(MADE_WITH.replace(**settings), 4, calls=math.inf) is None
    assert caplog.messages == [f"steps are taken one by one: {why}"]


def test_those_for_deadlines_say_that_they_are(caplog: pytest.LogCaptureFixture) -> None:
    assert choice(True, each=True).open_for(MADE_WITH.replace(steps=7), 4, calls=math.inf) is None
    assert caplog.messages[0].startswith(
        "with a deadline, an energy_range or in a stream, steps are taken one by one: "
    )


@pytest.mark.parametrize(
    ("measured", "answers"),
    [
        ({}, {1: None, 8: None}),
        ({1: True}, {1: True, 2: True, 3: None}),
        ({1: True, 8: True}, {1: True, 3: True, 16: True, 17: None, 512: None}),
        ({1: True, 8: False}, {2: True, 3: None, 4: False, 16: False, 17: None}),
        ({8: False, 12: True}, {9: False, 11: True, 4: False, 3: None, 24: True}),
    ],
)
def test_a_measurement_counts_near_its_batch(measured: dict[int, bool], answers: dict[int, bool | None]) -> None:
    assert {batch: nearby(measured, batch) for batch in answers} == answers


@pytest.mark.parametrize("times_faster", [True, False])
def test_elsewhere_both_ways_are_timed(times_faster: bool) -> None:
    asked = []

    def time(fused: Fused, config: SamplerConfig, batch: int) -> bool:
        asked.append(batch)
        return times_faster

    fused = Fused(FunctionEngine(lambda x: (x.sum(1), x)), 8, MADE_WITH)
    choice = FusedChoice(fused, None, {1: not times_faster, 8: not times_faster}, time)
    found = [
        choice.open_for(MADE_WITH, batch, calls=calls) for batch, calls in ((8, math.inf), (512, 0), (512, math.inf))
    ]
    assert [one is not None for one in found] == [not times_faster, False, times_faster]
    assert asked == [512]


def test_runs_that_are_long_together_are_timed() -> None:
    asked = []
    fused = Fused(FunctionEngine(lambda x: (x.sum(1), x)), 8, MADE_WITH)
    choice = FusedChoice(fused, None, None, lambda fused, config, batch: bool(asked.append(batch)) or True)
    opened = [choice.open_for(MADE_WITH, batch, calls=1000) is not None for batch in (4, 4, 4, 9, 4, 4, 9)]
    assert opened == [False, False, False, False, False, True, False] and asked == [4]


def test_a_control_loop_is_never_held_up() -> None:
    fused = Fused(FunctionEngine(lambda x: (x.sum(1), x)), 8, MADE_WITH)
    choice = FusedChoice(fused, None, None, lambda *_: pytest.fail("is timed"))
    assert not any(choice.open_for(MADE_WITH, 4, calls=100) for _ in range(1000))


def test_nothing_is_told_where_they_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    assert choice(True).open_for(MADE_WITH, 4, calls=math.inf) is not None
    assert not caplog.messages
