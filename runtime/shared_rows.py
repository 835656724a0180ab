"""Features that all samples share, as a row for each sample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .engine import Engine, read_only

__all__ = ["RowsApart", "rows_apart"]


def rows_apart(prepared: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """What `Engine.prepare` made of the conditions of this many samples, [rows, ...] each."""
    return {
        name: array if len(array) == rows else read_only(np.broadcast_to(array, (rows, *array.shape[1:])))
        for name, array in prepared.items()
    }


class RowsApart(Engine):
    """An open engine that is given a row of each feature for each sample, as where their conditions differ."""

    def __init__(self, engine: Engine) -> None:
        self.backend, self.needs_scale, self.known_scales = engine.backend, engine.needs_scale, engine.known_scales
        self.largest_batch = engine.largest_batch
        self._engine = engine

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        prepared = self._engine.prepare(cond)
        return rows_apart(prepared, len(next(iter(cond.values())))) if cond else prepared

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._engine.run(inputs)

    def open(self) -> None:
        """It is open."""

    def close(self) -> None:
        """Whoever opened it closes it."""
