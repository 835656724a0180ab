"""Prologues with any of their layers in INT8: what is worked out of the conditions alone, once per chain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ..states import States
from .calibrate import Scheme
from .layer_entry import layer_entry
from .layers import Layer, find_layers
from .quantized_layers import QuantizedLayers
from .taps import Taps

__all__ = ["PrologueQuantizer"]

_SMALL = 0.002
"""Share of a prologue's multiplications below which a layer gains nothing from INT8."""
_ASKED = 64
"""Rows that the harm of a layer is measured at, spread over all."""


class PrologueQuantizer:
    """Calibrates a prologue once, from conditions in place of states, and writes it for any choice of layers.

    Biases are not corrected: on a trained encoder that took back 0.6 % of the features' error.

    Args:
        model: the lowered float32 prologue.
        conditions: [R, ...], the inputs that it reads.
        scheme: how the target wants its grids.
        batch: rows in one call.
        threads: threads of one call.
        progress: called with (what is being done, done, in all).

    Attributes:
        layers: every layer.
        harm: by name of each layer that may run in INT8, what it alone does to the features: the error's root mean square relative
            to the features' spread over the conditions. Those that do the most for the work they do come first.
        asked: the conditions that this is measured at.
    """

    def __init__(
        self,
        model: ir.Model,
        conditions: Mapping[str, np.ndarray],
        scheme: Scheme,
        *,
        batch: int = 8,
        threads: int | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.layers = tuple(find_layers(model))
        self._outputs = [output for output in model.graph.outputs if output.dtype == ir.DataType.FLOAT]
        rows = _as_states(conditions)
        candidates = [layer for layer in self.layers if self._why_float(layer) is None]
        self._made = QuantizedLayers(model, candidates, rows, scheme, batch=batch, threads=threads, progress=progress)
        asked = rows.part(np.unique(np.linspace(0, len(rows) - 1, _ASKED).round().astype(int)))
        self.asked = {name: array[asked.row] for name, array in conditions.items()}
        self._rows, self._batch, self._threads = asked, batch, threads
        self._exact = _features(model, asked, batch, threads)
        found = {}
        for number, layer in enumerate(candidates):
            found[layer.name] = self.error([layer.name])
            if progress is not None:
                progress("measuring what each layer of the prologue does", number + 1, len(candidates))
        macs = {layer.name: layer.macs for layer in candidates}
        self.harm = dict(sorted(found.items(), key=lambda entry: -(entry[1] ** 2) / macs[entry[0]]))

    @property
    def work(self) -> int:
        """Multiplications for one row that depend on it."""
        return sum(layer.macs for layer in self.layers if layer.reads_input)

    def error(self, int8: Collection[str]) -> float:
        """Root mean square of what the graph with these layers in INT8 is off by, relative to the features' spread."""
        return _error(_features(self.model(int8), self._rows, self._batch, self._threads), self._exact)

    def error_of(self, features: Mapping[str, np.ndarray]) -> float:
        """The same of an engine's features at `asked`, by name."""
        found = [features[str(output.name)] for output in self._outputs]
        return _error([got.reshape(exact.shape) for got, exact in zip(found, self._exact, strict=True)], self._exact)

    def model(self, int8: Collection[str]) -> ir.Model:
        """Returns a copy of the prologue with these layers, by name, in INT8."""
        return self._made.model(int8)

    def describe(self, int8: Collection[str], why_kept: str) -> list[dict[str, Any]]:
        """Returns what calibration.json says of each layer.

        Args:
            int8: names of the layers in INT8.
            why_kept: why others that might be are not.
        """
        entries = []
        for layer in self.layers:
            if layer.name in int8:
                entries.append(self._made.entry(layer))
            elif layer.name in self.harm:
                said = f"alone it moves the features by {self.harm[layer.name]:.1%}; {why_kept}"
                entries.append(layer_entry(layer, "fp32", said))
            else:
                entries.append(layer_entry(layer, "fp32", self._why_float(layer) or "not chosen"))
        return entries

    def _why_float(self, layer: Layer) -> str | None:
        """Why a layer may not run in INT8; None where it may."""
        if not layer.reads_input:
            # OpenVINO 2026.4.1 folds what such a layer reads and loses the grid's zero point.
            return "reads constants alone, which engines compute beforehand: nothing to gain"
        if not layer.macs or layer.macs < _SMALL * self.work:
            return f"{layer.macs / max(self.work, 1):.2%} of the prologue's work: nothing to gain"
        return None


def _as_states(conditions: Mapping[str, np.ndarray]) -> States:
    """One state for each row. A prologue reads the conditions of a state and nothing else of it."""
    count = len(next(iter(conditions.values())))
    nothing, numbers = np.zeros((count, 0), np.float32), np.arange(count)
    return States(
        nothing,
        np.ones(count, np.float32),
        np.zeros(count, np.int64),
        numbers,
        numbers,
        np.zeros(count, bool),
        conditions,
    )


def _features(model: ir.Model, rows: States, batch: int, threads: int | None) -> list[np.ndarray]:
    """The features of float type, each [R, ...]."""
    names = [str(output.name) for output in model.graph.outputs if output.dtype == ir.DataType.FLOAT]
    taps = Taps(ir.to_proto(model), [], threads)
    answers = [taps.run(inputs) for inputs in rows.batches(batch)]
    return [np.concatenate([answer[name] for answer in answers]) for name in names]


def _error(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    squares = []
    for got, wanted in zip(found, exact, strict=True):
        spread = np.mean(np.square(wanted - wanted.mean(axis=0), dtype=np.float64))
        off = np.mean(np.square(got - wanted, dtype=np.float64))
        squares.append(off / spread if spread > 0 else 0.0)
    return float(np.sqrt(sum(squares)))
