"""A graph of dE/dx alone, as other exports give it, as a score graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..runtime.engine import Engine

__all__ = ["PlainScore"]


class PlainScore(Engine):
    """Runs a graph without the input `grad_scale`, and multiplies its gradient by the scale that was asked for.

    The scale then does nothing inside the graph: its layers see the backward half as it is without one, which is what whoever
    quantized the graph chose. So chains on it need no running scale either.

    Args:
        engine: of a graph that takes x and what is beside it, and gives `energy` [B] and `grad` [B, *S] = dE/dx.
    """

    needs_scale = False

    def __init__(self, engine: Engine) -> None:
        self.backend = engine.backend
        self.known_scales = engine.known_scales
        self.cpu_threads = engine.cpu_threads
        self._engine = engine

    @property
    def parts(self) -> tuple[Engine, ...]:
        """The graph's engine, which does the work."""
        return self._engine.parts

    def open(self) -> None:
        """Opens the graph's engine."""
        self._engine.open()

    def close(self) -> None:
        """Closes it."""
        self._engine.close()

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Leaves it to the graph's engine; see `Engine.prepare`."""
        return self._engine.prepare(cond)

    def ready(self, cond: Mapping[str, np.ndarray]) -> None:
        """Leaves it to the graph's engine; see `Engine.ready`."""
        self._engine.ready(cond)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; see `Engine.run`."""
        answer = self._engine.run({name: array for name, array in inputs.items() if name != "grad_scale"})
        grad = answer["grad"]
        each = inputs["grad_scale"].reshape(-1, *[1] * (grad.ndim - 1))
        return {"energy": answer["energy"], "grad": grad * each}
