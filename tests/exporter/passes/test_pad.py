from __future__ import annotations

import numpy as np
import pytest

from ebm_export.exporter.passes import FusePadIntoConv

from .graphs import check_pass, graph, kinds

X = np.random.default_rng(0).normal(size=(2, 2, 5, 6)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(3, 2, 3, 3)).astype(np.float32)
TEXT = (
    "g (float[B, 2, 5, 6] x) => (float[B, 3, h, w] y) {{ a = Pad{mode}(x, p{fill})  y = Conv<pads=[1,0,0,1]>(a, k) }}"
)


def model(pads: list[int], fill: str = "", mode: str = ""):
    constants = {"p": np.array(pads, np.int64), "k": W}
    if fill:
        constants["c"] = np.array(float(fill), np.float32)
    return graph(TEXT.format(fill=", c" if fill else "", mode=mode), constants)


@pytest.mark.parametrize("fill", ["", "0"])
def test_zeros_around_the_image_become_pads(fill: str) -> None:
    made = model([0, 0, 1, 2, 0, 0, 3, 0], fill)
    assert check_pass(FusePadIntoConv(), made, {"x": X})
    assert kinds(made) == ["Conv"]
    assert list(made.graph[0].attributes["pads"].as_ints()) == [2, 2, 3, 1]


@pytest.mark.parametrize(
    ("pads", "fill", "mode"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], "0.5", ""),
        ([0, 0, 1, 1, 0, 0, 1, 1], "", '<mode="reflect">'),
        ([0, 0, -1, 0, 0, 0, 0, 0], "0", ""),
    ],
)
def test_anything_else_stays(pads: list[int], fill: str, mode: str) -> None:
    assert not check_pass(FusePadIntoConv(), model(pads, fill, mode), {"x": X})


def test_a_pad_that_others_read_stays() -> None:
    made = graph(
        "g (float[B, 2, 5, 6] x) => (float[B, 3, h, w] y, float[B, 2, i, j] z) { a = Pad(x, p)  y = Conv(a, k)  z = Neg(a) }",
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "k": W},
    )
    assert not check_pass(FusePadIntoConv(), made, {"x": X})
