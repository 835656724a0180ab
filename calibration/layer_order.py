"""In which order layers leave INT8: those that do the most harm for the work they do come first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from .deadline import Deadline
from .quantization.layers import Layer
from .quantization.quantizer import Quantizer
from .search_log import SearchLog
from .sensitivity import Sensitivity, measure_sensitivity
from .states import States

__all__ = ["measure_layers", "order_layers"]

_STATES = 128
_KEY = "layer "
"""What a layer's key in the log of a search begins with; its first line says what they are of."""


def measure_layers(
    exact: ir.Model,
    quantizer: Quantizer,
    layers: Sequence[Layer],
    states: States,
    *,
    known: Mapping[str, Sensitivity] | None = None,
    log: SearchLog | None = None,
    deadline: Deadline | None = None,
    batch: int = 8,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Sensitivity]:
    """What layers do to the score, by name: each alone in INT8. Those with the most work, which an order needs most, are measured first.

    Args:
        exact: the lowered float32 graph.
        quantizer: made from it.
        layers: those to measure.
        states: where the graph is asked along trajectories; the layers are measured at some of them, spread over all.
        known: what an earlier call returned for the same, and is not measured again.
        log: of a search with this calibration. What it has is not measured, and takes the place of what is known; what it has not is
            added to it, each layer as soon as it is measured.
        deadline: after which no layer is begun: those that were not are left out.
        batch: states in one call.
        progress: called with (what is being done, done, in all).
    """
    names = {layer.name for layer in layers}
    found = {name: entry for name, entry in (known or {}).items() if name in names}
    if log is not None:
        entries = (entry for key, entry in log.trials.items() if key.startswith(_KEY))
        found |= {entry["layer"]: Sensitivity.from_dict(entry, layers) for entry in entries}
        for name, entry in found.items():
            if _KEY + name not in log.trials:
                log.add(_KEY + name, entry.to_dict())
    missing = sorted((layer for layer in layers if layer.name not in found), key=lambda layer: -layer.macs)
    if missing:
        chosen = np.linspace(0, len(states) - 1, min(_STATES, len(states))).astype(int)
        measuring = measure_sensitivity(
            exact, quantizer, missing, states.part(chosen), deadline=deadline, batch=batch, progress=progress
        )
        for entry in measuring:
            found[entry.layer.name] = entry
            if log is not None:
                log.add(_KEY + entry.layer.name, entry.to_dict())
    return found


def order_layers(layers: Sequence[Layer], measured: Mapping[str, Sensitivity]) -> list[Layer]:
    """Sorts layers by their error, squared, for their work, the largest first; an error that is no number is larger than all.

    A layer that was not measured is taken to err as the median of those that were. Nothing is known of it but its work, so that
    it comes the sooner the less there is to lose by keeping it out of INT8.
    """
    # By the whole error, though it is gain and bias that the gate limits: at so few states these are mostly chance. Of three
    # networks, one of them the digits, gain and bias were measured at all states too (1,000 to 8,000). Their order of layers had a
    # rank correlation of 0.77 to 1.00 with that of the whole error at 128 states, and of 0.71 to 0.94 with that of gain and bias
    # at these; in none of nine draws was the second better.
    errors = {name: entry.error for name, entry in measured.items()}
    usual = float(np.median([error for error in errors.values() if math.isfinite(error)] or [1.0]))

    def harm(layer: Layer) -> float:
        error = errors.get(layer.name, usual)
        return error**2 / layer.macs if math.isfinite(error) else math.inf

    return sorted(layers, key=harm, reverse=True)
