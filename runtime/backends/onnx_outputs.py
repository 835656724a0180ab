"""Leaves outputs of an ONNX graph out, and what only they need.

onnxruntime computes every node of a graph, whatever is asked of it: nodes that lead to no output, and those that lead to one that
nobody fetches (seen with 1.32, `only_execute_path_to_fetches` included). So the graph itself has to be without them. The file is
walked field by field, as the protobuf encoding has it (https://protobuf.dev/programming-guides/encoding/, numbers of the fields
from onnx.proto), since the package onnx is no part of what runs on a device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = ["without_outputs"]

# Field numbers.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_VALUE_NAME = 1
_ATTRIBUTE_GRAPHS = (6, 11)  # one, and a list

_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


def without_outputs(model: bytes, names: Collection[str]) -> bytes:
    """Returns a model without these outputs of its graph, and without the nodes that lead to no other output.

    Args:
        model: a serialized ModelProto, its weights inside; its nodes in an order in which they can be computed, as ONNX asks.
        names: of the outputs; those that are not there are ignored.

    Raises:
        ValueError: these bytes are no model.
    """
    parts: list[bytes | memoryview] = []
    for number, whole, content in _fields(memoryview(model)):
        if number == _MODEL_GRAPH and content is not None:
            graph = _pruned(content, names)
            parts += [_varint(_MODEL_GRAPH << 3 | _SIZED), _varint(len(graph)), graph]
        else:
            parts.append(whole)
    return b"".join(parts)


def _pruned(graph: memoryview, names: Collection[str]) -> bytes:
    fields = list(_fields(graph))
    kept = [True] * len(fields)
    needed = set()
    for index, (number, _, content) in enumerate(fields):
        if number == _GRAPH_OUTPUT and content is not None:
            name = next(_texts(content, _VALUE_NAME), "")
            kept[index] = name not in names
            needed |= {name} - set(names)
    for index in reversed(range(len(fields))):
        number, _, content = fields[index]
        if number == _GRAPH_NODE and content is not None:
            kept[index] = any(name in needed for name in _texts(content, _NODE_OUTPUT))
            if kept[index]:
                needed |= _read_by(content) - {""}  # an input that is left out
    return b"".join(whole for (_, whole, _), keep in zip(fields, kept, strict=True) if keep)


def _read_by(node: memoryview) -> set[str]:
    """Names of what a node reads, or a graph inside it."""
    names = set(_texts(node, _NODE_INPUT))
    for number, _, attribute in _fields(node):
        if number != _NODE_ATTRIBUTE or attribute is None:
            continue
        for kind, _, graph in _fields(attribute):
            if kind not in _ATTRIBUTE_GRAPHS or graph is None:
                continue
            for part, _, content in _fields(graph):
                if content is not None and part == _GRAPH_NODE:
                    names |= _read_by(content)
    return names


def _texts(message: memoryview, field: int) -> Iterator[str]:
    for number, _, content in _fields(message):
        if number == field and content is not None:
            yield bytes(content).decode()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Number, whole bytes and, of those with a size, content of each field."""
    at = 0
    while at < len(message):
        start = at
        key, at = _number(message, at)
        content, kind = None, key & 7
        if kind == _VARINT:
            _, at = _number(message, at)
        elif kind == _SIZED:
            size, at = _number(message, at)
            content = message[at : at + size]
            at += size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError(f"no protobuf message: wire type {kind} at byte {start}")
        if at > len(message):
            raise ValueError(f"no protobuf message: the field at byte {start} is longer than what is left")
        yield key >> 3, message[start:at], content


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A varint and where the next byte is."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("no protobuf message: it ends inside a number")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
