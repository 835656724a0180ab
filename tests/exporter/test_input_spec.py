"""Shapes and dtypes as text."""

from __future__ import annotations

import pytest
import torch

from ebm_export.exporter.input_spec import InputSpec, parse_cond, parse_shape
from ebm_export.runtime.errors import UsageError


def test_parse_shape() -> None:
    assert parse_shape("1,28,28") == (1, 28, 28)
    assert parse_shape(" 2 ") == (2,)
    assert parse_shape("") == ()


@pytest.mark.parametrize("text", ["1x28", "1,,2", "0", "-1,3", "a"])
def test_parse_shape_errors(text: str) -> None:
    with pytest.raises(UsageError, match=f"--shape: expected sizes of one sample without the batch.*got '{text}'"):
        parse_shape(text)


def test_parse_cond() -> None:
    assert parse_cond(["obs=3,96,96", "label:int64=", "mask:bool=4", "image:uint8=3,8,8"]) == {
        "obs": InputSpec((3, 96, 96)),
        "label": InputSpec((), torch.int64),
        "mask": InputSpec((4,), torch.bool),
        "image": InputSpec((3, 8, 8), torch.uint8),
    }


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["obs"], "expected NAME=SHAPE or NAME:DTYPE=SHAPE, such as obs=3,96,96; got 'obs'"),
        (["a b=3"], "expected NAME=SHAPE"),
        (["obs:int4=3"], "--cond obs: expected one of float32, int64, bool, uint8.* after the colon, got 'int4'"),
        (["obs=3", "obs=4"], "'obs' is given twice"),
        (["obs=x"], "--cond obs: expected sizes"),
    ],
)
def test_parse_cond_errors(texts: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse_cond(texts)


def test_example() -> None:
    assert torch.equal(InputSpec((2,)).example(3, 0), InputSpec((2,)).example(3, 0))
    assert InputSpec((2,)).example(3, 0).shape == (3, 2)
    assert torch.equal(InputSpec((), torch.int64).example(3, 0), torch.zeros(3, dtype=torch.int64))
