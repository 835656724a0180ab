"""Leaves outputs of an ONNX graph out, and what only they need.

onnxruntime computes every node of a graph, whatever is asked of it: nodes that lead to no output, and those that lead to one that
nobody fetches (seen with 1.32, `only_execute_path_to_fetches` included). So the graph itself has to be without them.
"""

from __future__ import annotations

from collections.abc import Collection

from .protobuf import SIZED, fields, texts, varint

__all__ = ["without_outputs"]

# Field numbers, from onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_VALUE_NAME = 1
_ATTRIBUTE_GRAPHS = (6, 11)  # one, and a list


def without_outputs(model: bytes, names: Collection[str]) -> bytes:
    """Returns a model without these outputs of its graph, and without the nodes that lead to no other output.

    Args:
        model: a serialized ModelProto, its weights inside; its nodes in an order in which they can be computed, as ONNX asks.
        names: of the outputs; those that are not there are ignored.

    Raises:
        ValueError: these bytes are no model.
    """
    parts: list[bytes | memoryview] = []
    for number, whole, content in fields(memoryview(model)):
        if number == _MODEL_GRAPH and content is not None:
            graph = _pruned(content, names)
            parts += [varint(_MODEL_GRAPH << 3 | SIZED), varint(len(graph)), graph]
        else:
            parts.append(whole)
    return b"".join(parts)


def _pruned(graph: memoryview, names: Collection[str]) -> bytes:
    found = list(fields(graph))
    kept = [True] * len(found)
    needed = set()
    for index, (number, _, content) in enumerate(found):
        if number == _GRAPH_OUTPUT and content is not None:
            name = next(texts(content, _VALUE_NAME), "")
            kept[index] = name not in names
            needed |= {name} - set(names)
    for index in reversed(range(len(found))):
        number, _, content = found[index]
        if number == _GRAPH_NODE and content is not None:
            kept[index] = any(name in needed for name in texts(content, _NODE_OUTPUT))
            if kept[index]:
                needed |= _read_by(content) - {""}  # an input that is left out
    return b"".join(whole for (_, whole, _), keep in zip(found, kept, strict=True) if keep)


def _read_by(node: memoryview) -> set[str]:
    """Names of what a node reads, or a graph inside it."""
    names = set(texts(node, _NODE_INPUT))
    for number, _, attribute in fields(node):
        if number != _NODE_ATTRIBUTE or attribute is None:
            continue
        for kind, _, graph in fields(attribute):
            if kind not in _ATTRIBUTE_GRAPHS or graph is None:
                continue
            for part, _, content in fields(graph):
                if content is not None and part == _GRAPH_NODE:
                    names |= _read_by(content)
    return names
