"""Windows of INT8 convolutions, through OpenVINO."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.exporter.passes.windows import WidenInt8Windows
from ebm_export.exporter.targets.openvino import write
from ebm_export.runtime.backends.openvino import OpenVinoEngine

from .graphs import check_pass, graph, run

RNG = np.random.default_rng(0)
OUT = 16


def model_of(
    channels: int, window: tuple[int, ...], stride: tuple[int, ...], *, groups: int = 1, more: str = ""
) -> ir.Model:
    """A convolution in INT8 of x [B, channels * groups, 24, ...]."""
    sizes = ", ".join(["24"] * len(window))
    shape = (OUT, channels, *window)
    out = ", ".join(f"o{axis}" for axis in range(len(window)))
    strides = ", ".join(map(str, stride))
    return graph(
        f"g (float[B, {channels * groups}, {sizes}] x) => (float[B, {OUT}, {out}] y) {{"
        " r = Relu(x)  q = QuantizeLinear(r, s, z)  a = DequantizeLinear(q, s, z)"
        f" k = DequantizeLinear<axis = 0>(w, ws, wz)  c = Conv<strides = [{strides}], group = {groups}{more}>(a, k, b)  y = Relu(c) }}",
        {
            "s": np.float32(1 / 64),  # powers of two, so that sums are exact
            "z": np.uint8(0),
            "w": RNG.integers(-7, 8, shape).astype(np.int8),
            "ws": np.full(OUT, 2.0**-10, np.float32),
            "wz": np.zeros(OUT, np.int8),
            "b": np.full(OUT, 0.125, np.float32),
        },
    )


def states(model: ir.Model) -> np.ndarray:
    shape = model.graph.inputs[0].shape
    assert shape is not None
    return RNG.uniform(0, 3, (2, *(int(size) for size in list(shape)[1:]))).astype(np.float32)


@pytest.mark.parametrize(
    ("channels", "window", "stride", "groups"),
    [
        (32, (4,), (4,), 1), (48, (8,), (4,), 1), (16, (8,), (8,), 1), (24, (12,), (6,), 1), (32, (12,), (12,), 1), (32, (4,), (4,), 2),
        (32, (4, 4), (4, 4), 1), (32, (3, 4), (1, 4), 1), (16, (8, 8), (8, 8), 1), (32, (4, 4), (2, 8), 1), (32, (4, 4, 4), (4, 4, 4), 1),
    ],
)  # fmt: skip
def test_what_openvino_gets_wrong(
    channels: int, window: tuple[int, ...], stride: tuple[int, ...], groups: int, tmp_path: Path
) -> None:
    model = model_of(channels, window, stride, groups=groups)
    before = ir.to_proto(model)
    x = states(model)
    (wanted,) = run(model, {"x": x})
    assert check_pass(WidenInt8Windows(), model, {"x": x})
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert math.gcd(conv.attributes["kernel_shape"].as_ints()[-1], stride[-1]) <= 2
    assert not check_pass(WidenInt8Windows(), model, {"x": x})
    written = write(before, tmp_path, precision="int8", batch=(1, 2, 2))
    with OpenVinoEngine(tmp_path / written["path"], precision="int8") as engine:
        got = engine.run({"x": x})["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        model_of(64, (4,), (4,)),  # enough channels
        model_of(32, (3,), (1,)),
        model_of(32, (4,), (2,)),
        model_of(32, (5,), (4,)),
        model_of(32, (4, 4), (4, 1)),  # along another axis than the last
        model_of(32, (4,), (4,), more=", dilations = [2]"),
        model_of(32, (4,), (4,), more=', auto_pad = "SAME_UPPER"'),
    ],
)
def test_what_stays(model: ir.Model) -> None:
    assert not check_pass(WidenInt8Windows(), model, {"x": states(model)})


def test_padding_that_is_not_worked_out() -> None:
    model = model_of(32, (4,), (4,), more=', auto_pad = "NOTSET", pads = [2, 1]')
    assert check_pass(WidenInt8Windows(), model, {"x": states(model)})


def test_weights_of_two_convolutions_stay() -> None:
    model = model_of(32, (4,), (4,))
    conv = next(node for node in model.graph if node.op_type == "Conv")
    other = ir.node("Conv", list(conv.inputs), {"strides": [1]}, name="other")
    other.outputs[0].name, other.outputs[0].type = "other", conv.outputs[0].type
    other.outputs[0].shape = ir.Shape(["B", OUT, 21])
    model.graph.insert_after(conv, other)
    model.graph.outputs.append(other.outputs[0])
    assert not check_pass(WidenInt8Windows(), model, {"x": states(model)})


def test_weights_in_float32_stay() -> None:
    model = graph(
        "g (float[B, 32, 24] x) => (float[B, 8, 6] y) { y = Conv<strides = [4]>(x, k) }",
        {"k": RNG.standard_normal((8, 32, 4)).astype(np.float32)},
    )
    assert not check_pass(WidenInt8Windows(), model, {"x": states(model)})
