"""What the steps of a run consist of: the engine's calls, the noise that they wait for, and the rest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch_contestants import Run

from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.chain_random import ChainRandom

__all__ = ["parts_of"]

_CALLS = {
    "engine": [(OnnxRuntimeEngine, "run"), (OpenVinoEngine, "run")],
    # What a second thread has drawn meanwhile costs the loop what it waits for it.
    "noise": [(ChainRandom, "normal"), (ChainRandom, "normals")],
}


def parts_of(run: Run, steps: int, rounds: int) -> dict[str, float]:
    """Shares of the time of a run, timed in the run itself: a prologue's call counts as the engine's.

    Returns:
        "engine", "noise", and "update": clipping, bounds, the step, the gradient's scale, progress. Medians over the rounds.
    """
    found: dict[str, list[float]] = {"engine": [], "noise": [], "update": []}
    for _ in range(rounds):
        with _timed() as spent:
            begun = time.perf_counter()
            run(steps)
            whole = time.perf_counter() - begun
        for name in _CALLS:
            found[name].append(spent[name] / whole)
        found["update"].append(1 - sum(spent.values()) / whole)
    return {name: statistics.median(shares) for name, shares in found.items()}


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds spent in the calls of each kind from here on."""
    spent = dict.fromkeys(_CALLS, 0.0)
    patches = []
    for kind, methods in _CALLS.items():
        for owner, name in methods:
            patches.append(patch.object(owner, name, _counted(getattr(owner, name), spent, kind)))
    for each in patches:
        each.start()
    try:
        yield spent
    finally:
        for each in patches:
            each.stop()


def _counted(method: Callable[..., Any], spent: dict[str, float], kind: str) -> Callable[..., Any]:
    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return method(self, *arguments, **named)
        finally:
            spent[kind] += time.perf_counter() - begun

    return counted
