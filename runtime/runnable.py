"""Whether an artifact can run on this machine."""

from __future__ import annotations

from .backends import available, backend_of
from .manifest import Artifact

__all__ = ["why_not"]


def why_not(artifact: Artifact) -> str | None:
    """None when the artifact's own backend can run it here, else a sentence that says why not."""
    if artifact.target == "onnx" and artifact.precision == "bf16":
        return "onnxruntime's CPU provider has no BF16 kernels; this file is what TensorRT plans are built from"
    return available(backend_of(artifact.target))
