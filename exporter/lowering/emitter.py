"""Writes ONNX nodes one after another, with types, shapes and names that lead back to the user's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ..batch import BatchSize, Dim
from ..provenance import Origin

__all__ = ["ONNX_TYPES", "Emitter"]

OPSET = 20

# The score graph is float32: a float64 inside the model is no reason for a double on the device.
ONNX_TYPES = {
    torch.float64: ir.DataType.FLOAT,
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT,
    torch.bfloat16: ir.DataType.FLOAT,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT32,
    torch.int8: ir.DataType.INT32,
    torch.uint8: ir.DataType.INT32,
    torch.bool: ir.DataType.BOOL,
}

_NUMPY = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.INT64: np.int64,
    ir.DataType.INT32: np.int32,
    ir.DataType.BOOL: np.bool_,
}


class Emitter:
    """A graph under construction.

    `op` appends a node and returns its value; `constant` gives an initializer, one per distinct content. Every
    value is typed and shaped when it is made, so that nothing downstream has to infer it.
    """

    def __init__(self, x: ir.Value):
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.origin: Origin | None = None
        self._x = x
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._taken: dict[str, int] = {}
        self._batch: ir.Value | None = None

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        *,
        dtype: ir.DataType,
        shape: Sequence[Dim],
        **attributes: Any,
    ) -> ir.Value:
        """Appends a node with one output.

        Args:
            kind: ONNX operator of the standard domain.
            inputs: its inputs; None for an optional one that is left out.
            dtype: type of the output.
            shape: shape of the output; a `BatchSize` becomes a symbolic dimension.
            attributes: ONNX attributes by name.

        Returns:
            The output value.
        """
        return self.ops(kind, inputs, outputs=[(dtype, shape)], **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        *,
        outputs: Sequence[tuple[ir.DataType, Sequence[Dim]]],
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Appends a node with several outputs, each given as (dtype, shape)."""
        node = ir.node(kind, list(inputs), attributes, num_outputs=len(outputs), name=self._unique(self._scope(kind)))
        for index, (value, (dtype, shape)) in enumerate(zip(node.outputs, outputs, strict=True)):
            value.name = f"{node.name}:{index}" if index else node.name
            value.dtype = dtype
            value.shape = ir.Shape([str(size) if isinstance(size, BatchSize) else size for size in shape])
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: Any, dtype: ir.DataType | None = None, name: str = "constant") -> ir.Value:
        """An initializer of this content; equal contents without a name of their own share one."""
        content = np.asarray(array)
        if dtype is not None:
            content = content.astype(_NUMPY[dtype])
        elif content.dtype == np.float64:
            content = content.astype(np.float32)
        content = np.ascontiguousarray(content).reshape(content.shape)
        key = (name, content.dtype.str, content.shape, content.tobytes())
        if key not in self._constants:
            unique = self._unique(name)
            value = ir.val(unique, const_value=ir.tensor(content, name=unique))
            value.dtype = ir.DataType.from_numpy(content.dtype)
            value.shape = ir.Shape(content.shape)
            self._constants[key] = self.initializers[unique] = value
        return self._constants[key]

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        """An int64 vector, for axes, pads and shapes."""
        return self.constant(np.asarray(numbers, np.int64).reshape(-1))

    def dims(self, shape: Sequence[Dim]) -> ir.Value:
        """An int64 vector of dimensions, read from the batch of x where they grow with it."""
        if not any(isinstance(size, BatchSize) for size in shape):
            return self.ints([size for size in shape if isinstance(size, int)])
        if self._batch is None:
            self._batch = self.op("Shape", [self._x], dtype=ir.DataType.INT64, shape=[1], start=0, end=1)
        pieces: list[ir.Value] = []
        fixed: list[int] = []
        for size in shape:
            if isinstance(size, BatchSize):
                if fixed:
                    pieces.append(self.ints(fixed))
                    fixed = []
                pieces.append(self._scaled_batch(size))
            else:
                fixed.append(size)
        if fixed:
            pieces.append(self.ints(fixed))
        if len(pieces) == 1:
            return pieces[0]
        return self.op("Concat", pieces, dtype=ir.DataType.INT64, shape=[len(shape)], axis=0)

    def reserve(self, name: str) -> None:
        """Keeps a name for a graph input or output."""
        self._taken[name] = 0

    def _scaled_batch(self, size: BatchSize) -> ir.Value:
        value = self._batch
        assert value is not None
        if size.factor != 1:
            value = self.op("Mul", [value, self.ints([size.factor])], dtype=ir.DataType.INT64, shape=[1])
        if size.offset:
            value = self.op("Add", [value, self.ints([size.offset])], dtype=ir.DataType.INT64, shape=[1])
        return value

    def _scope(self, kind: str) -> str:
        if self.origin is None:
            return kind
        half = "grad" if self.origin.backward else ""
        return "/".join(part for part in (self.origin.module, half, kind) if part)

    def _unique(self, name: str) -> str:
        unique = name
        while unique in self._taken:
            self._taken[name] = self._taken.get(name, 0) + 1
            unique = f"{name}_{self._taken[name]}"
        self._taken.setdefault(unique, 0)
        return unique
