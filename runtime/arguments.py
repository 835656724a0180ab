"""Checks the arrays and keywords of a call once, so that engines and samplers need not."""

from __future__ import annotations

import difflib
import math
import numbers
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .config import SamplerConfig
from .errors import UsageError
from .manifest import TensorSpec
from .noise import CHAINS

__all__ = [
    "check_choice",
    "check_conditions",
    "check_count",
    "check_first",
    "check_folder",
    "check_mask",
    "check_range",
    "check_room",
    "check_seconds",
    "check_states",
    "check_writable",
    "split_keywords",
]

# Kinds of numpy dtype that become each type of a graph without a change of meaning. Rounding float64 to
# float32 is none: everything here is float32 in the end. Cutting floats to whole numbers would be one; those that are whole
# already, as tables of labels with a gap come, are taken.
_ACCEPTED_KINDS = {"float32": "fiu", "int64": "iu", "bool": "b"}


def check_writable(name: str, path: Path, *, replaced: bool = False) -> None:
    """Refuses a file that could not be written at the end of the work that it is to hold.

    Args:
        name: what the caller calls it.
        path: the file.
        replaced: whether another file takes its place, which its folder has to allow.

    Raises:
        UsageError: its folder is not there or may not be written to, or it is a folder itself.
    """
    if path.is_dir():
        raise UsageError(f"{name}: {path} is a folder; give a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"{name}: there is no folder {path.parent} to write {path.name} to")
    if not os.access(path if path.exists() and not replaced else path.parent, os.W_OK):
        raise UsageError(f"{name}: {path} may not be written to")


def check_folder(name: str, path: Path) -> None:
    """Refuses a folder that files could not be written to at the end of the work; one that is not there yet is made later.

    Args:
        name: what the caller calls it.
        path: the folder.

    Raises:
        UsageError: it is a file or may not be written to, or it is not there and could not be made.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UsageError(f"{name}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{name}: {there} may not be written to")


def check_count(name: str, value: Any) -> None:
    """Refuses what is no whole number of at least 1.

    Raises:
        UsageError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise UsageError(f"{name}: expected a whole number of at least 1, got {value!r}")


def check_first(value: Any, count: int, each: int = 1) -> None:
    """Refuses what is no number of a first chain of `count`, or of a first answer where each has several chains.

    Raises:
        UsageError: it is none.
    """
    below = CHAINS // int(each) - int(count)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < below:
        raise UsageError(f"first: expected a whole number of at least 0 and below {below}, got {value!r}")


def check_room(name: str, count: int, shape: tuple[int, ...]) -> None:
    """Refuses more states than any array holds; what is fewer, and does not fit into the memory, is a MemoryError.

    Raises:
        UsageError: there are too many.
    """
    if count * math.prod(shape) > sys.maxsize // np.float32().nbytes:
        raise UsageError(f"{name}: {count} states {_plain(shape)} are more than any array holds")


def check_seconds(name: str, value: Any) -> float:
    """Returns a number of seconds as a float.

    Raises:
        UsageError: it is none, or less than 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= 0:
        raise UsageError(f"{name}: expected a number of seconds of at least 0, got {value!r}")
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses what is none of the choices.

    Raises:
        UsageError: it is none.
    """
    if value not in choices:
        raise UsageError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_range(name: str, value: Any) -> tuple[float, float] | None:
    """Returns (lowest, highest) as floats; None where None is given.

    Raises:
        UsageError: these are not two numbers in order.
    """
    if value is None:
        return None
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not low < high:
        raise UsageError(f"{name}: expected (lowest, highest), got {value!r}")
    return low, high


def check_states(name: str, states: Any, shape: tuple[int, ...], count: int | None = None) -> np.ndarray:
    """Checks states given by a caller.

    Args:
        name: of the argument, for the message.
        states: anything numpy can turn into an array of real numbers.
        shape: shape S of one state.
        count: number of states there must be (a single one serves for all); None accepts any from 1.

    Returns:
        [B, *S] float32, C-contiguous; may be the caller's own array. B is `count` where that is given.

    Raises:
        UsageError: wrong type or shape.
    """
    array = _typed(name, states, "float32")
    if array.shape[1:] != shape or array.ndim != len(shape) + 1 or not len(array):
        raise UsageError(f"{name}: expected shape {_batched('B', shape)}, got {_plain(array.shape)}")
    if count is not None and len(array) != count:
        if len(array) != 1:
            raise UsageError(f"{name}: expected {count} states, or 1 for all chains, got {len(array)}")
        array = np.repeat(array, count, axis=0)
    return array


def check_mask(name: str, mask: Any, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Checks a mask of states given by a caller.

    Args:
        name: of the argument, for the message.
        mask: bool.
        shape: shape S of one state.
        count: number of states; the mask has as many rows, or one for all.

    Returns:
        [count, *S] or [1, *S] bool.

    Raises:
        UsageError: wrong type or shape.
    """
    array = _typed(name, mask, "bool")
    if array.shape[1:] != shape or array.ndim != len(shape) + 1 or len(array) not in (1, count):
        rows = str(count) if count == 1 else f"{count} or 1"
        raise UsageError(f"{name}: expected shape {_batched(rows, shape)}, got {_plain(array.shape)}")
    return array


def check_conditions(
    values: Mapping[str, Any], specs: Sequence[TensorSpec], count: int | None = None
) -> dict[str, np.ndarray]:
    """Checks conditioning arrays against what the model takes.

    Args:
        values: arrays by name, in the user's model or in the graph where the two differ.
        specs: the model's conditioning inputs.
        count: number of samples; each array has this many rows, or one that all samples share. None where samples take turns with
            any number of rows, from 1.

    Returns:
        Arrays by graph name, [count, ...] or [1, ...] (any number of rows without `count`), C-contiguous, in the graph's types.

    Raises:
        UsageError: a name is missing or unknown, or an array has another type or shape, or numbers that the model's
            own type cannot hold, or NaN or positive infinity: some libraries make a plausible answer of a broken observation,
            whose ReLU gives 0 for NaN. Negative infinity is what masks are made of.
    """
    known = [name for spec in specs for name in spec.names]
    for name in values:
        if name not in known:
            names = [spec.called for spec in specs]
            raise UsageError(f"{name!r} is not an input of this model; {_nearest(name, names, 'inputs')}")
    checked = {}
    for spec in specs:
        given = [name for name in spec.names if name in values]
        if not given:
            others = [other for other in specs if other is not spec and not set(other.names).intersection(values)]
            beside = "".join(
                f"; and so for {other.called!r}, {other.dtype} {_batched('B', other.shape)}" for other in others
            )
            number = "" if math.prod(spec.shape) != 1 else f", or --cond {spec.called}=NUMBER"
            raise UsageError(
                f"the model needs the conditioning input {spec.called!r}: pass {spec.called}= an array of {spec.dtype} "
                f"{_batched('B', spec.shape)}, B being {count or 'any number'}, or 1 where all samples share it (on the command line "
                f"--cond {spec.called}=FILE.npy{number}){beside}"
            )
        if len(given) > 1:
            raise UsageError(f"{given[0]!r} and {given[1]!r} are one input, by two names: pass one of them")
        array = _typed(given[0], values[given[0]], spec.dtype)
        if array.shape == (1,) and math.prod(spec.shape) == 1:  # one number, as --cond NAME=NUMBER gives it
            array = array.reshape(1, *spec.shape)
        fits = array.shape[1:] == spec.shape and array.ndim == len(spec.shape) + 1
        if not fits or not (len(array) if count is None else len(array) in (1, count)):
            rows = "M" if count is None else str(count) if count == 1 else f"{count} or 1"
            raise UsageError(f"{given[0]}: expected shape {_batched(rows, spec.shape)}, got {_plain(array.shape)}")
        _check_limits(given[0], array, spec.limits)
        _check_finite(given[0], array)
        checked[spec.name] = array
    return checked


def _check_limits(name: str, array: np.ndarray, limits: tuple[int, int] | None) -> None:
    if limits is None or not array.size:
        return
    low, high = int(array.min()), int(array.max())
    if low < limits[0] or high > limits[1]:
        raise UsageError(
            f"{name}: expected whole numbers from {limits[0]} to {limits[1]}, which is what the model takes; "
            f"got {low if low == high else f'{low} to {high}'}"
        )


def _check_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not (array < np.inf).all():  # false for NaN
        raise UsageError(f"{name}: expected numbers that float32 holds, got NaN or infinity among them")


def split_keywords(keywords: Mapping[str, Any], conditions: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tells sampler settings from conditioning arrays; a name that is both is a conditioning array.

    Args:
        keywords: what the caller passed.
        conditions: names of the model's conditioning inputs.

    Returns:
        (settings, conditioning values), each by name.

    Raises:
        UsageError: a keyword is neither; the nearest name is given.
    """
    conditions = tuple(conditions)
    settings, values = {}, {}
    for name, value in keywords.items():
        if name in conditions:
            values[name] = value
        elif name in SamplerConfig.field_names():
            settings[name] = value
        else:
            known = (*conditions, *SamplerConfig.field_names())
            raise UsageError(
                f"{name!r} is neither an input of this model nor a sampler setting; "
                f"{_nearest(name, known, 'inputs and settings')}"
            )
    return settings, values


def _typed(name: str, values: Any, dtype: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in _ACCEPTED_KINDS[dtype] and not (dtype == "int64" and _is_whole(array)):
        also = ", not all of them whole" if dtype == "int64" and array.dtype.kind == "f" else ""
        raise UsageError(f"{name}: expected {dtype}, got an array of {array.dtype}{also}")
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, which is looked for
        # order="C" alone keeps strides that happen to be harmless to numpy, such as those of a broadcast array.
        return np.ascontiguousarray(array, dtype=dtype) if array.ndim else array.astype(dtype)


def _is_whole(array: np.ndarray) -> bool:
    """Whether these are floats that are whole numbers, of a size up to which every one has a float64 of its own."""
    return array.dtype.kind == "f" and bool((np.abs(array) <= 2.0**53).all() and (np.trunc(array) == array).all())


def _nearest(name: str, known: Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"its {what} are {', '.join(known)}" if known else f"it has no other {what} than x"


def _batched(rows: str, shape: tuple[int, ...]) -> str:
    return f"[{', '.join([rows, *map(str, shape)])}]"


def _plain(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
