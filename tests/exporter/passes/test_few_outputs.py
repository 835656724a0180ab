"""Convolutions with few outputs, through OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ebm_export.exporter.passes.few_outputs import SplitFewOutputs
from ebm_export.runtime.backends.openvino import OpenVinoEngine

from .graphs import check_pass, graph, kinds

RNG = np.random.default_rng(0)


def model_of(kernel: tuple[int, ...], attributes: str = "pads = [1,1,1,1]", bias: bool = False) -> ir.Model:
    """y = Conv(relu(x), k): 9 x 7 places."""
    size = 0.1 / np.sqrt(np.prod(kernel[1:]))
    constants = {"k": (size * RNG.standard_normal(kernel)).astype(np.float32)}
    if bias:
        constants["b"] = RNG.standard_normal(kernel[0]).astype(np.float32)
    channels = kernel[1] * (3 if "group = 3" in attributes else 1)
    return graph(
        f"g (float[B, {channels}, 9, 7] x) => (float[B, {kernel[0]}, h, w] y) "
        f"{{ a = Relu(x)  y = Conv<{attributes}>(a, k{', b' if bias else ''}) }}",
        constants,
    )


def x_of(model: ir.Model) -> np.ndarray:
    return RNG.standard_normal((4, *model.graph.inputs[0].shape[1:])).astype(np.float32)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 64, 3, 3), "pads = [1,1,1,1]"),
        ((1, 32, 3, 3), "pads = [0,2,1,0]"),
        ((1, 64, 5, 5), "pads = [2,2,2,2]"),
        ((2, 64, 1, 3), "pads = [0,1,0,1]"),
        ((3, 128, 3, 3), "strides = [1,1]"),
        ((4, 96, 3, 2), "pads = [1,1,1,0], dilations = [1,1]"),
    ],
)
def test_three_give_what_one_does(kernel: tuple[int, ...], attributes: str, bias: bool, tmp_path: Path) -> None:
    model = model_of(kernel, attributes, bias)
    x = x_of(model)
    before = on_openvino(model, x, tmp_path)
    assert check_pass(SplitFewOutputs(), model, {"x": x})
    assert kinds(model) == ["Relu", "Conv", "Conv", "Conv"]
    assert not check_pass(SplitFewOutputs(), model, {"x": x})
    after = on_openvino(model, x, tmp_path)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 64, 1, 1), "pads = [0,0,0,0]"),  # one tap
        ((3, 4, 3, 3), "pads = [1,1,1,1]"),  # few inputs
        ((16, 64, 3, 3), "pads = [1,1,1,1]"),  # no lane is empty
        ((3, 64, 3, 3), "strides = [2,2]"),
        ((3, 64, 3, 3), "dilations = [1,2]"),
        ((3, 64, 3, 3), "group = 3"),
        ((3, 64, 3, 3), 'auto_pad = "SAME_UPPER"'),
    ],
)
def test_others_stay(kernel: tuple[int, ...], attributes: str) -> None:
    model = model_of(kernel, attributes)
    assert not check_pass(SplitFewOutputs(), model, {"x": x_of(model)})
    assert kinds(model) == ["Relu", "Conv"]


def test_the_parts_count_as_one_layer(tmp_path: Path) -> None:
    model = model_of((3, 64, 3, 3))
    model.graph[1].name = "net.part.0/Conv"  # of a module that is called so
    SplitFewOutputs()(model)
    onnx.save(ir.to_proto(model), tmp_path / "m.onnx")
    with OpenVinoEngine(tmp_path / "m.onnx", precision="fp32", threads=1) as engine:
        engine.run({"x": x_of(model)})
        assert engine.int8_layers == (0, 1)
        assert len(engine.arithmetic_layers) == len(engine.arithmetic_nodes) == 1


def on_openvino(model: ir.Model, x: np.ndarray, folder: Path) -> np.ndarray:
    onnx.save(ir.to_proto(model), folder / "m.onnx")
    with OpenVinoEngine(folder / "m.onnx", precision="fp32", threads=1) as engine:
        return engine.run({"x": x})["y"].copy()
