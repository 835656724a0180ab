"""Times one step of the engines in a bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .artifact_engine import engine_of
from .backends import backend_of
from .bundle import Bundle
from .engine import Engine
from .manifest import Manifest, TensorSpec
from .runnable import why_not

__all__ = ["time_bundle"]

_SECONDS = 0.5
"""Time given to each engine and batch, after a warm-up."""
_FEWEST, _MOST = 5, 500


def time_bundle(
    path: str | Path,
    *,
    batches: Sequence[int],
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Times the engine call of one Langevin step, which is nearly all of a step, for every engine that runs here.

    Args:
        path: the bundle.
        batches: batch sizes.
        threads: as for `load`.
        progress: called with (what is being done, done, in all).

    Returns:
        A row for each engine and batch: file, backend, precision, batch, and the median, 10th and 90th percentile of the
        time of one call in milliseconds.

    Raises:
        LoadError: the bundle or a file of it cannot be read.
    """
    bundle = Bundle(path)
    here = [artifact for artifact in bundle.artifacts if artifact.role == "score" and why_not(artifact) is None]
    rows = []
    for index, artifact in enumerate(here):
        if progress is not None:
            progress(f"timing {artifact.path}", index, len(here))
        backend = backend_of(artifact.target)
        engine = engine_of(bundle, artifact, backend, threads=threads)
        with engine:
            for batch in batches:
                low, median, high = _time(engine, _inputs(bundle.manifest, batch))
                rows.append(
                    {
                        "file": artifact.path,
                        "backend": backend,
                        "precision": artifact.precision,
                        "batch": batch,
                        "median ms": round(median, 4),
                        "p10 ms": round(low, 4),
                        "p90 ms": round(high, 4),
                    }
                )
    return rows


def _inputs(manifest: Manifest, batch: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch, *manifest.model.x.shape), dtype=np.float32)
    inputs = {"x": x, "grad_scale": np.ones(batch, np.float32)}
    return inputs | {spec.name: _condition(spec, batch, generator) for spec in manifest.model.cond}


def _condition(spec: TensorSpec, batch: int, generator: np.random.Generator) -> np.ndarray:
    shape = (batch, *spec.shape)
    if spec.dtype == "float32":
        return generator.standard_normal(shape, dtype=np.float32)
    return np.zeros(shape, spec.dtype)  # any table has a row 0


def _time(engine: Engine, inputs: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """10th percentile, median and 90th percentile of one call, in milliseconds."""
    for _ in range(3):
        engine.run(inputs)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _FEWEST or (len(times) < _MOST and time.perf_counter() - begun < _SECONDS):
        start = time.perf_counter()
        engine.run(inputs)
        times.append(1e3 * (time.perf_counter() - start))
    low, median, high = np.percentile(times, [10, 50, 90])
    return float(low), float(median), float(high)
