"""An engine in two halves: the prologue runs once per chain, the score graph at each step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from .device_loop import DeviceLoop
from .distinct_rows import distinct_rows
from .engine import Engine, read_only

__all__ = ["SplitEngine"]

_NUMBERS = 2**18
"""Numbers of the conditioning inputs in one call of the prologue, as far as rows allow: 1 MiB of float32."""

_ROWS = (64, 8, 1)
"""Rows of one call of the prologue. How many conditions differ changes from call to call, and libraries compile for each number of
rows, which takes longer than a deadline leaves: three numbers can be compiled beforehand."""


class SplitEngine(Engine):
    """Runs a prologue (conditioning inputs -> features) and a score graph that takes the features.

    `prepare` runs the prologue, once for samples that share the conditions that it reads, whatever the batch, and not at all where
    they are those of the call before. A call of `run` with conditioning inputs that were not prepared runs it too, so that the whole is an engine like any other.

    Args:
        prologue: the engine of the prologue.
        score: the engine of the score graph.
        reads: names of the conditioning inputs that the prologue reads.
        keeps: names of those that the score graph reads.
        shared: names of the features that the score graph takes as one row where all samples share a condition.

    Attributes:
        prologue: the engine of the prologue.
        score: the engine of the score graph.
    """

    def __init__(
        self,
        prologue: Engine,
        score: Engine,
        reads: Sequence[str],
        keeps: Sequence[str] = (),
        shared: Sequence[str] = (),
    ) -> None:
        self.backend = score.backend
        self.needs_scale, self.known_scales = score.needs_scale, score.known_scales
        self.prologue = prologue
        self.score = score
        self._reads, self._keeps, self._shared = tuple(reads), tuple(keeps), frozenset(shared)
        self._features: tuple[str, ...] | None = None
        # The one condition that was asked for last, and its features.
        self._latest: tuple[bytes, dict[str, np.ndarray]] | None = None

    @property
    def parts(self) -> tuple[Engine, ...]:
        """Those of both."""
        return (*self.prologue.parts, *self.score.parts)

    def open(self) -> None:
        """Opens both; where the second fails, the first is closed."""
        with contextlib.ExitStack() as opened:
            for engine in (self.prologue, self.score):
                engine.open()
                opened.callback(engine.close)
            opened.pop_all()
        self.largest_batch = self.score.largest_batch

    def close(self) -> None:
        """Closes both."""
        self._latest = None
        self.prologue.close()
        self.score.close()

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the prologue; see `Engine.prepare`. What the prologue alone reads is not there any more."""
        read = {name: cond[name] for name in self._reads}
        size = len(next(iter(read.values())))
        first, which = distinct_rows(read.values(), size)
        rows = slice(1) if len(first) == 1 else first  # what all share is not copied: an image takes 0.1 ms
        features = self._encoded({name: array[rows] for name, array in read.items()}, len(first))
        if len(first) == 1:
            features = {
                name: array if name in self._shared else np.broadcast_to(array, (size, *array.shape[1:]))
                for name, array in features.items()
            }
        elif len(first) < size:
            features = {name: array[which] for name, array in features.items()}
        self._features = tuple(features)
        return self.score.prepare({**{name: cond[name] for name in self._keeps}, **features})

    def ready(self, cond: Mapping[str, np.ndarray]) -> None:
        """Asks the prologue for as many rows as it will be asked for; see `Engine.ready`."""
        read = {name: cond[name] for name in self._reads}
        size = len(next(iter(read.values())))
        for rows in _rows_of_a_call(read):
            if rows <= size:
                self._ask({name: array[:rows] for name, array in read.items()}, rows)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; see `Engine.run`."""
        if self._features is None or any(name not in inputs for name in self._features):
            cond = {name: array for name, array in inputs.items() if name not in ("x", "grad_scale")}
            inputs = {"x": inputs["x"], "grad_scale": inputs["grad_scale"], **self.prepare(cond)}
        return self.score.run(inputs)

    def device_loop(self) -> DeviceLoop | None:
        """That of the score graph, in whose memory the features are after a call of `run`."""
        return self.score.device_loop()

    def stays_on_host(self, why: str) -> None:
        self.score.stays_on_host(why)

    def _encoded(self, read: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        """The features of these rows; those of one that all chains share are kept, as their batches ask for it one after another."""
        if size > 1:
            return self._ask(read, size)
        row = b"".join(array.tobytes() for array in read.values())
        if self._latest is None or self._latest[0] != row:
            self._latest = row, self._ask(read, size)
        return self._latest[1]

    def _ask(self, read: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        """Runs the prologue in calls of as many rows as fit; returns arrays of its own."""
        answers = []
        first = 0
        while first < size:
            rows = next(rows for rows in _rows_of_a_call(read) if rows <= size - first)
            part = {name: read_only(array[first : first + rows]) for name, array in read.items()}
            answers.append({name: array.copy() for name, array in self.prologue.run(part).items()})
            first += rows
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _rows_of_a_call(read: Mapping[str, np.ndarray]) -> list[int]:
    """Those of `_ROWS` whose numbers fit into one call."""
    numbers = sum(math.prod(array.shape[1:]) for array in read.values())
    return [rows for rows in _ROWS if rows == 1 or rows * numbers <= _NUMBERS]
