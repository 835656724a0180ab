from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration.quantization.grid import Grid, grid_for_range
from ebm_export.calibration.quantization.insert import insert_int8
from ebm_export.calibration.quantization.layers import find_layers

from .graphs import conv_net, error, graph, on_openvino, perceptron, run, to_nearest


def inputs_of(model: ir.Model, count: int = 5) -> dict[str, np.ndarray]:
    shape = [int(n) for n in model.graph.inputs[0].shape[1:]]
    x = np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)
    return {"x": x, "grad_scale": np.full(count, 3, np.float32)}


def quantized(model: ir.Model, *names: str, correction: float | None = None, asymmetric: bool = True) -> ir.Model:
    """Grids from the values at `inputs_of`, weights to nearest, the same correction everywhere."""
    layers = [layer for layer in find_layers(model) if not names or layer.name in names]
    read = {layer.activation for layer in layers}
    values = {**inputs_of(model), **run(model, inputs_of(model), *(read - {"x", "grad_scale"}))}
    grids = {
        name: grid_for_range(
            min(0, float(values[name].min())), max(0, float(values[name].max())), symmetric=not asymmetric
        )
        for name in read
    }
    weights = {}
    for layer in layers:
        weights[layer.name] = to_nearest(model, layer)
        if correction is not None:
            given = np.full(len(weights[layer.name].scales), correction, np.float32)
            weights[layer.name] = to_nearest(model, layer, given)
    return insert_int8(model, layers, grids, weights)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


MODELS = {"convolutions": conv_net, "perceptron": perceptron, "no nonlinearity": lambda: perceptron(direct=True)}


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
class TestWholeGraph:
    def test_is_close_to_float32_on_both_engines(self, build, asymmetric: bool, tmp_path: Path) -> None:
        model = build()
        wanted = run(model, inputs_of(model))
        int8 = quantized(model, asymmetric=asymmetric)
        got = run(int8, inputs_of(model))  # checks the ONNX
        other = on_openvino(int8, inputs_of(model), tmp_path)
        for name in ("energy", "grad"):
            # Where a preactivation is near zero its mask flips, which turns a whole path of the gradient on or off.
            assert 0 < error(wanted[name], got[name]) < (0.15 if name == "grad" else 0.05), name
            # OpenVINO may add and rescale in another order: a number on the edge of a step falls to either side.
            assert error(got[name], other[name]) < 0.02, name

    def test_inputs_outputs_and_the_source_stay(self, build, asymmetric: bool) -> None:
        model = build()
        before = ir.to_proto(model).SerializeToString(deterministic=True)
        int8 = quantized(model, asymmetric=asymmetric, correction=0.1)
        for side in ("inputs", "outputs"):
            old, new = getattr(model.graph, side), getattr(int8.graph, side)
            assert [(v.name, v.dtype, str(v.shape)) for v in new] == [(v.name, v.dtype, str(v.shape)) for v in old]
        assert ir.to_proto(model).SerializeToString(deterministic=True) == before

    def test_float_weights_leave_the_file(self, build, asymmetric: bool) -> None:
        model = build()
        int8 = quantized(model, asymmetric=asymmetric)
        assert not {layer.weight for layer in find_layers(model)} & set(int8.graph.initializers)
        kept = [value for value in int8.graph.initializers.values() if value.dtype == ir.DataType.FLOAT]
        assert all(value.const_value.size <= 16 for value in kept)


def test_constants_are_those_of_the_graph_and_of_the_calibration() -> None:
    """A graph is tried in many forms: each with weights of its own would be as large as the model."""
    model = conv_net()
    first, *others = find_layers(model)
    weights = {first.name: to_nearest(model, first)}
    int8 = insert_int8(model, [first], {first.activation: grid_for_range(-1, 1, symmetric=True)}, weights)
    kept = int8.graph.initializers
    assert all(kept[layer.weight].const_value is model.graph.initializers[layer.weight].const_value for layer in others)
    assert np.shares_memory(kept[f"{first.name}.weight.int8"].const_value.numpy(), weights[first.name].numbers)


def test_no_layers_change_nothing() -> None:
    model = conv_net()
    same = insert_int8(model, [], {}, {})
    assert ir.to_proto(same).SerializeToString(deterministic=True) == ir.to_proto(model).SerializeToString(
        deterministic=True
    )


def test_layers_that_read_one_value_share_a_pair() -> None:
    model = graph(
        """score (float[B, 4] x, float[B] grad_scale) => (float[B] energy, float[B, 4] grad) {
            a = MatMul (x, w)  b = MatMul (x, v)  y = Mul (a, b)  energy = ReduceSum <keepdims: int = 0> (y, last)
            s = Unsqueeze (grad_scale, last)  grad = Mul (x, s)
        }""",
        {"w": np.eye(4, dtype=np.float32), "v": 2 * np.eye(4, dtype=np.float32), "last": np.array([1])},
    )
    int8 = quantized(model)
    assert kinds(int8).count("QuantizeLinear") == 1
    assert error(run(model, inputs_of(model))["energy"], run(int8, inputs_of(model))["energy"]) < 0.03
    # What is no layer goes on reading the float value.
    np.testing.assert_array_equal(run(int8, inputs_of(model))["grad"], run(model, inputs_of(model))["grad"])


