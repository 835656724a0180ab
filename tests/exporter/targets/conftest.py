"""A small score graph in every precision, for the writers of the targets."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest

TYPES = {
    "fp32": (1, np.float32),
    "fp16": (10, np.float16),
    "bf16": (16, ml_dtypes.bfloat16),
}  # number in ONNX, in numpy
TEXT = """
<ir_version: 10, opset_import: ["" : 22]>
score (float[B, 2, 6, 6] x, float[B] grad_scale) => (float[B] energy, float[B, 2, 6, 6] grad) {
    x_low = Cast <to: int = LOW> (x)
    h = Conv <pads = [1, 1, 1, 1]> (x_low, weight, bias)
    s = Sigmoid (h)
    s_wide = Cast <to: int = 1> (s)
    energy = ReduceSum <keepdims: int = 0> (s_wide, axes)
    cotangent = Reshape (grad_scale, per_sample)
    cotangent_low = Cast <to: int = LOW> (cotangent)
    one_minus_s = Sub (one, s)
    slope = Mul (s, one_minus_s)
    grad_h = Mul (slope, cotangent_low)
    grad_x = Conv <pads = [1, 1, 1, 1]> (grad_h, flipped)
    grad = Cast <to: int = 1> (grad_x)
}
"""


def build_score_graph(precision: str) -> onnx.ModelProto:
    """E(x) = sum(sigmoid(conv(x))) and its gradient, 64 channels, float32 at the border and in the sum."""
    number, dtype = TYPES[precision]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 2, 3, 3))
    constants = {
        "weight": weight.astype(dtype),
        "flipped": np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)).astype(dtype),
        "bias": rng.standard_normal(64).astype(dtype),
        "one": np.ones((), dtype),
        "axes": np.array([1, 2, 3]),
        "per_sample": np.array([-1, 1, 1, 1]),
    }
    model = onnx.parser.parse_model(TEXT.replace("LOW", str(number)))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return model


@pytest.fixture
def score_graph() -> Callable[[str], onnx.ModelProto]:
    """A function from the precision to the graph."""
    return build_score_graph


@pytest.fixture
def batch_of() -> Callable[[int], dict[str, np.ndarray]]:
    """A function from the batch size to inputs of the graph."""

    def draw(size: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(size)
        return {
            "x": rng.standard_normal((size, 2, 6, 6)).astype(np.float32),
            "grad_scale": rng.uniform(0.5, 2, size).astype(np.float32),
        }

    return draw


@pytest.fixture
def float64_gradient() -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """A function from inputs to grad_scale * dE/dx [B, 2, 6, 6], by float64 autograd."""
    import torch

    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in build_score_graph("fp32").graph.initializer
    }
    weight, bias = (torch.tensor(constants[name]).double() for name in ("weight", "bias"))

    def gradient(inputs: dict[str, np.ndarray]) -> np.ndarray:
        x = torch.tensor(inputs["x"]).double().requires_grad_()
        energy = torch.sigmoid(torch.nn.functional.conv2d(x, weight, bias, padding=1)).sum((1, 2, 3))
        (result,) = torch.autograd.grad(energy, x, torch.tensor(inputs["grad_scale"]).double())
        return result.numpy()

    return gradient
