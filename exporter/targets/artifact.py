"""The manifest's entry for one written file, as far as the writer of that file knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:  # Python 3.10 has it in typing_extensions alone, which mypy brings
    from typing_extensions import NotRequired

__all__ = ["Artifact", "Progress", "add_note"]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


class Artifact(TypedDict):
    """One entry of `artifacts` in manifest.json. The bundle's writer adds the checksums.

    Attributes:
        path: the file, relative to the bundle's folder.
        target: onnx, onnxruntime, openvino or tensorrt.
        precision: fp32, fp16, bf16 ...
        role: score, prologue or sampler.
        files: names of the files that belong beside it, such as an OpenVINO .bin.
        toolchain: name and version of what wrote it.
        options: what the backend must be given when it loads the file.
        status: "built, not run"; `manifest.mark_verified` makes it "verified".
        note: what a reader of the manifest should know about this file, or nothing.
        schedule: precisions over the steps that a search found for it.
        prologue: the entry of what makes the features that this one takes; the manifest has it beside this one, and its path here.
        reads: of a prologue and of what takes its features, the names of their conditioning inputs.
        shared: of what takes features, those that may come as one row for all samples.
        sampler: the entry of what takes several of its steps in one call, as for the prologue.
        standalone: the entry of a whole chain in one file.
        steps: of a sampler, the steps of one call; a whole chain has no such entry.
        settings: of a sampler, those it was made with.
        layers: of a TensorRT plan, see the manifest's `Artifact`.
        energy_rounding: of an INT8 or mixed artifact, see `rounded_energies.energy_rounding`.
        check: of a whole chain that was run, what was found; see `StandaloneCheck.found`.
    """

    path: str
    target: str
    precision: str
    role: str
    files: list[str]
    toolchain: dict[str, str]
    options: dict[str, Any]
    status: str
    note: str
    schedule: NotRequired[str]
    prologue: NotRequired[Artifact]
    reads: NotRequired[list[str]]
    shared: NotRequired[list[str]]
    sampler: NotRequired[Artifact]
    standalone: NotRequired[Artifact]
    steps: NotRequired[int]
    settings: NotRequired[dict[str, Any]]
    layers: NotRequired[dict[str, str]]
    energy_rounding: NotRequired[float]
    check: NotRequired[dict[str, float]]


def add_note(artifact: Artifact, said: str) -> None:
    """Puts a remark behind what an entry's note says already."""
    artifact["note"] = "; ".join(filter(None, [artifact["note"], said]))
