"""What a lowering rule is given, and the table it registers itself in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ..batch import BatchSize, Dim
from .emitter import ONNX_TYPES, Emitter

__all__ = ["Context", "Rule", "RULES", "fixed", "lowers"]


@dataclass
class Context:
    """One ATen node being lowered: its inputs as ONNX values, its output's type and shape."""

    emit: Emitter
    node: torch.fx.Node
    values: dict[torch.fx.Node, Any]
    """ONNX value of every node lowered so far."""
    constants: dict[torch.fx.Node, np.ndarray]
    """Content of the nodes that are constants."""

    @property
    def dtype(self) -> ir.DataType:
        """Type of the output."""
        return ONNX_TYPES[self.node.meta["val"].dtype]

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Shape of the output."""
        return self.node.meta["shape"]  # type: ignore[no-any-return]

    def shape_of(self, argument: torch.fx.Node) -> tuple[Dim, ...]:
        """Shape of an input."""
        return argument.meta["shape"]  # type: ignore[no-any-return]

    def type_of(self, argument: torch.fx.Node) -> ir.DataType:
        """Type of an input."""
        return ONNX_TYPES[argument.meta["val"].dtype]

    def value(self, argument: Any, dtype: ir.DataType | None = None) -> ir.Value:
        """An argument as an ONNX value, cast to `dtype` if one is given.

        Args:
            argument: a node, or a Python number, which becomes a constant.
            dtype: wanted type; None keeps a node's own, and is the output's for a number.
        """
        if isinstance(argument, torch.fx.Node):
            value = self.values[argument]
            own = self.type_of(argument)
            if dtype is None or own == dtype:
                return value  # type: ignore[no-any-return]
            if argument in self.constants:
                return self.emit.constant(self.constants[argument], dtype)
            return self.emit.op("Cast", [value], dtype=dtype, shape=self.shape_of(argument), to=dtype.value)
        if isinstance(argument, BatchSize):
            one = self.emit.dims([argument])
            scalar = self.emit.op("Squeeze", [one, self.emit.ints([0])], dtype=ir.DataType.INT64, shape=[])
            wanted = dtype or self.dtype
            if wanted == ir.DataType.INT64:
                return scalar
            return self.emit.op("Cast", [scalar], dtype=wanted, shape=[], to=wanted.value)
        return self.emit.constant(argument, dtype or self.dtype)

    def op(
        self,
        kind: str,
        *inputs: ir.Value | None,
        shape: Sequence[Dim] | None = None,
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Appends a node whose output has this node's type and shape unless others are given."""
        return self.emit.op(
            kind,
            inputs,
            dtype=self.dtype if dtype is None else dtype,
            shape=self.shape if shape is None else shape,
            **attributes,
        )


def fixed(size: Dim, what: str) -> int:
    """A dimension as a number, where a rule cannot do with one that grows with the batch.

    Args:
        size: the dimension.
        what: what the model does there, for the message: "the batch is ..".

    Raises:
        NotImplementedError: it grows with the batch; `lower` makes it an error that names the place.
    """
    if isinstance(size, BatchSize):
        raise NotImplementedError(what)
    return size


Rule = Callable[..., Any]
"""(context, *args, **kwargs of the ATen node) -> ONNX value, or a tuple of them."""

RULES: dict[Any, Rule] = {}


def lowers(*operations: Any) -> Callable[[Rule], Rule]:
    """Registers a rule for the ATen operations it lowers."""

    def register(rule: Rule) -> Rule:
        for operation in operations:
            assert operation not in RULES, operation
            RULES[operation] = rule
        return rule

    return register
