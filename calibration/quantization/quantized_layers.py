"""The layers of one graph with their grids and weights, and the graph with any of them in INT8."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import onnx_ir as ir

from ..states import States
from .calibrate import Scheme, calibrate
from .equalize import channel_factors, equalized
from .insert import insert_int8
from .layer_entry import layer_entry, said_range
from .layers import Layer, find_layers

__all__ = ["QuantizedLayers"]


class QuantizedLayers:
    """Evens out the channels that layers read, calibrates once, and writes the graph for any choice of these layers.

    Args:
        model: the lowered float32 graph.
        layers: those of `find_layers` that may run in INT8.
        states: where the graph is asked.
        scheme: how the target wants its grids.
        batch: states in one call.
        threads: threads of one call.
        seed: of the rows that weights are fitted to.
        progress: called with (what is being done, done, in all).

    Attributes:
        even: the layers of `even_model`, by name.
        calibration: grids, ranges and weights.
        weights: by name of the layer; those of the calibration until others take their place.
    """

    def __init__(
        self,
        model: ir.Model,
        layers: Sequence[Layer],
        states: States,
        scheme: Scheme,
        *,
        batch: int,
        threads: int | None = None,
        seed: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._model, self._layers, self._scheme = model, tuple(layers), scheme
        evened = self._evened(self._layers)
        self._factors = channel_factors(
            model, evened, states, fuses_sums=scheme.fuses_sums, batch=batch, threads=threads
        )
        even_model = self.even_model()
        self.even = {layer.name: layer for layer in find_layers(even_model)}
        self.calibration = calibrate(
            even_model,
            [self.even[layer.name] for layer in self._layers],
            states,
            scheme,
            batch=batch,
            threads=threads,
            seed=seed,
            progress=progress,
        )
        self.weights = self.calibration.weights

    def even_model(self) -> ir.Model:
        """The float32 graph with the channels of all layers evened out; made at each call, since it has weights of its own for each of them."""
        return equalized(self._model, self._evened(self._layers), self._factors)

    def model(self, int8: Collection[str]) -> ir.Model:
        """Returns a copy of the graph with these layers, by name, in INT8."""
        chosen = [layer for layer in self._layers if layer.name in int8]
        model = equalized(self._model, self._evened(chosen), self._factors)
        even = [self.even[layer.name] for layer in chosen]
        return insert_int8(model, even, self.calibration.grids, self.weights, fuses_sums=self._scheme.fuses_sums)

    def entry(self, layer: Layer) -> dict[str, Any]:
        """Returns what calibration.json says of a layer in INT8."""
        read = self.even[layer.name].activation
        return layer_entry(layer, "int8", said_range(*self.calibration.ranges[read]), self.calibration.grids[read])

    def _evened(self, layers: Sequence[Layer]) -> list[Layer]:
        return [layer for layer in layers if layer.half in self._scheme.evens]
