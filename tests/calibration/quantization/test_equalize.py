"""Dividing the channels of what a layer reads, and multiplying the weights that meet them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration.quantization import quantized_layers as module
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.equalize import channel_factors, equalized
from ebm_export.calibration.quantization.layers import find_layers
from ebm_export.calibration.quantization.quantizer import Quantizer

from .graphs import conv_net, error, graph, perceptron, run, states_for


def uneven(model: ir.Model, spread: float = 3.0) -> ir.Model:
    """The same function, with channels of very different widths between the second layer and the third."""
    weights = model.graph.initializers
    rng = np.random.default_rng(0)
    channels = len(weights["w1"].const_value.numpy())
    factor = np.exp(rng.uniform(-spread, spread, channels)).astype(np.float32)
    for name, axis, power in (("w1", 0, 1), ("w1t", 1, 1), ("w2", 1, -1), ("w2t", 0, -1)):
        held = weights[name].const_value.numpy()
        shape = [1] * held.ndim
        shape[axis] = -1
        weights[name].const_value = ir.tensor(held * factor.reshape(shape) ** power, name=name)
    return model


@pytest.mark.parametrize("model", [conv_net, perceptron], ids=["convolutions", "products"])
def test_the_same_function(model: type) -> None:
    whole = model()
    layers = find_layers(whole)
    states = states_for(whole, 32)
    factors = channel_factors(whole, layers, states)
    assert max(factor.max() / factor.min() for factor in factors.values()) > 1.5
    even = equalized(whole, layers, factors)
    inputs = states.inputs(slice(None))
    wanted, found = run(whole, inputs), run(even, inputs)
    for name in ("energy", "grad"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5)
    told = {layer.name: layer for layer in find_layers(even)}
    assert list(told) == [layer.name for layer in layers]
    for layer in layers:
        own = told[layer.name]
        assert own.activation == f"{layer.activation}.evened" if layer.activation in factors else layer.activation
        assert (own.half, own.macs, own.reads_state, own.writes_grad) == (
            layer.half, layer.macs, layer.reads_state, layer.writes_grad,
        )  # fmt: skip


def test_layers_that_are_left_out_stay_as_they_are() -> None:
    whole = conv_net()
    layers = find_layers(whole)
    factors = channel_factors(whole, layers, states_for(whole, 32))
    even = equalized(whole, [layer for layer in layers if layer.name == "a"], factors)
    assert sum(node.op_type == "Mul" for node in even.graph) == 1 + sum(node.op_type == "Mul" for node in whole.graph)
    assert equalized(whole, [], factors).graph.initializers.keys() == whole.graph.initializers.keys()
    for name, held in whole.graph.initializers.items():  # one copy of each, however many graphs there are
        assert name == "a.weight" or even.graph.initializers.get(name, held).const_value is held.const_value


def test_widths_even_out() -> None:
    """A channel that is ten times as wide in x and one that is in the weights: 0.7 of the first, 0.3 less of the other."""
    model = graph(
        "score (float[B, 3] x, float[B] grad_scale) => (float[B] energy, float[B, 3] grad) {"
        "r = Tanh (x) f = MatMul (r, w) energy = ReduceSum <keepdims: int = 0> (f, last) grad = Identity (x) }",
        {"w": np.array([[1, 1], [1, 1], [10, 1]], np.float32), "last": np.array([1])},
    )
    (layer,) = find_layers(model)
    states = states_for(model, 64)
    states.x[:] = np.arctanh(np.linspace(-0.9, 0.9, 64))[:, None]
    states.x[:, 0] = np.arctanh(np.linspace(-0.09, 0.09, 64))
    (factor,) = channel_factors(model, [layer], states).values()
    np.testing.assert_allclose(np.log10(factor / factor[1]), [-0.7, 0, -0.3], atol=1e-5)


def test_channels_that_are_not_there() -> None:
    model = perceptron()
    states = states_for(model, 16)
    states.x[:, 2] = 0
    layers = [layer for layer in find_layers(model) if layer.activation == "x"]
    (factor,) = channel_factors(model, layers, states).values()
    assert factor[2] == 1 and np.isfinite(factor).all() and (factor > 0).all()


def test_what_an_addition_reads_too_is_left_alone() -> None:
    """An engine adds inside a convolution what is on the convolution's own grid."""
    model = graph(
        "score (float[B, 3] x, float[B] grad_scale) => (float[B] energy, float[B, 3] grad) {"
        "r = Tanh (x) f = MatMul (r, w) grad = Add (f, r) energy = ReduceSum <keepdims: int = 0> (grad, last) }",
        {"w": np.eye(3, dtype=np.float32), "last": np.array([1])},
    )
    layers, states = find_layers(model), states_for(model, 8)
    assert channel_factors(model, layers, states, fuses_sums=True) == {}
    assert set(channel_factors(model, layers, states)) == {"r"}


def test_what_a_convolution_and_a_product_read_is_left_alone() -> None:
    """Their channels are not the same axis."""
    model = graph(
        "score (float[B, 6, 6] x, float[B] grad_scale) => (float[B] energy, float[B, 6, 6] grad) {"
        "r = Tanh (x) c = Conv (r, k) f = MatMul (r, w) grad = Add (c, f) energy = ReduceSum <keepdims: int = 0> (grad, last) }",
        {"w": np.eye(6, dtype=np.float32), "k": np.eye(6, dtype=np.float32)[..., None], "last": np.array([1, 2])},
    )
    assert {layer.op for layer in find_layers(model)} == {"Conv", "MatMul"}
    assert channel_factors(model, find_layers(model), states_for(model, 8)) == {}


def test_int8_is_closer_with_even_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = uneven(conv_net())
    states, fresh = states_for(model, 64), states_for(model, 64, seed=5).inputs(slice(None))
    wanted = run(model, fresh)["grad"]
    even = Quantizer(model, states, Scheme(), threads=1)
    monkeypatch.setattr(module, "channel_factors", lambda *arguments, **more: {})
    plain = Quantizer(model, states, Scheme(), threads=1)
    errors = [error(wanted, run(made.model(made.default), fresh)["grad"]) for made in (even, plain)]
    assert errors[0] < 0.6 * errors[1], errors
