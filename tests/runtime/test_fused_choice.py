"""Fused steps that were asked for and cannot be taken are told of."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.fused_choice import FusedChoice
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
            assert asked.open_for(MADE_WITH.replace(**settings), 4, worth=True) is None
        for unasked in (choice(None), choice(False)):
            assert unasked.open_for(MADE_WITH.replace(**settings), 4, worth=True) is None
    assert caplog.messages == [f"steps are taken one by one: {why}"]


def test_those_for_deadlines_say_that_they_are(caplog: pytest.LogCaptureFixture) -> None:
    assert choice(True, each=True).open_for(MADE_WITH.replace(steps=7), 4, worth=True) is None
    assert caplog.messages[0].startswith("with a deadline or in a stream, steps are taken one by one: ")


def test_nothing_is_told_where_they_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    assert choice(True).open_for(MADE_WITH, 4, worth=True) is not None
    assert not caplog.messages
