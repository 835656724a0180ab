"""Conditioning inputs for the chains of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..runtime.bundle import Bundle
from ..runtime.errors import UsageError

__all__ = ["conditions_for"]


def conditions_for(bundle: Bundle, n: int, given: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Returns a row of every conditioning input for each of n chains.

    Chain i gets row i modulo the number of rows, so chains of the same number meet the same condition in every set.

    Args:
        bundle: its golden data have the rows that the export was verified with, for inputs that are not given.
        n: number of chains.
        given: arrays by name, each [M, ...] with any M from 1.

    Returns:
        [n, ...] by name.

    Raises:
        UsageError: an array is given that the model does not take, or is needed and not there.
        LoadError: the bundle's golden data were changed.
    """
    given = dict(given or {})
    specs = bundle.model.cond
    if unknown := [name for name in given if name not in {spec.name for spec in specs}]:
        takes = ", ".join(spec.name for spec in specs) or "no conditioning input"
        raise UsageError(f"--cond {unknown[0]}: the model {bundle.model.name} takes {takes}")
    missing = [spec.name for spec in specs if spec.name not in given]
    golden: dict[str, np.ndarray] = {}
    if missing:
        if not bundle.has_golden:
            raise UsageError(
                f"{bundle.path} holds no conditioning inputs (it was exported with --no-verify): give them with "
                + " ".join(f"--cond {name}=FILE.npy" for name in missing)
            )
        golden = bundle.golden()
    rows = {}
    for spec in specs:
        array = given[spec.name] if spec.name in given else golden[f"cond.{spec.name}"][0]
        if array.shape[1:] != spec.shape or not len(array):
            wanted = ", ".join(["M", *map(str, spec.shape)])
            raise UsageError(f"--cond {spec.name}: expected shape [{wanted}], got {list(array.shape)}")
        rows[spec.name] = array[np.arange(n) % len(array)]
    return rows
