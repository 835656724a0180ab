"""Files with the weights of an ONNX graph that keeps them beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..runtime.backends.protobuf import fields, texts
from ..runtime.errors import LoadError

__all__ = ["external_data"]

# What lies inside what, by number of the field in onnx.proto; training is left out, since no engine runs it.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2
_IS_EXTERNAL = bytes([14 << 3, 1])
"""The whole field data_location = EXTERNAL; without it the entries of external_data mean nothing."""


def external_data(path: Path) -> list[Path]:
    """Returns the files that an ONNX graph keeps weights in, sorted; none where they are all in the graph itself.

    Any name will do for such a file, so that the graph has to be asked. The package onnx could, but a device that compares engines
    has no need of it else.

    Args:
        path: the graph.

    Raises:
        LoadError: it is no ONNX file, or a file of weights is not there, or not in the graph's own folder.
    """
    try:
        locations = set(_locations(memoryview(path.read_bytes()), "model"))
    except ValueError as error:
        raise LoadError(f"{path}: expected an ONNX file: {error}") from error
    return [_beside(path, location) for location in sorted(locations)]


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    if kind == "tensor":
        yield from _location(message)
        return
    for number, _, content in fields(message):
        if content is not None and number in _INSIDE[kind]:
            yield from _locations(content, _INSIDE[kind][number])


def _location(tensor: memoryview) -> list[str]:
    found: list[str] = []
    external = False
    for number, whole, content in fields(tensor):
        external |= whole == _IS_EXTERNAL
        if number == _EXTERNAL_DATA and content is not None and "location" in texts(content, _KEY):
            found += texts(content, _VALUE)
    return found if external else []


def _beside(path: Path, location: str) -> Path:
    """The file at a location; never one elsewhere, which ONNX forbids: a graph could have any file of the machine read."""
    place = PurePosixPath(location)
    if place.is_absolute() or ".." in place.parts:
        raise LoadError(
            f"{path}: its weights should be in its own folder, as ONNX asks, and it looks for them in {location!r}; save the "
            "graph again with its weights beside it"
        )
    file = path.parent / place
    if not file.is_file():
        raise LoadError(f"{path}: there is no file {file}, which holds its weights; copy it there with the graph")
    return file
