"""The emulation rounds where an engine with float32 accumulation would, and nowhere else."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ebm_export.exporter.emulate import emulate
from ebm_export.runtime.errors import UnsupportedOperation

TYPES = {"fp16": (10, np.float16, torch.float16), "bf16": (16, ml_dtypes.bfloat16, torch.bfloat16)}
UNIT = {"fp16": 2.0**-10, "bf16": 2.0**-7}  # distance of neighbours, relative to the power of two below them
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4, 6, 8)).astype(np.float32)
WEIGHT = RNG.standard_normal((16, 4, 3, 3)).astype(np.float32)


def build(body: str, precision: str, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A graph y = body(x_low), x [B, 4, 6, 8] float32; LOW stands for the number of the low type."""
    number, dtype, _ = TYPES[precision]
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22]> g (float[B, 4, 6, 8] x) => (float[P, Q, R, S] y) '
        "{ x_low = Cast <to: int = LOW> (x) BODY y = Cast <to: int = 1> (y_low) }".replace("BODY", body).replace(
            "LOW", str(number)
        )
    )
    for name, array in (constants or {}).items():
        low = array.astype(dtype) if array.dtype == np.float32 else array
        model.graph.initializer.append(onnx.numpy_helper.from_array(low, name))
    return model


def run(model: onnx.ModelProto, x: np.ndarray = X) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["y"], {"x": x})[0]
    return result


def rounded(array: np.ndarray, precision: str) -> np.ndarray:
    return array.astype(TYPES[precision][1]).astype(np.float32)


