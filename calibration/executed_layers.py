"""Which layers of an engine run in which precision, as its library compiled them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..runtime.backends.openvino import OpenVinoEngine
from ..runtime.engine import Engine
from .layer_precisions import LayerPrecision, Layers

__all__ = ["executed_layers", "note_not_int8"]

_PRECISIONS = {"i8": "int8", "u8": "int8", "f16": "fp16", "f32": "fp32"}
"""What OpenVINO calls otherwise than a bundle."""

_REASON = "so OpenVINO compiled it"
_NAMED = 3
"""Layers that a line names; of a CPU on which 8-bit products overflow it would be all of them."""


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


def note_not_int8(engine: OpenVinoEngine, entries: Iterable[dict[str, Any]]) -> str:
    """Adds `runs` to the entries of layers in INT8 that an engine runs in something else, and returns a line that names them.

    A layer of which the library does not surely tell gets none.

    Args:
        engine: open; it has run a batch.
        entries: what calibration.json says of its layers, changed in place.

    Returns:
        Such as "conv/Conv is INT8 in the file and runs in fp32"; "" where there is no such layer.
    """
    told = engine.arithmetic_nodes
    others = []
    for entry in entries:
        ran = told.get(entry["name"])
        ran = ran and _PRECISIONS.get(ran, ran)
        if entry["precision"] == "int8" and ran not in (None, "int8"):
            entry["runs"] = ran
            others.append(entry)
    if not others:
        return ""
    names = [entry["name"] for entry in others]
    if len(names) > _NAMED:
        names[_NAMED - 1 :] = [f"{len(names) - _NAMED + 1} more"]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    ran = " or ".join(sorted({entry["runs"] for entry in others}))
    return f"{listed} {'is' if len(others) == 1 else 'are'} INT8 in the file and run{'s' * (len(others) == 1)} in {ran}"
