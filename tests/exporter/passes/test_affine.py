from __future__ import annotations

import numpy as np
import pytest

from ebm_export.exporter.passes import FoldAffineIntoConv

from .graphs import check_pass, graph, kinds

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
W = RNG.normal(size=(6, 4, 3, 3)).astype(np.float32)
GROUPED = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
B = RNG.normal(size=6).astype(np.float32)


def per_channel(count: int) -> np.ndarray:
    return RNG.normal(size=(count, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_after_the_convolution(kind: str, bias: bool) -> None:
    made = graph(
        f"g (float[N, 4, 5, 5] x) => (float[N, 6, 3, 3] y) {{ a = Conv(x, w{', b' if bias else ''})  y = {kind}(c, a) }}",
        {"w": W, "c": per_channel(6)} | ({"b": B} if bias else {}),
    )
    assert check_pass(FoldAffineIntoConv(), made, {"x": X})
    assert kinds(made) == ["Conv"]


def test_a_batch_norm_leaves_one_convolution() -> None:
    made = graph(
        "g (float[N, 4, 5, 5] x) => (float[N, 6, 3, 3] y) { a = Conv(x, w)  d = Mul(a, s)  y = Add(d, t) }",
        {"w": W, "s": per_channel(6), "t": per_channel(6)},
    )
    while check_pass(FoldAffineIntoConv(), made, {"x": X}):
        pass
    assert kinds(made) == ["Conv"]


@pytest.mark.parametrize(("weight", "groups"), [(W, 1), (GROUPED, 2)])
@pytest.mark.parametrize("constant", [per_channel(4), np.array(3.0, np.float32)])
def test_before_the_convolution(weight: np.ndarray, groups: int, constant: np.ndarray) -> None:
    made = graph(
        f"g (float[N, 4, 5, 5] x) => (float[N, 6, h, w] y) {{ a = Mul(x, c)  y = Conv<group={groups}, pads=[1,1,1,1]>(a, k) }}",
        {"k": weight, "c": constant},
    )
    assert check_pass(FoldAffineIntoConv(), made, {"x": X})
    assert kinds(made) == ["Conv"]


@pytest.mark.parametrize(
    "constant", [RNG.normal(size=(5, 1)).astype(np.float32), RNG.normal(size=5).astype(np.float32)]
)
def test_a_scale_for_each_place_stays(constant: np.ndarray) -> None:
    made = graph(
        "g (float[N, 4, 5, 5] x) => (float[N, 6, h, w] y) { a = Mul(x, c)  y = Conv(a, k) }", {"k": W, "c": constant}
    )
    assert not check_pass(FoldAffineIntoConv(), made, {"x": X})


def test_a_convolution_that_others_read_stays() -> None:
    made = graph(
        "g (float[N, 4, 5, 5] x) => (float[N, 6, 3, 3] y, float[N, 6, 3, 3] z) { z = Conv(x, w)  y = Mul(z, c) }",
        {"w": W, "c": per_channel(6)},
    )
    assert not check_pass(FoldAffineIntoConv(), made, {"x": X})


def test_a_scale_that_makes_channels_of_one_stays() -> None:
    made = graph(
        "g (float[N, 1, 5, 5] x) => (float[N, 6, 3, 3] y) { a = Mul(x, c)  y = Conv(a, k) }",
        {"k": W, "c": per_channel(4)},
    )
    assert not check_pass(FoldAffineIntoConv(), made, {"x": X[:, :1]})


@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_a_constant_of_more_dimensions_stays(kind: str) -> None:
    made = graph(
        f"g (float[N, 4, 5, 5] x) => (float[1, N, 6, 3, 3] y) {{ a = Conv(x, k)  y = {kind}(a, c) }}",
        {"k": W, "c": np.full((1, 1, 1, 1, 1), 2.0, np.float32)},
    )
    assert not check_pass(FoldAffineIntoConv(), made, {"x": X})
