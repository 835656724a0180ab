"""Runs a Python function in place of a score graph, so that samplers need no engine to be tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..engine import Engine

__all__ = ["FunctionEngine"]


class FunctionEngine(Engine):
    """An engine made of a function.

    Args:
        energy_and_grad: takes x [B, *S] float32 and the conditioning arrays by name, and returns energy [B] and
            dE/dx [B, *S] in any real type. This class multiplies the gradient by `grad_scale`.

    Example:
        engine = FunctionEngine(lambda x: (0.5 * (x * x).sum(axis=1), x))
    """

    backend = "function"

    def __init__(self, energy_and_grad: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
        self._energy_and_grad = energy_and_grad

    def open(self) -> None:
        """Does nothing: a function is always loaded."""

    def close(self) -> None:
        """Does nothing."""

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """C-contiguous arrays that may be written to, since some libraries take no others."""
        return {name: np.require(array, requirements=["C", "W"]) for name, array in cond.items()}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; see `Engine.run`. The gradient is a new array at every call."""
        cond = {name: array for name, array in inputs.items() if name not in ("x", "grad_scale")}
        energy, grad = self._energy_and_grad(inputs["x"], **cond)
        scale = inputs["grad_scale"].reshape(-1, *[1] * (inputs["x"].ndim - 1))  # [B, 1, ..]
        return {
            "energy": np.asarray(energy, dtype=np.float32),
            "grad": np.asarray(grad, dtype=np.float32) * scale,
        }
