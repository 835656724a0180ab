"""Whether an artifact can run on this machine."""

from __future__ import annotations

from .backends import available, backend_of
from .bundle import Bundle
from .errors import LoadError
from .manifest import Artifact

__all__ = ["check_runnable", "why_not"]


def why_not(artifact: Artifact) -> str | None:
    """None when the artifact's own backend can run it here, else a sentence that says why not."""
    if artifact.target == "onnx" and artifact.precision == "bf16":
        return "onnxruntime's CPU provider has no BF16 kernels; this file is what TensorRT plans are built from"
    return available(backend_of(artifact.target))


def check_runnable(bundle: Bundle) -> None:
    """Refuses a bundle of which nothing can run on this machine.

    Raises:
        LoadError: nothing can; the message goes through all score graphs.
    """
    reasons = {artifact.path: why_not(artifact) for artifact in bundle.artifacts if artifact.role == "score"}
    if None not in reasons.values():
        said = "; ".join(f"not {path}: {reason}" for path, reason in reasons.items()) or "it holds no artifact"
        raise LoadError(f"the bundle {bundle.path} has nothing that can run here; {said}")
