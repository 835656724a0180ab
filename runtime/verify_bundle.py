"""Repeats the export's comparison with PyTorch on the device that a bundle came to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import check_choice
from .artifact_engine import engine_of, fused_of
from .backends import BACKENDS, backend_of
from .bundle import Bundle
from .device_loop_check import LARGEST_GAP, check_device_loop
from .engine import Engine
from .errors import LoadError, UsageError
from .fused_check import why_steps_differ
from .manifest import NOT_JUDGED, VERIFIED, Artifact
from .manifest_update import set_status
from .runnable import why_not
from .verify import UNLIMITED, Tolerance, check_engine, is_judged

__all__ = ["verify_bundle"]


def verify_bundle(
    path: str | Path,
    *,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Runs every engine of a bundle over the states that PyTorch's answers are known for.

    Args:
        path: the bundle.
        backend: only this one; every one if left out.
        precision: only this one; every one if left out.
        threads: as for `load`.
        progress: called with (what is being done, done, in all).

    Returns:
        A row for each artifact: file, result ("passed", "failed", "measured" or "not run"), the worst relative error,
        cosine and energy error over all stages and batch sizes, and a note that says why it was not run or is only
        measured: INT8 and mixed engines have no tolerance, and fail only where a number is not finite. An engine whose
        chains can stay on its device also fails where they end elsewhere than those on the host, and one with fused steps
        where these end elsewhere than single ones.

    Raises:
        LoadError: the bundle or a file of it cannot be read, or nothing in it fits `backend` and `precision`.
        UsageError: there is no such backend, or the bundle holds no answers of PyTorch.
    """
    if backend is not None:
        check_choice("backend", backend, BACKENDS)
    bundle = Bundle(path)
    chosen = [
        artifact
        for artifact in bundle.artifacts
        if artifact.role == "score"
        and backend in (None, backend_of(artifact.target))
        and precision in (None, artifact.precision)
    ]
    if not chosen:
        words = ("nothing", precision, f"for backend {backend!r}" if backend else None, "to verify")
        held = ", ".join(f"{a.target} {a.precision}" for a in bundle.artifacts if a.role == "score") or "no artifact"
        raise LoadError(f"the bundle {path} has {' '.join(filter(None, words))}; it holds {held}")
    if not bundle.has_golden:
        raise UsageError(
            f"{path} was exported with --no-verify, so it holds no answers of PyTorch to compare with: export it without"
        )
    golden = bundle.golden()
    rows = []
    for index, artifact in enumerate(chosen):
        if progress is not None:
            progress(f"verifying {artifact.path}", index, len(chosen))
        reason = why_not(artifact)
        if reason is not None:
            rows.append({"file": artifact.path, "result": "not run", **dict.fromkeys(_FIGURES), "note": reason})
            continue
        engine = engine_of(bundle, artifact, backend_of(artifact.target), threads=threads)
        with engine:
            compared = _files_of(bundle, artifact)
            limits = None if is_judged(artifact.precision) else _measured_limits(bundle, artifact)
            stages = check_engine(engine, golden, artifact.precision, limits)
            gap = check_device_loop(engine, bundle.model, bundle.sampler, golden)
            differ = _why_fused_differ(bundle, artifact, engine, golden, threads)
        figures = (
            max(stage.relative_error for stage in stages),
            min(stage.cosine for stage in stages),
            max(stage.energy_error for stage in stages),
        )
        passed = all(stage.passed for stage in stages) and np.isfinite(figures).all()
        if gap is not None and gap > LARGEST_GAP:
            passed = False
        if differ is not None:
            passed = False
        result = ("measured" if limits is UNLIMITED else "passed") if passed else "failed"
        notes = []
        if limits is not None:
            notes.append(f"{artifact.precision} is judged by its samples (ebm-compare)")
        if limits is not None and limits is not UNLIMITED:
            notes.append("here it is as far off as where it was exported, or at most half as much again")
        if gap is not None:
            notes.append(f"chains on the device end {gap:.1e} of their way from those on the host")
        if differ is not None:
            notes.append(f"{artifact.sampler} {differ}")
        if result == "passed" and (why := _not_entered(bundle, artifact, compared)) is not None:
            notes.append(why)
        rows.append(
            {
                "file": artifact.path,
                "result": result,
                **dict(zip(_FIGURES, figures, strict=True)),
                "note": "; ".join(notes),
            }
        )
    return rows


def _files_of(bundle: Bundle, artifact: Artifact) -> dict[str, str]:
    """The sha256 of a score graph's file and of those that belong to it, by path."""
    names = (artifact.prologue, artifact.sampler, artifact.path)
    return {entry.path: entry.sha256 for entry in bundle.artifacts if entry.path in names}


def _not_entered(bundle: Bundle, artifact: Artifact, compared: dict[str, str]) -> str | None:
    """Enters that an artifact agrees with PyTorch, so that `load` picks a plan that was built here.

    An INT8 engine that no gate has judged stays what it is, and nothing changes in a bundle that cannot be written to.

    Args:
        bundle: which it is in.
        artifact: the score graph.
        compared: its files as they were compared, those that were built on the way into the engine among them.

    Returns:
        Why that could not be entered; None where it was, or where there is nothing to enter.
    """
    now = next(entry.status for entry in Bundle(bundle.path).artifacts if entry.path == artifact.path)
    if now in (VERIFIED, NOT_JUDGED) or not os.access(bundle.path, os.W_OK):
        return None
    try:
        if set_status(bundle.path, compared, VERIFIED):
            return None
    except UsageError as error:  # the manifest is busy, and the figures are no less true
        return f"its status stays {now!r}, as it could not be written: {error}"
    return "it has been built anew meanwhile, and what was built then is not compared: verify again"


def _why_fused_differ(
    bundle: Bundle, artifact: Artifact, engine: Engine, golden: Mapping[str, np.ndarray], threads: int | None
) -> str | None:
    """What is off with an engine's fused steps; None where nothing is, or where it has none."""
    for each in (False, True):
        fused = fused_of(bundle, artifact, backend_of(artifact.target), threads=threads, each=each)
        if fused is None or not fused.fits(bundle.sampler.replace(steps=fused.count, warmup=0)):
            continue  # there is none, or the settings were changed since, and nobody uses it
        with contextlib.closing(fused):
            fused.open()
            found = why_steps_differ(engine, fused, bundle.sampler, golden, artifact.precision)
        if found is not None:
            return found
    return None


def _measured_limits(bundle: Bundle, artifact: Artifact) -> Tolerance:
    """What was measured where the artifact was exported, with some room.

    An INT8 engine is judged by its samples, which takes too long on a device. Its gradients there must be off by no more
    than they were where it was judged, by itself or, for a plan that was not run there, as the graph it was built from.
    """
    entries = {entry.get("path"): entry.get("tolerance") for entry in bundle.manifest.verification}
    found = entries.get(artifact.path) or entries.get(f"{artifact.role}.{artifact.precision}.onnx")
    return Tolerance(**found) if found else UNLIMITED


_FIGURES = ("relative error", "cosine", "energy error")
