"""Score graphs with any of their layers in INT8, from one calibration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..metrics.score_fidelity import StageFidelity
from ..states import States
from .calibrate import Calibration, Scheme
from .correct_bias import correct_bias
from .layer_entry import layer_entry
from .layers import Layer, find_layers
from .quantized_layers import QuantizedLayers
from .score_error import gradients, score_error

__all__ = ["Quantizer"]

_SMALL = 0.002
"""Share of all multiplications below which a layer gains nothing from INT8: its Q/DQ cost more than they save."""
_BORDER = 0.15
"""Share of all multiplications up to which a layer at the border of the graph stays in float. One step of an 8-bit grid over
the state is as large as the noise of published samplers, and nothing after the last gradient layer averages its
error; a network that is hardly more than these layers would have nothing left."""
_HELD_OUT = 4  # the states of every so many chains are kept for the question whether corrections help


class Quantizer:
    """Calibrates once and writes the graph for any choice of layers.

    Args:
        model: the lowered float32 score graph.
        states: where it is asked along trajectories.
        scheme: how the target wants its grids.
        batch: states in one call.
        threads: threads of one call.
        seed: of the rows that weights are fitted to.
        progress: called with (what is being done, done, in all).

    Attributes:
        layers: every layer of the graph.
        default: names of the layers that run in INT8 unless something speaks against it.
        corrected: whether biases are corrected; they are where that brings the score closer to float32 at states that
            the corrections were not made from.
    """

    def __init__(
        self,
        model: ir.Model,
        states: States,
        scheme: Scheme,
        *,
        batch: int = 8,
        threads: int | None = None,
        seed: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.scheme = scheme
        self.layers = tuple(find_layers(model))
        self.default = frozenset(layer.name for layer in self.layers if self._why_float(layer) is None)
        self._model = model
        self._made = QuantizedLayers(
            model,
            [layer for layer in self.layers if layer.macs],
            states,
            scheme,
            batch=batch,
            threads=threads,
            seed=seed,
            progress=progress,
        )
        self.corrected = self._try_corrections(states, batch, threads, progress)

    @property
    def work(self) -> int:
        """Multiplications for one sample that change from step to step."""
        return sum(layer.macs for layer in self.layers if layer.every_step)

    @property
    def calibration(self) -> Calibration:
        """Grids, ranges and weights."""
        return self._made.calibration

    def model(self, int8: Collection[str]) -> ir.Model:
        """Returns a copy of the graph with these layers, by name, in INT8."""
        return self._made.model(int8)

    def describe(
        self, int8: Collection[str], kept: dict[str, str], other: str = "fp32", wide: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """Returns what calibration.json says of each layer.

        Args:
            int8: names of the layers in INT8.
            kept: why a layer is not, for those where the reason is not their place in the graph.
            other: precision of the layers that are not in INT8.
            wide: names of those that are in float32 all the same.
        """
        entries = []
        for layer in self.layers:
            if layer.name in int8:
                entries.append(self._made.entry(layer))
                continue
            reason = kept.get(layer.name) or self._why_float(layer) or "not chosen"
            entries.append(layer_entry(layer, "fp32" if layer.name in wide else other, reason))
        return entries

    def _why_float(self, layer: Layer) -> str | None:
        """Why a layer is not in INT8 by default; None where it is."""
        total = self.work
        if layer.name in self.scheme.wrong:
            return "with it in INT8, the engine computes something else than its graph"
        if not layer.every_step:
            return "does not depend on x: what it rounds would bend a whole chain the same way"
        if layer.macs < _SMALL * total:
            return f"{layer.macs / max(total, 1):.2%} of the work: nothing to gain"
        if layer.reads_scale:
            return "reads a multiple of the gradient scale, which grows by orders of magnitude along a chain"
        if layer.macs <= _BORDER * total:
            if layer.reads_state:
                return "reads the state, which one step of a grid would move as far as the noise does"
            if layer.writes_grad:
                return "writes the gradient: nothing after it would average its error"
        return None

    def _try_corrections(
        self,
        states: States,
        batch: int,
        threads: int | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> bool:
        chosen = [self._made.even[layer.name] for layer in self.layers if layer.name in self.default]
        held_out = states.share(_HELD_OUT) == 0
        seen, tried = (np.flatnonzero(part & ~states.large) for part in (~held_out, held_out))
        if not chosen or not len(seen) or len(tried) < 2:
            return False
        corrected = correct_bias(
            self._made.even_model(),
            chosen,
            self._made.calibration.grids,
            self._made.weights,
            states.part(seen),
            fuses_sums=self.scheme.fuses_sums,
            batch=batch,
            threads=threads,
            progress=progress,
        )
        asked = states.part(tried)
        exact = gradients(self._model, asked, batch=batch, threads=threads)

        def systematic() -> float:
            got = gradients(self.model(self.default), asked, batch=batch, threads=threads)
            return _systematic(score_error(exact, got, asked))

        before = systematic()
        plain, self._made.weights = self._made.weights, corrected
        after = systematic()
        if after < before:
            return True
        self._made.weights = plain
        return False


def _systematic(stages: Sequence[StageFidelity]) -> float:
    """gain^2 + bias^2 in the mean over the stages: what corrections are for."""
    return float(np.mean([stage.gain**2 + stage.bias**2 for stage in stages])) if stages else 0.0
