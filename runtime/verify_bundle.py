"""Repeats the export's comparison with PyTorch on the device that a bundle came to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .artifact_engine import engine_of
from .backends import backend_of
from .bundle import GOLDEN, Bundle
from .errors import UsageError
from .manifest import VERIFIED
from .manifest_update import set_status
from .runnable import why_not
from .verify import check_engine

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
        A row for each artifact: file, result ("passed", "failed" or "not run"), the worst relative error, cosine and
        energy error over all stages and batch sizes, and a note that says why it was not run.

    Raises:
        LoadError: the bundle or a file of it cannot be read.
        UsageError: nothing in the bundle fits `backend` and `precision`.
    """
    bundle = Bundle(path)
    chosen = [
        artifact
        for artifact in bundle.artifacts
        if backend in (None, backend_of(artifact.target)) and precision in (None, artifact.precision)
    ]
    if not chosen:
        raise UsageError(f"{path} has no engine for backend {backend or 'any'} and precision {precision or 'any'}")
    if not (bundle.path / GOLDEN).exists():
        raise UsageError(
            f"{path} was exported with --no-verify, so it holds no answers of PyTorch to compare with: export it again"
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
            stages = check_engine(engine, golden, artifact.precision)
        figures = (
            max(stage.relative_error for stage in stages),
            min(stage.cosine for stage in stages),
            max(stage.energy_error for stage in stages),
        )
        passed = all(stage.passed for stage in stages)
        result = "passed" if passed else "failed"
        # A plan that was built here, perhaps on the way into this engine: from now on `load` picks it.
        now = next(a.status for a in Bundle(path).artifacts if a.path == artifact.path)
        if passed and now != VERIFIED and os.access(bundle.path, os.W_OK):
            set_status(bundle.path, artifact.path, VERIFIED)
        rows.append({"file": artifact.path, "result": result, **dict(zip(_FIGURES, figures, strict=True)), "note": ""})
    return rows


_FIGURES = ("relative error", "cosine", "energy error")
