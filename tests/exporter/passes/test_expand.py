from __future__ import annotations

import numpy as np

from ebm_export.exporter.passes import DropExpand

from .graphs import check_pass, graph

X = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
Z = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
WIDE = {"s": np.array([1, 1, 4], np.int64), "t": np.array([-1, 3, 1], np.int64)}


def test_the_operation_broadcasts_by_itself() -> None:
    model = graph(
        "g (float[B, 3] x, float[B, 3, 4] z) => (float[B, 3, 4] y) "
        "<float[B, 3, 1] a, float[B, 3, 4] b> { a = Reshape(x, t)  b = Expand(a, s)  y = Mul(b, z) }",
        WIDE,
    )
    assert check_pass(DropExpand(), model, {"x": X, "z": Z})
    assert model.graph[-1].inputs[0].name == "a"


def test_work_with_a_constant_is_done_before_the_expand() -> None:
    model = graph(
        "g (float[B, 3] x, float[B, 3, 4] z) => (float[B, 3, 4] y) "
        "<float[B, 3, 1] a, float[B, 3, 4] b, float[B, 3, 4] c> "
        "{ a = Reshape(x, t)  b = Expand(a, s)  c = Mul(b, two)  y = Add(c, z) }",
        WIDE | {"two": np.array([[[2.0]]], np.float32)},
    )
    feeds = {"x": X, "z": Z}
    assert check_pass(DropExpand(), model, feeds)
    check_pass(DropExpand(), model, feeds)
    product = next(node for node in model.graph if node.op_type == "Mul")
    assert product.inputs[0].name == "a"
    assert model.graph[-1].inputs[0] is product.outputs[0]


def test_an_expand_that_nothing_else_widens_stays() -> None:
    model = graph(
        "g (float[B, 3] x) => (float[B, 4] y) { a = Reshape(x, t)  b = Expand(a, s)  y = ReduceSum<keepdims=0>(b, ax) }",
        WIDE | {"ax": np.array([1], np.int64)},
    )
    assert not check_pass(DropExpand(), model, {"x": X})
