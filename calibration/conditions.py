"""Conditioning inputs for the chains of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..runtime.arguments import check_conditions
from ..runtime.bundle import Bundle
from ..runtime.errors import UsageError

__all__ = ["conditions_for"]


def conditions_for(bundle: Bundle, n: int, given: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Returns a row of every conditioning input for each of n chains.

    Chain i gets row i modulo the number of rows, so chains of the same number meet the same condition in every set.

    Args:
        bundle: its golden data have the rows that the export was verified with, for inputs that are not given.
        n: number of chains.
        given: arrays by name, in the user's model or in the graph, each [M, ...] with any M from 1.

    Returns:
        [n, ...] by the graph's names, in its types.

    Raises:
        UsageError: an array is given that the model does not take, or is needed and not there; or what `check_conditions` says of it.
        LoadError: the bundle's golden data were changed.
    """
    given = dict(given or {})
    specs = bundle.model.cond
    if unknown := [name for name in given if name not in bundle.model.cond_names]:
        takes = ", ".join(spec.called for spec in specs) or "no conditioning input"
        raise UsageError(f"--cond {unknown[0]}: the model {bundle.model.name} takes {takes}")
    found = check_conditions(given, [spec for spec in specs if not given.keys().isdisjoint(spec.names)])
    missing = [spec for spec in specs if spec.name not in found]
    if missing:
        if not bundle.has_golden:
            raise UsageError(
                f"{bundle.path} holds no conditioning inputs (it was exported with --no-verify): give them with "
                + " ".join(f"--cond {spec.called}=FILE.npy" for spec in missing)
            )
        golden = bundle.golden()
        found |= {spec.name: golden[f"cond.{spec.name}"][0] for spec in missing}
    return {spec.name: found[spec.name][np.arange(n) % len(found[spec.name])] for spec in specs}
