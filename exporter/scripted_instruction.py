"""The parts of a TorchScript graph as they are run: instructions, in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Block", "Instruction"]


@dataclass
class Block:
    """Instructions in order, the names they start from and the names they give."""

    inputs: list[str]
    outputs: list[str]
    body: list[Instruction]


@dataclass
class Instruction:
    """One node of the graph."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    run: Callable[..., Any] | None = None
    """What computes the outputs from the values of the inputs, where that is a plain function."""
    value: Any = None
    """A constant's value, or the dotted name of an attribute."""
    blocks: list[Block] = field(default_factory=list)
    place: str = ""
    """`File "model.py", line 12, in forward`, or nothing."""
    path: str = ""
    """Dotted path of the module that the node was recorded in, where the graph says so."""
