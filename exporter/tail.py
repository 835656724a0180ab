"""Engines in a low type that the last steps of a chain may run on, where INT8 ran those before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .calibrated import CalibratedArtifacts
from .precision import typed
from .targets import Artifact
from .targets.score import files_of, write_score
from .verify import Verification, verify_artifact

__all__ = ["Tail", "low_types", "write_tail"]


@dataclass
class Tail:
    """A low-precision engine for the end of chains."""

    artifact: Artifact
    folder: Path
    """Where its files are."""
    verification: Verification | None
    """None where nothing is compared with PyTorch, and for an engine that the bundle has already."""

    def move(self, folder: Path) -> None:
        """Moves its files."""
        for file in files_of(self.artifact):
            (self.folder / file).replace(folder / file)
        self.folder = folder


def low_types(name: str) -> list[str]:
    """The low types in which a target is faster than in float32: for what is not in INT8, and for the last steps of a chain."""
    if name in ("onnx", "tensorrt"):
        return ["fp16"]
    if name != "openvino":
        return []
    import openvino

    return ["bf16"] if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else []


def write_tail(artifacts: CalibratedArtifacts, name: str, precision: str, folder: Path) -> Tail | None:
    """Writes an engine of a target in a low type; None where it disagrees with PyTorch.

    Args:
        artifacts: of this export.
        name: of the target: onnx, onnxruntime or openvino.
        precision: fp16 or bf16.
        folder: an existing folder, not the bundle's: it moves there once a search chooses it.

    Raises:
        UnsupportedOperation: the target does not take it.
    """
    artifacts.tell(f"building {name} {precision} for the last steps", 0, 0)
    model = typed(artifacts.model, precision)
    artifact = write_score(
        name,
        model,
        folder,
        precision=precision,
        batch=artifacts.batch,
        splits=artifacts.splits,
        progress=artifacts.tell,
    )
    found = None if artifacts.golden is None else verify_artifact(artifact, folder, artifacts.golden)
    return Tail(artifact, folder, found) if found is None or found.passed or found.reason else None
