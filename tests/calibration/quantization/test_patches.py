from __future__ import annotations

import numpy as np
import pytest

from ebm_export.calibration.quantization.patches import LayerShape, patches

from .graphs import graph, run

ATTRIBUTES = {
    "plain": ((3,), "", 1),
    "1-d": ((4,), "strides = [2], dilations = [2], pads = [1, 3]", 1),
    "2-d": ((3, 2), "strides = [2, 1], dilations = [1, 3], pads = [1, 0, 2, 3]", 1),
    "2-d in groups": ((3, 3), "group = 2, pads = [1, 1, 1, 1]", 2),
    "depthwise": ((3, 3), "group = 4, strides = [2, 2], pads = [0, 1, 1, 0]", 4),
    "1 x 1": ((1, 1), "strides = [2, 2]", 1),
    "3-d": ((2, 3, 1), "strides = [1, 2, 3], dilations = [3, 1, 1], pads = [2, 1, 0, 1, 0, 2]", 1),
    "3-d in groups": ((2, 2, 2), "group = 2", 2),
}


@pytest.mark.parametrize(("kernel", "attributes", "groups"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_times_weights_is_onnxruntimes_convolution(kernel: tuple[int, ...], attributes: str, groups: int) -> None:
    rng = np.random.default_rng(0)
    shape = (3, 4, *(11, 9, 7)[: len(kernel)])
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal((8, 4 // groups, *kernel)).astype(np.float32)
    dims = ", ".join(map(str, shape))
    model = graph(
        f"g (float[{dims}] x, float[3] grad_scale) => (float[B, C, {', '.join('DHW'[: len(kernel)])}] y) "
        f"{{ y = Conv <{attributes}> (x, w) }}".replace(" <>", ""),
        {"w": weight},
    )
    wanted = run(model, {"x": x, "grad_scale": np.ones(3, np.float32)})["y"]
    read = LayerShape.of(next(iter(model.graph)))
    assert read.groups == groups
    rows = patches(x, read, 10**6, rng)
    weights = weight.reshape(groups, 8 // groups, -1)
    got = np.concatenate([own @ w.T for own, w in zip(rows, weights, strict=True)], axis=1)  # [rows, N]
    np.testing.assert_allclose(got, np.moveaxis(wanted, 1, -1).reshape(-1, 8), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 3), (2, 7, 3), (2, 2, 4, 3)])
def test_a_product_reads_its_last_axis(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (rows,) = patches(x, LayerShape(), 100, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, x.reshape(-1, 3))


@pytest.mark.parametrize("shape", [LayerShape(), LayerShape((3,), (1,), (1,), (1, 1), 1)])
def test_rows_are_picked_once_and_the_same_from_a_seed(shape: LayerShape) -> None:
    x = np.arange(60, dtype=np.float32).reshape(5, 3, 4) + 1
    picked = patches(x, shape, 7, np.random.default_rng(3))[0]
    assert len(picked) == 7
    assert len(np.unique(picked, axis=0)) == 7
    every = {row.tobytes() for row in patches(x, shape, 10**6, np.random.default_rng(0))[0]}
    assert {row.tobytes() for row in picked} <= every
    np.testing.assert_array_equal(patches(x, shape, 7, np.random.default_rng(3))[0], picked)
    # Another array of that shape gives the same places: x and its rounded form must belong together.
    np.testing.assert_array_equal(patches(-x, shape, 7, np.random.default_rng(3))[0], -picked)
