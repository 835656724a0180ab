"""Whether two bundles hold the same model."""

from __future__ import annotations

import numpy as np

from ..runtime.bundle import Bundle
from ..runtime.engine import Engine
from ..runtime.manifest import ModelSpec

__all__ = ["holds_model"]

_SAME = 0.02
"""Largest relative error of all golden gradients together: FP32 engines are off by 1e-4 at most, other models by about 1."""


def holds_model(engine: Engine, model: ModelSpec, bundle: Bundle) -> bool:
    """Asks an FP32 engine for its gradients where another bundle has PyTorch's answers.

    Args:
        engine: an open FP32 engine.
        model: what it takes.
        bundle: the other bundle.

    Returns:
        True where the gradients agree; False where they differ, where the inputs do, or where the bundle has no answers
        (it was exported with --no-verify), since gradients of two models must not be compared.
    """
    if (bundle.model.x, bundle.model.cond) != (model.x, model.cond) or not bundle.has_golden:
        return False
    golden = bundle.golden()
    off, size = 0.0, 0.0
    for stage in range(len(golden["step"])):
        inputs = {"x": golden["x"][stage], "grad_scale": golden["grad_scale"][stage]}
        inputs |= {spec.name: golden[f"cond.{spec.name}"][stage] for spec in model.cond}
        grad = engine.run({name: np.ascontiguousarray(array) for name, array in inputs.items()})["grad"]
        scale = inputs["grad_scale"].astype(np.float64).reshape(-1, *[1] * (grad.ndim - 1))  # [N, 1, ..]
        reference = golden["grad"][stage]
        # Each stage counts alike, however small its gradients are.
        norm = float(np.square(reference).sum()) or 1.0
        off += float(np.square(grad / scale - reference).sum()) / norm
        size += 1.0
    return bool(off <= _SAME**2 * size)
