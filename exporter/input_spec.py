"""Shapes and dtypes of inputs, as text on the command line or as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..runtime.array_file import read_given_array
from ..runtime.errors import UsageError

__all__ = ["InputSpec", "converted", "parse_cond", "parse_shape"]

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.int64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32)
}


@dataclass(frozen=True)
class InputSpec:
    """One input: the shape of one sample (no batch) and the dtype: float32, bool or whole numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    def example(self, batch: int, seed: int) -> torch.Tensor:
        """A batch to look at a model with: standard normal, or zeros where numbers are whole (any table has row 0).

        Args:
            batch: number of samples.
            seed: of the normal numbers.

        Returns:
            [batch, *shape] of `dtype`.
        """
        sizes = (batch, *self.shape)
        if self.dtype is torch.float32:
            return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))
        return torch.zeros(sizes, dtype=self.dtype)


def parse_shape(text: str, option: str = "--shape") -> tuple[int, ...]:
    """Reads "1,28,28" as the shape of one sample; an empty text is a number per sample.

    Raises:
        UsageError: an entry is no whole number of at least 1.
    """
    entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    if not all(entry.isdecimal() and int(entry) > 0 for entry in entries):
        raise UsageError(f"{option}: expected sizes of one sample without the batch, such as 1,28,28; got {text!r}")
    return tuple(int(entry) for entry in entries)


def parse_cond(texts: Sequence[str]) -> dict[str, InputSpec | torch.Tensor]:
    """Reads "name=3,96,96" and "name:int64=10" (dtype float32 unless given; "label:int64=" is a number per sample), and "name=FILE.npy".

    Returns:
        By name a shape and a type, or the file's rows [R, ...] in the type that is given or else in the file's own.

    Raises:
        UsageError: a text has no name, an unknown dtype or no shape, a name comes twice, or a file is none of numbers.
    """
    found: dict[str, InputSpec | torch.Tensor] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        name, colon, dtype = (part.strip() for part in left.partition(":"))
        if not equals or not name.isidentifier():
            raise UsageError(
                f"--cond: expected NAME=SHAPE or NAME:DTYPE=SHAPE, such as obs=3,96,96, or NAME=FILE.npy; got {text!r}"
            )
        if colon and dtype not in _DTYPES:
            raise UsageError(f"--cond {name}: expected one of {', '.join(_DTYPES)} after the colon, got {dtype!r}")
        if name in found:
            raise UsageError(f"--cond: {name!r} is given twice")
        if value.strip().endswith(".npy"):
            found[name] = _rows(name, Path(value.strip()), _DTYPES.get(dtype))
        else:
            found[name] = InputSpec(parse_shape(value, f"--cond {name}"), _DTYPES.get(dtype, torch.float32))
    return found


def _rows(name: str, path: Path, dtype: torch.dtype | None) -> torch.Tensor:
    array = read_given_array(path, f"--cond {name}")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not (array < np.inf).all():  # a mask may hold negative infinity
            raise UsageError(f"--cond {name}: {path} holds NaN or infinity")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    own = getattr(torch, array.dtype.name, None)
    if own not in _DTYPES.values():
        raise UsageError(
            f"--cond {name}: {path} holds {array.dtype}; expected floats, booleans, or whole numbers of {', '.join(_DTYPES)}"
        )
    if not array.ndim or not len(array):
        raise UsageError(f"--cond {name}: {path}: expected rows, [R, ...], got shape {list(array.shape)}")
    rows = torch.from_numpy(np.ascontiguousarray(array))
    return rows if dtype is None else converted(name, rows, dtype)


def converted(name: str, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of a conditioning input in another type.

    Raises:
        UsageError: it cannot hold their numbers.
    """
    found = rows.to(dtype)
    if rows.dtype != dtype and not dtype.is_floating_point and not bool((found.to(rows.dtype) == rows).all()):
        raise UsageError(f"--cond {name}: its rows hold numbers that {str(dtype).removeprefix('torch.')} does not")
    return found
