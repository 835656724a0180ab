"""Constants for each place before convolutions, through OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

from ebm_export.exporter.passes.places import KeepScaledPlaces
from ebm_export.runtime.backends.openvino import OpenVinoEngine

from .graphs import check_pass, graph

RNG = np.random.default_rng(0)
X = RNG.uniform(0.5, 2.0, (4, 3, 3, 3)).astype(np.float32)


def model_of(
    operation: str, scale: tuple[int, ...], kernel: tuple[int, ...] = (4, 3, 3, 3), pads: str = "1,1,1,1"
) -> ir.Model:
    """A convolution of x [B, 3, 3, 3] and a constant."""
    return graph(
        f"g (float[B, 3, 3, 3] x) => (float[B, {kernel[0]}, h, w] y) "
        f"{{ a = {operation}  y = Conv<pads = [{pads}], group = {3 // kernel[1]}>(a, k) }}",
        {
            "c": RNG.uniform(0.5, 2.0, scale).astype(np.float32),
            "k": RNG.standard_normal(kernel).astype(np.float32),
        },
    )


@pytest.mark.parametrize("operation", ["Mul(x, c)", "Mul(c, x)", "Div(x, c)", "Div(c, x)"])
@pytest.mark.parametrize("scale", [(3,), (3, 1), (3, 3), (1, 3, 3), (3, 3, 3), (3, 1, 3), (1, 3, 3, 3)])
@pytest.mark.parametrize("kernel", [(4, 3, 3, 3), (3, 1, 3, 3)])
def test_places_are_no_taps(operation: str, scale: tuple[int, ...], kernel: tuple[int, ...], tmp_path: Path) -> None:
    model = model_of(operation, scale, kernel)
    expected = ir.to_proto(model)
    assert check_pass(KeepScaledPlaces(), model, {"x": X})
    assert not check_pass(KeepScaledPlaces(), model, {"x": X})
    check_on_openvino(expected, model, tmp_path)


@pytest.mark.parametrize("operation", ["Mul(x, c)", "Div(x, c)"])
def test_channels_made_of_one(operation: str, tmp_path: Path) -> None:
    model = graph(
        f"g (float[B, 1, 3, 3] x) => (float[B, 4, 1, 1] y) {{ a = {operation}  y = Conv(a, k) }}",
        {
            "c": RNG.uniform(0.5, 2.0, (1, 3, 1, 1)).astype(np.float32),
            "k": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
        },
    )
    expected = ir.to_proto(model)
    assert check_pass(KeepScaledPlaces(), model, {"x": X[:, :1]})
    check_on_openvino(expected, model, tmp_path, X[:, :1])


def check_on_openvino(before: onnx.ModelProto, model: ir.Model, folder: Path, x: np.ndarray = X) -> None:
    answer = onnx.reference.ReferenceEvaluator(before).run(None, {"x": x})[0]
    onnx.save(ir.to_proto(model), folder / "m.onnx")
    with OpenVinoEngine(folder / "m.onnx", precision="fp32", threads=1) as engine:
        for size in (1, 4):
            np.testing.assert_allclose(engine.run({"x": x[:size]})["y"], answer[:size], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("operation", "scale", "kernel", "pads"),
    [
        ("Mul(x, c)", (3, 1, 1), (4, 3, 3, 3), "1,1,1,1"),
        ("Mul(x, c)", (), (4, 3, 3, 3), "1,1,1,1"),
        ("Mul(x, c)", (3, 3), (4, 3, 1, 1), "0,0,0,0"),
        ("Mul(x, c)", (3, 3), (4, 3, 2, 2), "0,0,0,0"),
    ],
)
def test_what_openvino_does_right_stays(
    operation: str, scale: tuple[int, ...], kernel: tuple[int, ...], pads: str, tmp_path: Path
) -> None:
    model = model_of(operation, scale, kernel, pads)
    assert not check_pass(KeepScaledPlaces(), model, {"x": X})
    check_on_openvino(ir.to_proto(model), model, tmp_path)
