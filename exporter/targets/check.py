"""ONNX's own check of a graph, in terms of the user's model."""

from __future__ import annotations

import re

import onnx

from ...runtime.errors import EbmExportError, UnsupportedOperation
from .refusal import placed

__all__ = ["check"]

# How shape inference and the checker name a node.
_INFERRED = re.compile(r"\(op_type:(?P<operator>\w+), node name: (?P<node>[^)]*)\): (?P<reason>[^\n]+)")
_CHECKED = re.compile(r"[Nn]ame: (?P<node>\S*) OpType: (?P<operator>\w+)")


def check(graph: onnx.ModelProto, *, target: str, precision: str, role: str) -> None:
    """Checks a graph's operations, types and shapes.

    Args:
        graph: what is about to be written; not changed.
        target: the target that a user can leave out.
        precision: of the graph, for the message.
        role: of the graph, for the message.

    Raises:
        UnsupportedOperation: a node is not valid ONNX, which is a mistake of the exporter; the message names the
            operation, its module and its source line, so that a user can write it otherwise until it is mended.
        EbmExportError: the graph is not valid ONNX, and the checker names no node.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        text = str(error)
        what = f"ebm-export made a {precision} {role} graph that is not valid ONNX, which is a mistake of its own"
        found = _INFERRED.search(text) or _CHECKED.search(text)
        told = found["reason"] if found is not None and found.re is _INFERRED else text.split("==> Context")[0]
        reason = " ".join(told.replace("[ShapeInferenceError]", "").split())
        if found is None:
            raise EbmExportError(f"{what}: {reason}") from error
        operator, node = found["operator"], found["node"]
        message = f"{what}: {operator} node {node!r}: {reason}"
        raise placed(UnsupportedOperation(message, operator=operator, node=node), graph, target) from error
