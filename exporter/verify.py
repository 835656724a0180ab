"""Compares every engine that can run here with PyTorch before it is kept."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..runtime.backends import available, backend_of
from ..runtime.errors import EbmExportError
from ..runtime.verify import UNLIMITED, StageResult, Tolerance, check_engine, tolerance
from .bisection import bisect
from .score_graph import ScoreGraph
from .targets import Artifact, target
from .targets.refusal import as_refusals
from .whole_graph import describe_whole
from .written_engine import written_engine

__all__ = ["Verification", "describe_failure", "measure_artifact", "verify_artifact"]


@dataclass(frozen=True)
class Verification:
    """What a comparison with PyTorch found."""

    path: str
    precision: str
    stages: Sequence[StageResult]
    reason: str
    """Why the engine was not run, or "" where it was."""
    limits: Tolerance | None = None
    """What applied, where it is not what the precision says."""

    @property
    def passed(self) -> bool:
        """True where the engine ran and every stage is within tolerance."""
        return not self.reason and all(result.passed for result in self.stages)

    @property
    def applied(self) -> Tolerance:
        """What the engine may be off by."""
        return self.limits or tolerance(self.precision)

    def to_dict(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {
            "path": self.path,
            "precision": self.precision,
            "tolerance": self.applied.to_dict(),
            "stages": [result.to_dict() for result in self.stages],
            "passed": self.passed,
        }


def verify_artifact(artifact: Artifact, folder: Path, golden: dict[str, np.ndarray]) -> Verification:
    """Runs one artifact over the golden states.

    A typed ONNX file of a precision that no CPU library computes in is run with its roundings written out
    (`exporter.emulate`): what an engine that rounds every result would return.

    Args:
        artifact: its entry, with the path relative to `folder`.
        folder: where its files are.
        golden: as `make_golden` returns it.

    Raises:
        UnsupportedOperation: the engine's library does not load or run it.
    """
    return _checked(artifact, folder, golden, None)


_ROOM = 1.5  # a device rounds in other places: its engine may be off by half as much again


def measure_artifact(artifact: Artifact, folder: Path, golden: dict[str, np.ndarray]) -> Verification:
    """Runs an INT8 or mixed artifact over the golden states and sets the limits that hold it to this on a device.

    Whether it is good enough is for the gate to say, from its samples. Arguments are those of `verify_artifact`.
    """
    found = _checked(artifact, folder, golden, UNLIMITED)
    if found.reason:
        return found
    error = max(stage.relative_error for stage in found.stages)
    cosine = min(stage.cosine for stage in found.stages)
    limits = Tolerance(
        relative_error=_ROOM * error + 1e-2,
        cosine=max(-1.0, 1 - _ROOM * (1 - cosine) - 1e-3),
        energy_error=_ROOM * max(stage.energy_error for stage in found.stages) + 1e-2,
        least_size=UNLIMITED.least_size,
        least_spread=UNLIMITED.least_spread,
    )
    return dataclasses.replace(found, limits=limits)


def _checked(artifact: Artifact, folder: Path, golden: dict[str, np.ndarray], limits: Tolerance | None) -> Verification:
    backend = backend_of(artifact["target"])
    missing = available(backend)
    if missing is not None:
        return Verification(artifact["path"], artifact["precision"], [], missing)
    with (
        as_refusals(),
        tempfile.TemporaryDirectory() as scratch,
        written_engine(artifact, folder, Path(scratch)) as engine,
    ):
        stages = check_engine(engine, golden, artifact["precision"], limits)
    return Verification(artifact["path"], artifact["precision"], stages, "")


def describe_failure(
    found: Verification,
    artifact: Artifact,
    model: ir.Model,
    traced: ScoreGraph,
    golden: dict[str, np.ndarray],
    progress: Callable[[str, int, int], None] | None = None,
) -> str:
    """Says which stage of a failed engine is off, how far, and which operation is the first to differ.

    Args:
        found: the failed verification.
        artifact: the entry it belongs to.
        model: the graph, in the artifact's precision, that the artifact was written from.
        traced: the graph that it was lowered from.
        golden: the states.
        progress: called for every piece that is built.
    """
    limit = tolerance(found.precision)
    worst = min((result for result in found.stages if not result.passed), key=lambda result: result.shared)
    batch = f"batch {worst.batch}{' with one condition for all' if worst.shared else ''}"
    text = (
        f"{found.path} disagrees with PyTorch: at stage {worst.stage} (step {worst.step}, {batch}) the "
        f"gradient's relative error is {worst.relative_error:.2g} and its cosine {worst.cosine:.6f}, the energy's "
        f"error is {worst.energy_error:.2g}; allowed: {limit.describe()}"
    )
    if worst.shared:  # pieces are given a condition for each sample
        return f"{text}. With a condition for each sample it agrees"
    first = _first_difference(found, worst, artifact, model, traced, golden, limit, progress)
    return f"{text}. {first}"


def _first_difference(
    found: Verification,
    worst: StageResult,
    artifact: Artifact,
    model: ir.Model,
    traced: ScoreGraph,
    golden: dict[str, np.ndarray],
    limit: Tolerance,
    progress: Callable[[str, int, int], None] | None,
) -> str:
    rows = np.resize(np.arange(golden["x"].shape[1]), traced.batch)
    inputs = {"x": golden["x"][worst.stage][rows], "grad_scale": golden["grad_scale"][worst.stage][rows]}
    inputs |= {
        name.removeprefix("cond."): array[worst.stage][rows]
        for name, array in golden.items()
        if name.startswith("cond.")
    }
    writer, count = target(artifact["target"]), 0

    def run(piece: ir.Model) -> np.ndarray:
        nonlocal count
        count += 1
        if progress is not None:
            progress("looking for the first operation that differs", count, 0)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            entry = writer.write(
                ir.to_proto(piece), folder, precision=artifact["precision"], batch=(1, traced.batch, traced.batch)
            )
            engine = written_engine(entry, folder, folder)
            with engine:
                return engine.run({name: np.ascontiguousarray(array) for name, array in inputs.items()})["grad"].copy()

    try:
        first = bisect(model, traced, inputs, run, limit.relative_error)
    except (EbmExportError, RuntimeError) as error:
        return f"The first operation that differs could not be found: {error}"
    if first is None:
        return describe_whole(worst, found.precision, limit, traced, golden, inputs)
    return f"The first operation that differs is {first.origin} (node {first.node}, off by {first.relative_error:.2g})"
