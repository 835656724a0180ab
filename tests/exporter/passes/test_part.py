from __future__ import annotations

import numpy as np
import pytest

from ebm_export.exporter.passes import PartProducts, SliceProducts

from .graphs import check_pass, graph, kinds

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


W, W_ALL, B = normal(7, 5), normal(9, 5), normal(5)
FEEDS = {"x": normal(2, 4), "c": normal(2, 3)}
INPUTS = "float[N, 4] x, float[N, 3] c"


@pytest.mark.parametrize(("kind", "rest"), [("MatMul", ""), ("Gemm", ""), ("Gemm", ", b")])
@pytest.mark.parametrize("order", ["x, c", "c, x"])
def test_a_condition_beside_x_has_a_product_of_its_own(kind: str, rest: str, order: str) -> None:
    made = graph(
        f"g ({INPUTS}) => (float[N, 5] y) {{ a = Concat<axis=-1>({order})  y = {kind}(a, w{rest}) }}",
        {"w": W} | ({"b": B} if rest else {}),
    )
    assert check_pass(PartProducts(), made, FEEDS)
    products = [node for node in made.graph if node.op_type in ("MatMul", "Gemm")]
    assert [[value.name for value in node.inputs[:1]] for node in products] == [["c"], ["x"]]
    assert (len(made.graph), kinds(made)[-1]) == (3, "Add")
    assert not check_pass(PartProducts(), made, FEEDS)


def test_parts_of_one_kind_stay_together() -> None:
    made = graph(
        "g (float[N, 4] x, float[N, 3] c, float[N, 2] d) => (float[N, 5] y) { a = Concat<axis=1>(c, x, d)  y = Gemm(a, w, b) }",
        {"w": W_ALL, "b": B},
    )
    assert check_pass(PartProducts(), made, {**FEEDS, "d": normal(2, 2)})
    assert kinds(made) == ["Concat", "Gemm", "MatMul", "Add"]


def test_channels_of_a_convolution() -> None:
    made = graph(
        "g (float[N, 2, 6, 6] x, float[N, 3, 6, 6] c) => (float[N, 4, 3, 3] y) "
        "{ a = Concat<axis=1>(x, c)  y = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w, b) }",
        {"w": normal(4, 5, 3, 3), "b": normal(4)},
    )
    assert check_pass(PartProducts(), made, {"x": normal(2, 2, 6, 6), "c": normal(2, 3, 6, 6)})
    assert kinds(made) == ["Conv", "Conv", "Add"]
    steady, moving = (node for node in made.graph if node.op_type == "Conv")
    assert (len(steady.inputs), len(moving.inputs)) == (3, 2)  # the bias is added once


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("a = Concat<axis=1>(x, x)  y = MatMul(a, w)", {"w": normal(8, 5)}),  # nothing that stays
        ("a = Concat<axis=1>(x, c)  z = Sin(a)  s = MatMul(a, w)  t = MatMul(z, w)  y = Add(s, t)", {"w": W}),
        ("a = Concat<axis=1>(x, c)  y = Gemm<alpha=2.0>(a, w)", {"w": W}),
        ("a = Concat<axis=1>(x, c)  y = Gemm<transB=1>(a, w)", {"w": np.ascontiguousarray(W.T)}),
        ("a = Concat<axis=0>(x, d)  b = MatMul(a, w)  y = Sin(b)", {"w": normal(4, 5), "d": normal(2, 4)}),
    ],
)
def test_anything_else_stays(body: str, constants: dict[str, np.ndarray]) -> None:
    made = graph(f"g ({INPUTS}) => (float[M, 5] y) {{ {body} }}", constants)
    assert not check_pass(PartProducts(), made, FEEDS)


def slices(start: int, end: int, axis: int, step: int = 1) -> dict[str, np.ndarray]:
    arrays = {"s": start, "e": end, "d": axis, "t": step}
    return {name: np.array([number], np.int64) for name, number in arrays.items()}


@pytest.mark.parametrize(("start", "end", "size"), [(0, 3, 3), (2, 2**62, 3), (-2, 5, 2)])
def test_columns_that_nobody_reads(start: int, end: int, size: int) -> None:
    made = graph(
        f"g (float[N, 4] x) => (float[N, {size}] y) {{ a = MatMul(x, w)  y = Slice(a, s, e, d, t) }}",
        {"w": normal(4, 5), **slices(start, end, 1)},
    )
    assert check_pass(SliceProducts(), made, {"x": FEEDS["x"]})
    assert kinds(made) == ["MatMul"]


def test_channels_that_nobody_reads() -> None:
    made = graph(
        "g (float[N, 3, 6, 6] x) => (float[N, 2, 6, 6] y) { a = Conv<pads=[1,1,1,1]>(x, w, b)  y = Slice(a, s, e, d) }",
        {"w": normal(5, 3, 3, 3), "b": normal(5), **slices(1, 3, 1)},
    )
    assert check_pass(SliceProducts(), made, {"x": normal(2, 3, 6, 6)})
    assert kinds(made) == ["Conv"]


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        ("a = MatMul(x, w)  y = Slice(a, s, e, d, t)", slices(0, 5, 1, 2)),
        ("a = MatMul(x, w)  y = Slice(a, s, e, d, t)", slices(0, 1, 0)),
        ("a = MatMul(x, w)  b = Slice(a, s, e, d, t)  f = ReduceSum<keepdims=1>(a)  y = Add(b, f)", slices(0, 3, 1)),
    ],
)
def test_other_slices_stay(body: str, numbers: dict[str, np.ndarray]) -> None:
    made = graph(f"g (float[N, 4] x) => (float[M, K] y) {{ {body} }}", {"w": normal(4, 5), **numbers})
    assert not check_pass(SliceProducts(), made, {"x": FEEDS["x"]})
