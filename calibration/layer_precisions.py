"""Which layers of a model run in which precision, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
        precision: what it computes in; where OpenVINO or TensorRT took another than its file has, that.
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

    A TensorRT plan has those of the ONNX file that it was built from, as it was compiled.

    Raises:
        LoadError: the file cannot be read.
    """
    file = bundle.path / CALIBRATION
    if not file.is_file():
        return ()
    found = []
    try:
        for artifact in json.loads(file.read_text(encoding="utf-8"))["artifacts"]:
            path = str(artifact["path"])
            nodes = tuple(_layer(entry) for entry in artifact["nodes"])
            found.append(_layers(bundle, path, nodes))
            plan = path.removesuffix(".onnx") + ".tensorrt.plan"
            compiled = _compiled(bundle, plan)
            if compiled:
                found.append(_layers(bundle, plan, (_in_plan(node, compiled) for node in nodes)))
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise LoadError(
            f'{file}: expected {{"artifacts": [{{"path": .., "nodes": [{{"name": .., "precision": ..}}]}}]}}: {error!r}; '
            "export the model again"
        ) from error
    return tuple(found)


def _layers(bundle: Bundle, path: str, nodes: Iterable[LayerPrecision]) -> Layers:
    nodes = tuple(nodes)
    counts = dict(Counter(node.precision for node in nodes).most_common())
    return Layers(bundle.path.stem, path, counts, nodes)


def _compiled(bundle: Bundle, plan: str) -> dict[str, str]:
    """What a plan and its prologue's compute each layer in; nothing where the bundle has no such plan, or it was not told."""
    artifact = next((each for each in bundle.artifacts if each.path == plan), None)
    if artifact is None:
        return {}
    prologue = bundle.prologue_of(artifact)
    return {**({} if prologue is None else prologue.layers), **artifact.layers}


def _in_plan(node: LayerPrecision, compiled: Mapping[str, str]) -> LayerPrecision:
    precision = compiled.get(node.name, node.precision)
    if precision == node.precision:
        return node
    return replace(node, precision=precision, reason=f"{node.precision} in the file, and TensorRT compiled it so")


def _layer(entry: dict[str, Any]) -> LayerPrecision:
    name, op, module, precision, reason, runs = (str(entry.get(field) or "") for field in _FIELDS)
    if runs:
        precision, reason = runs, f"{precision} in the file, and OpenVINO ran it so at the export"
    return LayerPrecision(name, op, module, precision, reason)


_FIELDS = ("name", "op", "module", "precision", "reason", "runs")