@pytest.mark.parametrize("chosen", [("a",), ("a", "b")])
def test_weights_that_two_layers_share(chosen: tuple[str, ...]) -> None:
    model = graph(
        """score (float[B, 4] x, float[B] grad_scale) => (float[B] energy, float[B, 4] grad) {
            a = MatMul (x, w)  z = Sin (a)  energy = ReduceSum <keepdims: int = 0> (z, last)
            s = Unsqueeze (grad_scale, last)  c = Cos (a)  g = Mul (c, s)  b = Gemm <transB: int = 1> (g, w)  grad = Identity (b)
        }""",
        {"w": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32), "last": np.array([1])},
    )
    int8 = quantized(model, *chosen)
    assert ("w" in int8.graph.initializers) == (len(chosen) == 1)
    wanted, got = run(model, inputs_of(model)), run(int8, inputs_of(model))
    assert error(wanted["grad"], got["grad"]) < 0.03


class TestResidualAdd:
    def test_reads_the_grid_where_both_sides_are_quantized(self) -> None:
        """h is read by `a`; u = h + b joins it with the result of `b`. So in the gradient half: g = gu + gb."""
        int8 = quantized(conv_net())
        adds = {node.name: [value.name for value in node.inputs] for node in int8.graph if node.op_type == "Add"}
        assert adds == {"u": ["h.dequantize", "b"], "g": ["gu.dequantize", "gb"]}

    @pytest.mark.parametrize("kept", ["a", "b"])
    def test_stays_float_where_one_side_is_not(self, kept: str) -> None:
        names = {layer.name for layer in find_layers(conv_net())} - {kept}
        int8 = quantized(conv_net(), *names)
        assert [v.name for node in int8.graph if node.name == "u" for v in node.inputs] == ["h", "b"]

    def test_looks_through_a_correction(self) -> None:
        model = graph(
            """score (float[B, 4] x, float[B] grad_scale) => (float[B] energy, float[B, 4] grad) {
                a = MatMul (x, w)  u = Add (x, a)  energy = ReduceSum <keepdims: int = 0> (u, last)
                s = Unsqueeze (grad_scale, last)  grad = Mul (x, s)
            }""",
            {"w": np.eye(4, dtype=np.float32), "last": np.array([1])},
        )
        int8 = quantized(model, correction=0.5)
        (joined,) = [node for node in int8.graph if node.name == "u"]
        assert [value.name for value in joined.inputs] == ["x.dequantize", "a"]


class TestCorrection:
    @pytest.mark.parametrize("build", [conv_net, perceptron, lambda: perceptron(direct=True)])
    def test_every_layers_output_moves_by_it(self, build) -> None:
        """Conv and Gemm with and without a bias, MatMul inside and as the output `grad`, MatMul read by another layer."""
        for layer in find_layers(build()):
            model = build()
            more = () if layer.output == "grad" else (layer.output,)
            plain = run(quantized(model, layer.name), inputs_of(model), *more)[layer.output]
            moved = run(quantized(model, layer.name, correction=0.25), inputs_of(model), *more)[layer.output]
            np.testing.assert_allclose(moved, plain + 0.25, rtol=1e-5, atol=1e-5, err_msg=layer.name)

    def test_all_at_once_is_valid(self) -> None:
        for build in MODELS.values():
            run(quantized(build(), correction=0.01), inputs_of(build()))

    @pytest.mark.parametrize("bias", [np.ones((1, 3)), np.ones(3), np.ones(1)])
    def test_forms_of_a_gemms_bias(self, bias: np.ndarray) -> None:
        model = graph(
            """score (float[B, 4] x, float[B] grad_scale) => (float[B] energy, float[B, 4] grad) {
                a = Gemm (x, w, b)  energy = ReduceSum <keepdims: int = 0> (a, last)
                s = Unsqueeze (grad_scale, last)  grad = Mul (x, s)
            }""",
            {"w": np.ones((4, 3), np.float32), "b": bias.astype(np.float32), "last": np.array([1])},
        )
        plain, moved = (run(quantized(model, correction=c), inputs_of(model))["energy"] for c in (None, 0.5))
        np.testing.assert_allclose(moved, plain + 1.5, rtol=1e-5)


@pytest.mark.parametrize("grid", [grid_for_range(0, 0, symmetric=False), grid_for_range(0, 0, symmetric=True)])
def test_a_dead_activation_gives_the_bias_on_both_engines(grid: Grid, tmp_path: Path) -> None:
    model = conv_net()
    (layer,) = [layer for layer in find_layers(model) if layer.name == "a"]
    zeros = model.graph.initializers
    for name in ("w0", "b0"):
        zeros[name].const_value = ir.tensor(np.zeros_like(zeros[name].const_value.numpy()), name=name)
    int8 = insert_int8(model, [layer], {"h": grid}, {"a": to_nearest(model, layer)})
    wanted = run(model, inputs_of(model))
    for got in (run(int8, inputs_of(model)), on_openvino(int8, inputs_of(model), tmp_path)):
        np.testing.assert_allclose(got["energy"], wanted["energy"], rtol=1e-4)


def test_a_row_of_zero_weights_gives_zero(tmp_path: Path) -> None:
    model = conv_net()
    held = model.graph.initializers["w1"].const_value.numpy().copy()
    held[3] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(held, name="w1")
    int8 = quantized(model, "a")
    bias = model.graph.initializers["b1"].const_value.numpy()[3]
    np.testing.assert_allclose(run(int8, inputs_of(model), "a")["a"][:, 3], bias, rtol=1e-6)
    assert error(run(model, inputs_of(model))["grad"], on_openvino(int8, inputs_of(model), tmp_path)["grad"]) < 0.15