def casts(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Cast" for node in model.graph.node)


@pytest.fixture(params=list(TYPES))
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestRounding:
    def test_the_casts_are_not_optimised_away(self, precision: str) -> None:
        y = run(emulate(build("y_low = Identity (x_low)", precision)))
        np.testing.assert_array_equal(y, rounded(X, precision))

    def test_every_result_is_rounded(self, precision: str) -> None:
        factor = {"a": np.float32(0.3), "b": np.float32(1.7)}
        y = run(emulate(build("t = Mul (x_low, a) y_low = Add (t, b)", precision, factor)))  # type: ignore[arg-type]
        a, b = (rounded(np.float32(value), precision) for value in factor.values())
        np.testing.assert_array_equal(y, rounded(rounded(rounded(X, precision) * a, precision) + b, precision))

    def test_a_convolution_is_rounded_once_after_accumulating_in_float32(self, precision: str) -> None:
        y = run(emulate(build("y_low = Conv <pads = [1, 1, 1, 1]> (x_low, w)", precision, {"w": WEIGHT})))
        low = TYPES[precision][2]
        x, w = torch.from_numpy(X).to(low).double(), torch.from_numpy(WEIGHT).to(low).double()
        exact = torch.nn.functional.conv2d(x, w, padding=1).numpy()
        # The order of a float32 sum decides now and then which neighbour a result close to the middle goes to.
        np.testing.assert_array_equal(y, rounded(y, precision))
        assert np.mean(y == rounded(exact.astype(np.float32), precision)) > 0.99
        assert np.max(np.abs(y - exact) / np.maximum(np.abs(exact), 1e-3)) < UNIT[precision]

    def test_it_agrees_with_pytorch_in_bf16(self) -> None:
        body = "h = Conv <pads = [1, 1, 1, 1]> (x_low, w) s = Sigmoid (h) y_low = Mul (h, s)"
        y = run(emulate(build(body, "bf16", {"w": WEIGHT})))
        h = torch.nn.functional.conv2d(torch.from_numpy(X).bfloat16(), torch.from_numpy(WEIGHT).bfloat16(), padding=1)
        expected = (h * torch.sigmoid(h)).float().numpy()
        assert np.mean(y == expected) > 0.98
        assert np.linalg.norm(y - expected) < 1e-3 * np.linalg.norm(expected)

    def test_fp16_overflows_as_on_a_gpu(self) -> None:
        model = build(
            "t = Mul (x_low, big) y_low = Mul (t, small)", "fp16", {"big": np.float32(6e4), "small": np.float32(1e-4)}
        )  # type: ignore[dict-item]
        x = np.full_like(X, 2.0)
        assert np.isfinite(run(model, x)).all()  # what onnxruntime makes of the same graph
        assert np.isinf(run(emulate(model), x)).all()

    def test_operations_that_move_numbers_are_not_rounded_again(self, precision: str) -> None:
        body = "t = Transpose <perm = [0, 2, 3, 1]> (x_low) u = Relu (t) y_low = Neg (u)"
        emulated = emulate(build(body, precision))
        assert casts(emulated) == 3  # x to low, back, and the one that made y float32
        np.testing.assert_array_equal(run(emulated), -np.maximum(rounded(X, precision).transpose(0, 2, 3, 1), 0))

    def test_low_types_in_attributes_and_constants(self, precision: str) -> None:
        dtype = TYPES[precision][1]
        model = build("s = Shape (x_low) y_low = Identity (x_low)", precision)
        fill = onnx.numpy_helper.from_array(np.full(1, 0.3).astype(dtype))
        graph = model.graph
        end = graph.node.pop()
        graph.node.extend(
            [
                onnx.helper.make_node("ConstantOfShape", ["s"], ["c"], value=fill),
                onnx.helper.make_node(
                    "Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.array(1.7).astype(dtype))
                ),
                onnx.helper.make_node("Mul", ["c", "k"], ["ck"]),
                onnx.helper.make_node("Max", ["y_low", "ck"], ["m"]),
                onnx.helper.make_node("Cast", ["m"], ["y"], to=end.attribute[0].i),
            ]
        )
        three_tenths, factor = (rounded(np.float32(value), precision) for value in (0.3, 1.7))
        expected = np.maximum(rounded(X, precision), rounded(np.float32(three_tenths * factor), precision))
        np.testing.assert_array_equal(run(emulate(model)), expected)

    def test_cast_like(self, precision: str) -> None:
        body = "n = Cast <to: int = 7> (x_low) f = CastLike (n, x_low) y_low = Mul (f, f)"
        whole = np.trunc(rounded(X * 9, precision))
        np.testing.assert_array_equal(run(emulate(build(body, precision)), X * 9), rounded(whole**2, precision))


class TestWithoutRounding:
    def test_only_the_weights_are_low(self, precision: str) -> None:
        body = "y_low = Conv <pads = [1, 1, 1, 1]> (x_low, w)"
        y = run(emulate(build(body, precision, {"w": WEIGHT}), rounding=False))
        w = torch.from_numpy(rounded(WEIGHT, precision))
        np.testing.assert_allclose(y, torch.nn.functional.conv2d(torch.from_numpy(X), w, padding=1), atol=2e-5)

    def test_weights_stay_small_in_the_file(self, precision: str) -> None:
        model = build("y_low = Conv (x_low, w)", precision, {"w": WEIGHT})
        (weight,) = emulate(model, rounding=False).graph.initializer
        assert weight.data_type == TYPES[precision][0]


def test_the_model_given_is_not_changed() -> None:
    model = build("y_low = Conv (x_low, w)", "bf16", {"w": WEIGHT})
    before = model.SerializeToString()
    emulate(model)
    assert model.SerializeToString() == before


def test_a_float32_graph_stays_as_it_is() -> None:
    text = '<ir_version: 10, opset_import: ["" : 22]> g (float[B, 4] x) => (float[B, 4] y) { t = Exp (x) y = Neg (t) }'
    nodes = emulate(onnx.parser.parse_model(text)).graph.node
    assert [node.op_type for node in nodes] == ["Exp", "Neg"]


class TestErrors:
    def test_a_low_border(self) -> None:
        text = '<ir_version: 10, opset_import: ["" : 22]> g (float16[B] x) => (float16[B] y) { y = Neg (x) }'
        with pytest.raises(UnsupportedOperation, match="border is float32; 'x' is FLOAT16"):
            emulate(onnx.parser.parse_model(text))

    def test_a_subgraph(self) -> None:
        branch = onnx.parser.parse_graph("b () => (float o) { o = Constant <value: tensor = float {1.0}> () }")
        model = build("y_low = Neg (x_low)", "bf16")
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(
            onnx.helper.make_node("If", ["yes"], ["unused"], name="choose", then_branch=branch, else_branch=branch)
        )
        with pytest.raises(UnsupportedOperation, match=r"into subgraphs; node 'choose' \(If\)"):
            emulate(model)

    def test_a_type_that_nobody_knows(self) -> None:
        model = build("t = Mystery (x_low) y_low = Neg (t)", "bf16")
        model.graph.node[1].domain = "elsewhere"
        model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
        with pytest.raises(UnsupportedOperation, match=r"does not know the type of 't' of node .* \(Mystery\)"):
            emulate(model)
