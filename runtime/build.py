"""Builds TensorRT plans on the device that will run them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .arguments import check_folder
from .bundle import Bundle
from .errors import LoadError
from .manifest import Artifact
from .manifest_update import enter_artifact
from .plan_layers import layers_said
from .tensorrt_library import Plan, build_plan, fingerprint

__all__ = ["build_plans"]


def build_plans(
    path: str | Path,
    *,
    precisions: Sequence[str] | None = None,
    batch: tuple[int, int, int] = (1, 8, 64),
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Builds a plan from each typed ONNX score graph of a bundle and enters it in the manifest.

    A plan of full TensorRT runs on the device and version that built it and on no other, so it is made here, from
    the ONNX file that every bundle with the target onnx or tensorrt carries. An older plan of the same name is replaced. The
    timing cache stays in the bundle and makes the next build faster.

    Args:
        path: the bundle, which is written to.
        precisions: only these; all that have an ONNX file if left out.
        batch: smallest, most frequent and largest batch of the plan.
        progress: called with (what is being done, done, in all).

    Returns:
        A row for each plan: file, precision, library, device, note (how many layers are in INT8).

    Raises:
        UsageError: the bundle may not be written to, or another process goes on changing its manifest; an older plan stays then.
        LoadError: it has no ONNX file of a wanted precision.
        MissingBackend: neither tensorrt nor tensorrt_rtx is installed.
        EbmExportError: TensorRT cannot build the graph.
    """
    bundle = Bundle(path)
    sources = {a.precision: a for a in bundle.artifacts if a.target == "onnx" and a.role == "score"}
    wanted = list(sources) if precisions is None else list(precisions)
    missing = [precision for precision in wanted if precision not in sources]
    if missing or not wanted:
        raise LoadError(
            f"{path} has no file of the target onnx to build {', '.join(missing) or 'anything'} from; "
            f"it has {', '.join(sources) or 'none'}: export again with --target onnx"
            f"{''.join(f' --precision {precision}' for precision in wanted)}"
        )
    check_folder("bundle", bundle.path)  # building takes minutes
    made_by = fingerprint()
    cache = bundle.path / "timing.cache"
    rows = []
    toolchain = {key: value for key, value in made_by.to_dict().items() if value is not None}
    for precision in wanted:
        score = sources[precision]
        # A score graph is entered when what belongs to it is there.
        for source in filter(None, (bundle.prologue_of(score), bundle.sampler_of(score), score)):
            # A condition that all chains share is one row.
            sizes = (1, *batch[1:]) if source.role == "prologue" else batch
            plan = build_plan(bundle.file_of(source), batch=sizes, timing_cache=cache, progress=progress)
            if source.role == "sampler":  # which repeats its score graph
                plan = plan._replace(layers={})
            enter_artifact(bundle.path, _entry(bundle, plan, source, toolchain, sizes), plan.data)
            rows.append(
                {"file": _plan_of(source), "precision": precision, **toolchain, "note": layers_said(plan.layers)}
            )
    return rows


def _plan_of(source: Artifact) -> str:
    return f"{source.role}.{source.precision}.tensorrt.plan"


def _entry(
    bundle: Bundle, plan: Plan, source: Artifact, toolchain: dict[str, Any], batch: tuple[int, int, int]
) -> dict[str, Any]:
    """The plan's entry: what the graph is for is what the plan is for."""
    prologue, sampler = bundle.prologue_of(source), bundle.sampler_of(source)
    return {
        **dataclasses.asdict(source),
        "path": _plan_of(source),
        "target": "tensorrt",
        "prologue": "" if prologue is None else _plan_of(prologue),
        "sampler": "" if sampler is None else _plan_of(sampler),
        "sha256": hashlib.sha256(plan.data).hexdigest(),
        "files": {},
        "toolchain": toolchain,
        "options": {"batch": list(batch)},
        "status": "built, not run",
        "note": "; ".join(filter(None, ("built by ebm-run build", layers_said(plan.layers)))),
        "layers": plan.layers,
    }
