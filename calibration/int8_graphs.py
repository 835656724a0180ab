"""A float32 graph with any of its layers in INT8: one calibration for each scheme, made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import onnx_ir as ir

from .deadline import Deadline
from .layer_order import measure_layers, order_layers
from .quantization.calibrate import Scheme
from .quantization.correct_score import correct_score
from .quantization.layers import Layer
from .quantization.quantizer import Quantizer
from .search_log import SearchLog
from .sensitivity import Sensitivity
from .states import States

__all__ = ["Int8Graphs"]


class Int8Graphs:
    """The INT8 graphs of one float32 graph. Targets with the same scheme share a calibration and what was measured with it.

    Args:
        exact: the lowered float32 graph.
        states: where it is asked along trajectories; grids, weights and corrections come from there.
        batch: states in one call.
        progress: called with (what is being done, done, in all).

    Attributes:
        exact: the float32 graph.
        states: where it is asked.
        batch: states in one call.
    """

    def __init__(
        self,
        exact: ir.Model,
        states: States,
        *,
        batch: int = 8,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.exact = exact
        self.states = states
        self.batch = batch
        self._tell = progress
        self._quantizers: dict[Scheme, Quantizer] = {}
        self._sensitivities: dict[Scheme, dict[str, Sensitivity]] = {}
        self._whole: dict[Scheme, ir.Model] = {}

    def quantizer(self, scheme: Scheme) -> Quantizer:
        """The calibration for a scheme."""
        if scheme not in self._quantizers:
            self._quantizers[scheme] = Quantizer(self.exact, self.states, scheme, batch=self.batch, progress=self._tell)
        return self._quantizers[scheme]

    def corrected(self, scheme: Scheme, int8: Collection[str]) -> ir.Model:
        """A graph of its own with these layers, by name, in INT8, and a gradient of float32's length and mean; see `correct_score`.

        With all layers that may be in INT8 it is computed once: the choice of a scheme, and the INT8 and the mixed artifact of each target that
        shares it begin with that. Others are not kept, as each is as large as the model.
        """
        quantizer = self.quantizer(scheme)
        whole = set(int8) == quantizer.default
        if whole and scheme in self._whole:
            return self._whole[scheme].clone()
        model = quantizer.model(int8)
        correct_score(self.exact, model, quantizer.layers, self.states, batch=self.batch, progress=self._tell)
        if whole:
            self._whole[scheme] = model.clone()
        return model

    def layers(self, scheme: Scheme) -> list[Layer]:
        """The layers that may run in INT8, in the order of the graph."""
        quantizer = self.quantizer(scheme)
        return [layer for layer in quantizer.layers if layer.name in quantizer.default]

    def sensitivities(
        self, scheme: Scheme, log: SearchLog | None = None, deadline: Deadline | None = None
    ) -> dict[str, Sensitivity]:
        """What each layer that may run in INT8 does to the score, by name, the most harm for its work first; see `order_layers`.

        Args:
            scheme: how the target wants its grids.
            log: of a search with this scheme, to read them from, or else to keep them in.
            deadline: after which no layer is measured: those that were not are left out.
        """
        layers = self.layers(scheme)
        found = self._sensitivities[scheme] = measure_layers(
            self.exact,
            self.quantizer(scheme),
            layers,
            self.states,
            known=self._sensitivities.get(scheme),
            log=log,
            deadline=deadline,
            batch=self.batch,
            progress=self._tell,
        )
        return {layer.name: found[layer.name] for layer in order_layers(layers, found) if layer.name in found}

    def describe(
        self,
        scheme: Scheme,
        int8: Collection[str],
        kept: dict[str, str],
        other: str = "fp32",
        wide: Collection[str] = (),
    ) -> list[dict[str, Any]]:
        """What calibration.json says of each layer: that of `Quantizer.describe`, and what it does alone where that was measured."""
        entries = self.quantizer(scheme).describe(int8, kept, other, wide)
        alone = {name: entry.parts() for name, entry in self._sensitivities.get(scheme, {}).items()}
        return [entry | ({"alone": alone[entry["name"]]} if entry["name"] in alone else {}) for entry in entries]
