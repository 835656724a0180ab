"""Which layers of a model run in which precision, and why."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.errors import LoadError

__all__ = ["CALIBRATION", "LayerPrecision", "Layers", "read_layers"]

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class LayerPrecision:
    """One node of the score graph, as the calibration left it.

    Attributes:
        name: its name in the graph.
        op: its ONNX operation.
        module: where it comes from in the user's model, if known.
        precision: what it computes in; where OpenVINO took another than its file has, that.
        reason: why in that.
    """

    name: str
    op: str
    module: str
    precision: str
    reason: str


@dataclass(frozen=True)
class Layers:
    """The nodes of one artifact that a calibration decided on, or that the engine of a graph made elsewhere has.

    Attributes:
        bundle: name of the bundle.
        artifact: name of the artifact's file; the candidate's name before it, where it was made elsewhere.
        counts: number of nodes by precision, most first.
        nodes: all of them, in the order of the graph.
    """

    bundle: str
    artifact: str
    counts: dict[str, int]
    nodes: tuple[LayerPrecision, ...]


def read_layers(bundle: Bundle) -> tuple[Layers, ...]:
    """Reads what a bundle says of the layers of each artifact; nothing where nothing in it was calibrated.

    Raises:
        LoadError: the file cannot be read.
    """
    path = bundle.path / CALIBRATION
    if not path.is_file():
        return ()
    found = []
    try:
        for artifact in json.loads(path.read_text(encoding="utf-8"))["artifacts"]:
            nodes = tuple(_layer(entry) for entry in artifact["nodes"])
            counts = dict(Counter(node.precision for node in nodes).most_common())
            found.append(Layers(bundle.path.stem, str(artifact["path"]), counts, nodes))
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise LoadError(
            f'{path}: expected {{"artifacts": [{{"path": .., "nodes": [{{"name": .., "precision": ..}}]}}]}}: {error!r}; '
            "export the model again"
        ) from error
    return tuple(found)


def _layer(entry: dict[str, Any]) -> LayerPrecision:
    name, op, module, precision, reason, runs = (str(entry.get(field) or "") for field in _FIELDS)
    if runs:
        precision, reason = runs, f"{precision} in the file, and OpenVINO ran it so at the export"
    return LayerPrecision(name, op, module, precision, reason)


_FIELDS = ("name", "op", "module", "precision", "reason", "runs")
