"""Builds a graph around copies of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["GraphBuilder"]

_FLOAT = ir.DataType.FLOAT


class GraphBuilder:
    """Appends operations, and copies of a graph that share its initializers.

    Args:
        source: the model whose graph is copied; gives the operator set. Not changed.
        name: of the new graph; begins the names of what is appended.
        within: the graph that this one is the body of an operation in, whose values it may read.
    """

    def __init__(self, source: ir.Model, name: str, within: GraphBuilder | None = None) -> None:
        self._source, self._name = source, name
        self._graph = ir.Graph([], [], nodes=[], opset_imports=dict(source.graph.opset_imports), name=name)
        self._root = within or self  # which keeps the initializers of all
        self._shared: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._same: dict[tuple[Any, ...], ir.Value] = {}
        self._copies = 0

    def input(self, name: str, shape: Sequence[int | str], dtype: ir.DataType = _FLOAT) -> ir.Value:
        """An input of the graph."""
        value = ir.val(name, dtype=dtype, shape=ir.Shape(list(shape)))
        self._graph.inputs.append(value)
        return value

    def input_like(self, other: ir.Value) -> ir.Value:
        """An input with the name, type and shape of another graph's."""
        value = ir.val(other.name or "", dtype=other.dtype, shape=other.shape)
        self._graph.inputs.append(value)
        return value

    def op(self, kind: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """Appends an operation with one output; one that is there already is not done twice."""
        key = (kind, tuple(inputs), tuple(sorted(attributes.items())))
        if kind.startswith("Random"):
            return self.ops(kind, inputs, 1, **attributes)[0]
        if key not in self._same:
            self._same[key] = self.ops(kind, inputs, 1, **attributes)[0]
        return self._same[key]

    def ops(self, kind: str, inputs: Sequence[ir.Value], outputs: int, **attributes: Any) -> list[ir.Value]:
        """Appends an operation with several outputs."""
        name = f"{self._name}/{kind}_{len(self._graph)}"
        node = ir.node(kind, list(inputs), attributes, num_outputs=outputs, name=name)
        for number, value in enumerate(node.outputs):
            value.name = name if outputs == 1 else f"{name}.{number}"
        self._graph.append(node)
        return list(node.outputs)

    def split(self, series: ir.Value, count: int) -> list[ir.Value]:
        """[K, ...] -> K values [1, ...]."""
        return [series] if count == 1 else self.ops("Split", [series], count, axis=0, num_outputs=count)

    def body(self, name: str) -> GraphBuilder:
        """Begins the body of an operation of this graph."""
        return GraphBuilder(self._source, name, self._root)

    def scalar(self, number: float) -> ir.Value:
        """A float32 constant without dimensions."""
        return self.stored(np.array(number, np.float32))

    def index(self, number: int) -> ir.Value:
        """An int64 constant without dimensions."""
        return self.stored(np.array(number, np.int64))

    def constant(self, numbers: Sequence[int]) -> ir.Value:
        """An int64 vector."""
        return self.stored(np.array(numbers, np.int64))

    def inline(self, graph: ir.Graph, feeds: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """Appends a copy of a graph.

        Args:
            graph: without subgraphs; its initializers are shared by all copies.
            feeds: what stands in the place of its inputs, by name; gets their types and shapes where it has none, as passes take a graph
                by them, and are to do the same to each copy.

        Returns:
            Its outputs by name.
        """
        self._copies += 1
        values: dict[ir.Value, ir.Value] = {value: feeds[value.name or ""] for value in graph.inputs}
        for value, fed in values.items():
            if fed.shape is None:
                fed.type, fed.shape = value.type, value.shape
        for stored in graph.initializers.values():
            values[stored] = self._root._initializer(stored)
        for node in graph:
            copy = ir.node(
                node.op_type,
                [None if value is None else values[value] for value in node.inputs],
                {name: attribute.value for name, attribute in node.attributes.items()},
                domain=node.domain,
                num_outputs=len(node.outputs),
                name=f"{self._name}/{node.name}.{self._copies}",
            )
            copy.metadata_props.update(node.metadata_props)
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name, new.type, new.shape = f"{self._name}/{old.name}.{self._copies}", old.type, old.shape
                values[old] = new
            self._graph.append(copy)
        return {value.name or "": values[value] for value in graph.outputs}

    def output(self, name: str, value: ir.Value, shape: Sequence[int | str], dtype: ir.DataType = _FLOAT) -> None:
        """Makes a value an output of the graph under a name of its own."""
        node = ir.node("Identity", [value], name=name)
        out = node.outputs[0]
        out.name, out.dtype, out.shape = name, dtype, ir.Shape(list(shape))
        self._graph.append(node)
        self._graph.outputs.append(out)

    def model(self) -> ir.Model:
        """The whole."""
        return ir.Model(self._graph, ir_version=self._source.ir_version)

    @property
    def graph(self) -> ir.Graph:
        """What has been built, as the body of an operation."""
        return self._graph

    def stored(self, array: np.ndarray) -> ir.Value:
        """A constant; equal ones are kept once."""
        root = self._root
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in root._constants:
            root._constants[key] = root._registered(f"{root._name}/constant_{len(root._constants)}", array)
        return root._constants[key]

    def _registered(self, name: str, array: np.ndarray) -> ir.Value:
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self._graph.register_initializer(value)
        return value

    def _initializer(self, stored: ir.Value) -> ir.Value:
        """The copy of a graph's constant. Two graphs may have others under one name, as where each is quantized by itself."""
        if stored not in self._shared:
            name, kept = stored.name or "", self._graph.initializers
            while name in kept and not _equal(kept[name], stored):
                name += ".other"
            if name not in kept:
                value = ir.val(name, const_value=stored.const_value)
                value.type, value.shape = stored.type, stored.shape
                self._graph.register_initializer(value)
            self._shared[stored] = kept[name]
        return self._shared[stored]


def _equal(one: ir.Value, other: ir.Value) -> bool:
    kept, given = one.const_value, other.const_value
    assert kept is not None and given is not None
    alike = (kept.dtype, kept.shape) == (given.dtype, given.shape)
    return kept is given or (alike and kept.tobytes() == given.tobytes())
