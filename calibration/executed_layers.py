"""Which layers of an engine run in which precision, as its library compiled them."""

from __future__ import annotations

from collections import Counter

from ..runtime.backends.openvino import OpenVinoEngine
from ..runtime.engine import Engine
from .layer_precisions import LayerPrecision, Layers

__all__ = ["executed_layers", "int8_said"]

_PRECISIONS = {"i8": "int8", "u8": "int8", "f16": "fp16", "f32": "fp32"}
"""What OpenVINO calls otherwise than a bundle."""

_REASON = "so OpenVINO compiled it"


def executed_layers(engine: Engine, bundle: str, name: str) -> Layers | None:
    """Asks an engine that has run a batch about its convolutions and matrix products.

    Args:
        engine: open; of a split one, the half that runs at each step is asked.
        bundle: name of the bundle, for the report.
        name: of the engine, likewise.

    Returns:
        The layers by the names that the library gives them; None where the library does not tell, which OpenVINO alone does.

    Raises:
        RuntimeError: it has run no batch.
    """
    steps = engine.parts[-1]  # a split one's prologue comes first
    if not isinstance(steps, OpenVinoEngine):
        return None
    nodes = tuple(
        LayerPrecision(layer, kind, "", _PRECISIONS.get(precision, precision), _REASON)
        for layer, kind, precision in steps.arithmetic_layers
    )
    counts = dict(Counter(node.precision for node in nodes).most_common())
    return Layers(bundle, name, counts, nodes)


def int8_said(layers: Layers) -> str:
    """One line for people: how much of an engine is in INT8."""
    return (
        f"OpenVINO runs {layers.counts.get('int8', 0)} of {len(layers.nodes)} convolutions and matrix products in INT8"
    )
