"""Walks a protobuf message, such as an ONNX file, field by field.

As the encoding has it (https://protobuf.dev/programming-guides/encoding/), since the package onnx is no part of what runs on a
device.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["SIZED", "fields", "texts", "varint"]

SIZED = 2
"""Wire type of text, bytes and messages."""
_VARINT, _EIGHT_BYTES, _FOUR_BYTES = 0, 1, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


def texts(message: memoryview, field: int) -> Iterator[str]:
    """What a field of text says, each time that it is there."""
    for number, _, content in fields(message):
        if number == field and content is not None:
            yield bytes(content).decode()


def fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Number, whole bytes and, of those with a size, content of each field.

    Raises:
        ValueError: these bytes are no message.
    """
    at = 0
    while at < len(message):
        start = at
        key, at = _number(message, at)
        content, kind = None, key & 7
        if kind == _VARINT:
            _, at = _number(message, at)
        elif kind == SIZED:
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


def varint(value: int) -> bytes:
    """A number as the encoding writes it."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
