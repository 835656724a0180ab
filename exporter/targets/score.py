"""Writes a score graph for a target, as one file or as a prologue and the steps' part."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from ..shared_rows import led_by_one_row, may_be_one_row
from ..split import Split, split
from . import target
from .artifact import Artifact, Progress

_SHARING = ("onnxruntime", "openvino")
"""Targets whose files take one row of a feature for all samples. Of the others programs that are not ours, or plans that know one batch,
ask for a row for each."""

__all__ = ["companions", "engine_files_of", "files_of", "write_plan", "write_score"]


def write_score(
    name: str,
    model: ir.Model | Split,
    folder: Path,
    *,
    precision: str,
    batch: tuple[int, int, int],
    splits: bool = True,
    progress: Progress | None = None,
) -> Artifact:
    """Writes the files of a target; what does not depend on x goes into a prologue's, where it is worth a file.

    Args:
        name: of the target.
        model: the score graph in this precision, whole or in its two halves; not changed.
        folder: an existing folder.
        precision: fp32, fp16, bf16 ...
        batch: smallest, most frequent and largest batch.
        splits: False keeps a whole graph whole.
        progress: as for the target's `write`.

    Returns:
        The score graph's entry, with the prologue's in it.

    Raises:
        As the target's `write`.
    """
    halves = model if isinstance(model, Split) else split(model) if splits else None
    if halves is None:
        assert isinstance(model, ir.Model)
        return _write(name, ir.to_proto(model), folder, precision, batch, "score", progress)
    prologue = _write(name, ir.to_proto(halves.prologue), folder, precision, batch, "prologue", progress)
    features = [value.name or "" for value in halves.prologue.graph.outputs]
    shared = []
    if name in _SHARING:
        shared = may_be_one_row(halves.score.graph, features, joins_rows=name == "onnxruntime")
    steps = led_by_one_row(halves.score, shared)
    score = _write(name, ir.to_proto(steps), folder, precision, batch, "score", progress)
    score["reads"], prologue["reads"] = list(halves.keeps), list(halves.reads)
    if shared:
        score["shared"] = shared
    score["prologue"] = prologue
    return score


def write_plan(
    source: Artifact, folder: Path, *, batch: tuple[int, int, int], progress: Progress | None = None
) -> Artifact:
    """Builds the TensorRT plans of what the target onnx wrote; arguments and result as for `write_score`."""

    def built(part: Artifact) -> Artifact:
        graph = onnx.load(folder / part["path"])
        plan = _write("tensorrt", graph, folder, part["precision"], batch, part["role"], progress)
        # What the graph is for is the plan's too, and by how much it rounds.
        for name in ("reads", "schedule", "steps", "settings", "energy_rounding"):
            if name in part:
                plan[name] = part[name]  # type: ignore[literal-required]
        for name in ("prologue", "sampler"):
            if name in part:
                plan[name] = built(part[name])  # type: ignore[literal-required]
        return plan

    return built(source)


def files_of(artifact: Artifact) -> list[str]:
    """Names of all files of an entry, those of its prologue and its samplers included."""
    own = [artifact["path"], *artifact["files"]]
    return own + [name for other in companions(artifact) for name in files_of(other)]


def engine_files_of(artifact: Artifact) -> list[str]:
    """Names of the files that single steps need: the score graph's and its prologue's."""
    own = [artifact["path"], *artifact["files"]]
    return own + (engine_files_of(artifact["prologue"]) if "prologue" in artifact else [])


def companions(artifact: Artifact) -> list[Artifact]:
    """The entries that belong to a score graph's, in the order in which they are needed."""
    return [artifact[name] for name in ("prologue", "sampler", "standalone") if name in artifact]  # type: ignore[literal-required]


def _write(
    name: str,
    graph: onnx.ModelProto,
    folder: Path,
    precision: str,
    batch: tuple[int, int, int],
    role: str,
    progress: Progress | None,
) -> Artifact:
    # A condition that all samples share is one row of a prologue, whatever the batch.
    sizes = (1, *batch[1:]) if role == "prologue" else batch
    written: Artifact = target(name).write(
        graph, folder, precision=precision, batch=sizes, role=role, progress=progress
    )
    return written
