"""What an engine's library refuses, said in terms of the user's model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from ...runtime.errors import EbmExportError, LoadError, UnsupportedOperation
from ..lowering.lower import ORIGIN

__all__ = ["as_refusals", "placed"]

# How onnxruntime names a node that it cannot load; OpenVINO's are read where its engine is.
_NAMED = re.compile(
    r"implementation for (?P<lacking>\w+)\(\d+\) node with name '(?P<lacks>[^']*)'"
    r"|operator \((?P<mistyped>\w+)\) in node \((?P<typed>[^)]*)\)"
    r"|In Node, \(\"(?P<holder>[^\"]*)\", (?P<unknown>\w+),"
)


@contextmanager
def as_refusals() -> Iterator[None]:
    """Makes refusals of the failures of a library with the graph that it is given.

    A file that was written a moment ago is not damaged, as a LoadError would say: its library does not take what is in it. Errors
    that are about something else (a package that is missing, chains that diverge) stay what they are.

    Raises:
        UnsupportedOperation: the library failed; the operator and the node are those of the message, where it names any.
    """
    try:
        yield
    except EbmExportError as error:
        if type(error) not in (EbmExportError, LoadError):
            raise
        found = _NAMED.search(str(error))
        operator, node = "", ""
        if found is not None:
            operator = found["lacking"] or found["mistyped"] or found["unknown"]
            node = found["lacks"] or found["typed"] or found["holder"] or ""
        raise UnsupportedOperation(str(error), operator=operator, node=node) from error


def placed(error: UnsupportedOperation, graph: onnx.ModelProto, target: str) -> UnsupportedOperation:
    """A library's refusal of an ONNX node, with the place in the user's model that the node comes from.

    Args:
        error: names the operator, and the node where the library does.
        graph: the score graph that the library was given.
        target: the target that a user can leave out.

    Returns:
        An error that names the operation, its module and its source line; all that come into question where the
        library does not say which node. It names none where the library names nothing.
    """
    if not error.operator and not error.node:
        return UnsupportedOperation(f"{str(error).rstrip('.')}; leave the target {target} out")
    named = [node for node in graph.graph.node if error.node and error.node in (node.name, node.output[0])]
    nodes = named or [node for node in graph.graph.node if node.op_type == error.operator]
    origins = dict.fromkeys(pair.value for node in nodes for pair in node.metadata_props if pair.key == ORIGIN)
    places = " or ".join(origins) or "no one operation of the model"
    return UnsupportedOperation(
        f"{str(error).rstrip('.')}; it stands for {places}; rewrite that line with other operations, or leave the "
        f"target {target} out",
        operator=error.operator,
        node=error.node,
    )
