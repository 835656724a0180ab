"""Engines of low precision that gain nothing on float32, or hardly."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..runtime.engine import Engine

__all__ = ["hardly_faster", "warn_before_samples"]

_GAIN = 0.1
"""Share of its steps a second by which an engine of low precision beats float32 from which it gets no word: less may be the machine's
noise, and hardly pays for other samples."""
_ROUNDS = 15
_LOG = logging.getLogger("ebm_export")


def hardly_faster(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Says which engines of low precision gain nothing on float32 of the same backend, or hardly, as on a CPU without instructions for them.

    Args:
        rows: as `time_bundle` returns them, of one batch size.
    """
    exact = {row["backend"]: row["median ms"] for row in rows if row["precision"] == "fp32"}
    said = []
    for row in rows:
        gain = exact.get(row["backend"], math.inf) / row["median ms"] - 1
        if row["precision"] == "fp32" or gain >= _GAIN:
            continue
        percent = max(0, round(100 * gain))
        said.append(
            f"{row['file']} is {f'only {percent} %' if percent else 'no'} faster than fp32 on this machine: {row['median ms']:.3g} against "
            f"{exact[row['backend']]:.3g} ms a step at a batch of {row['batch']}"
        )
    return said


def warn_before_samples(path: str, precision: str, engine: Engine, fp32: Engine, inputs: dict[str, np.ndarray]) -> None:
    """Says that an engine is hardly faster before minutes go into its samples, where that is so.

    Nothing is said where the two are of different backends. The table at the end tells of whole steps, as timed then.

    Args:
        path: of the engine's artifact.
        precision: of the engine.
        engine: open, what changes from step to step alone.
        fp32: the same in float32.
        inputs: a batch for both.
    """
    if engine.backend != fp32.backend:
        return
    batch = len(inputs["x"])
    times: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):  # in turns, so that what slows the machine slows both
        for mine, one in zip(times, (fp32, engine), strict=True):
            begun = time.perf_counter()
            one.run(inputs)
            mine.append(1e3 * (time.perf_counter() - begun))
    exact, low = (float(np.median(mine[1:])) for mine in times)  # the first call of a batch compiles for it
    rows = [
        {"file": path, "backend": "", "precision": name, "median ms": ms, "batch": batch}
        for name, ms in (("fp32", exact), (precision, low))
    ]
    for said in hardly_faster(rows):
        _LOG.warning(
            "%s; its samples are judged all the same, as it may be on another: if this is the one, Ctrl-C, and an export without %s, save the time",
            said,
            precision,
        )
