"""What the exporter writes: one module for each target, all with the same two functions.

available() -> str | None      None when the target can be written here, else a sentence that says why not
write(graph, folder, ...)      writes the files and returns the artifact's entry for the manifest
"""

from __future__ import annotations

from types import ModuleType

from ...runtime.errors import UsageError
from . import onnx, onnxruntime, openvino, tensorrt
from .artifact import Artifact, Progress, add_note

__all__ = ["TARGETS", "Artifact", "Progress", "add_note", "target"]

TARGETS: dict[str, ModuleType] = {
    "onnx": onnx,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "tensorrt": tensorrt,
}


def target(name: str) -> ModuleType:
    """The module of a target.

    Raises:
        UsageError: there is no such target.
    """
    if name not in TARGETS:
        raise UsageError(f"the targets are {', '.join(TARGETS)}; there is none called {name!r}")
    return TARGETS[name]
