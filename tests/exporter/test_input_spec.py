"""Shapes and dtypes as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
    ("text", "array", "dtype"),
    [
        ("obs={}", np.linspace(0, 1, 6).reshape(2, 3), torch.float32),
        ("obs={}", np.arange(6, dtype=np.uint8).reshape(2, 3), torch.uint8),
        ("obs:float32={}", np.arange(6, dtype=np.uint8).reshape(2, 3), torch.float32),
        ("obs={}", np.array([3, 1]), torch.int64),
        ("obs={}", np.array([True, False]), torch.bool),
        ("obs={}", np.zeros((2, 3), np.float16), torch.float32),
    ],
)
def test_rows_of_a_file(tmp_path: Path, text: str, array: np.ndarray, dtype: torch.dtype) -> None:
    np.save(tmp_path / "o.npy", array)
    rows = parse_cond([text.format(tmp_path / "o.npy")])["obs"]
    assert isinstance(rows, torch.Tensor)
    assert rows.dtype == dtype
    np.testing.assert_allclose(rows.numpy(), array)


@pytest.mark.parametrize(
    ("text", "array", "said"),
    [
        ("obs:uint8={}", np.array([3, 300]), "its rows hold numbers that uint8 does not"),
        ("obs:int64={}", np.array([0.7, 1.9]), "its rows hold numbers that int64 does not"),
        ("obs={}", np.array([0.7, np.nan]), "holds NaN or infinity"),
    ],
)
def test_numbers_that_would_change(tmp_path: Path, text: str, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "o.npy", array)
    with pytest.raises(UsageError, match=said):
        parse_cond([text.format(tmp_path / "o.npy")])


def test_files_of_another_byte_order(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([3, 258], dtype=">i4"))
    rows = parse_cond([f"obs={tmp_path / 'o.npy'}"])["obs"]
    assert isinstance(rows, torch.Tensor) and rows.tolist() == [3, 258]


def test_files_that_hold_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--cond obs: there is no file .*none\.npy$"):
        parse_cond([f"obs={tmp_path / 'none.npy'}"])
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(UsageError, match=r"holds <U1; expected floats, booleans, or whole numbers"):
        parse_cond([f"obs={tmp_path / 'text.npy'}"])
    np.save(tmp_path / "one.npy", np.float32(3))
    with pytest.raises(UsageError, match=r"expected rows, \[R, \.\.\.\], got shape \[\]"):
        parse_cond([f"obs={tmp_path / 'one.npy'}"])


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["obs"], "NAME:DTYPE=SHAPE, such as obs=3,96,96, or NAME=FILE.npy; got 'obs'"),
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
