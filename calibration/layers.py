"""Which layers of a model run in which precision, and why."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from ..runtime.bundle import Bundle
from ..runtime.errors import LoadError

__all__ = ["CALIBRATION", "Layer", "Layers", "read_layers"]

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Layer:
    """One node of the score graph, as the calibration left it.

    Attributes:
        name: its name in the graph.
        op: its ONNX operation.
        module: where it comes from in the user's model, if known.
        precision: what it computes in.
        reason: why in that.
    """

    name: str
    op: str
    module: str
    precision: str
    reason: str


@dataclass(frozen=True)
class Layers:
    """The nodes that a calibration decided on.

    Attributes:
        bundle: name of the bundle.
        counts: number of nodes by precision, most first.
        nodes: all of them, in the order of the graph.
    """

    bundle: str
    counts: dict[str, int]
    nodes: tuple[Layer, ...]


def read_layers(bundle: Bundle) -> Layers | None:
    """Reads what a bundle says of its layers; None where nothing in it was calibrated.

    Raises:
        LoadError: the file cannot be read.
    """
    path = bundle.path / CALIBRATION
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8")).get("nodes", [])
        nodes = tuple(
            Layer(*(str(entry.get(field) or "") for field in ("name", "op", "module", "precision", "reason")))
            for entry in entries
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise LoadError(
            f'{path}: expected {{"nodes": [{{"name": .., "precision": .., "reason": ..}}]}}: {error}; export the model again'
        ) from error
    if not nodes:
        return None
    counts = dict(Counter(node.precision for node in nodes).most_common())
    return Layers(bundle.path.stem, counts, nodes)
