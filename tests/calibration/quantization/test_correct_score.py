from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration.metrics.score_fidelity import score_fidelity
from ebm_export.calibration.quantization.correct_score import correct_score
from ebm_export.calibration.quantization.grid import grid_for_range
from ebm_export.calibration.quantization.insert import insert_int8
from ebm_export.calibration.quantization.layers import find_layers
from ebm_export.calibration.states import DATA_STEP, States

from .graphs import conv_net, graph, perceptron, run, states_for, to_nearest

BUILDS = {"convolution": conv_net, "product": perceptron}


def bent(model: ir.Model, length: float, shift: float, *, int8: bool) -> ir.Model:
    """The same graph with its last layer too long and moved, in INT8 or float32."""
    last = find_layers(model)[-1]
    plain = to_nearest(model, last)
    assert last.output == "grad"
    if int8:
        grids = {last.activation: grid_for_range(-8.0, 8.0, symmetric=True)}
        moved = dataclasses.replace(
            plain,
            scales=(plain.scales * length).astype(np.float32),
            correction=shift * np.resize([1.0, -1.0], len(plain.scales)).astype(np.float32),
        )
        return insert_int8(model, [last], grids, {last.name: moved})
    copy = ir.from_proto(ir.to_proto(model))
    held = copy.graph.initializers[last.weight]
    held.const_value = ir.tensor(held.const_value.numpy() * np.float32(length), name=held.name)
    return copy


def fidelity(model: ir.Model, other: ir.Model, states: States):
    inputs = states.inputs(slice(None))
    scale = states.grad_scale.reshape(-1, *[1] * (states.x.ndim - 1))
    return score_fidelity(run(model, inputs)["grad"] / scale, run(other, inputs)["grad"] / scale)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("length", [1.03, 0.97])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_brings_back_length_and_mean(build, length: float, shift: float) -> None:
    model = build()
    other = bent(model, length, shift, int8=True)
    states, fresh = states_for(model, 256), states_for(model, 256, seed=1)
    before = fidelity(model, other, fresh)
    correct_score(model, other, find_layers(model), states, threads=1)
    after = fidelity(model, other, fresh)  # at states that it has not seen
    assert after.relative_error < before.relative_error
    assert after.bias < 0.02
    assert abs(after.gain) < (0.008 if shift else 0.004)  # a mean is only taken back as far as it is sure
    if shift:
        assert before.bias > 0.05
    else:
        assert abs(before.gain) > 0.025


def test_progress_is_told() -> None:
    model, told = conv_net(), []
    other, states = bent(model, 1.03, 0.1, int8=True), states_for(model, 64)
    correct_score(model, other, find_layers(model), states, threads=1, progress=lambda *now: told.append(now[1:]))
    assert told[0][0] < 16 and told[-1] == (128, 128) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_layer_in_float_is_shortened_too() -> None:
    model = conv_net()
    other = bent(model, 1.03, 0.0, int8=False)
    correct_score(model, other, find_layers(model), states_for(model, 64), threads=1)
    assert abs(fidelity(model, other, states_for(model, 64, seed=1)).gain) < 1e-5


def test_damage_is_left_for_the_gate() -> None:
    model = conv_net()
    other = bent(model, 1.2, 0.0, int8=False)
    correct_score(model, other, find_layers(model), states_for(model, 64), threads=1)
    # The mean of an error of 20 % goes, where gradients share one; what differs between states stays.
    assert fidelity(model, other, states_for(model, 64, seed=1)).gain > 0.04


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_nothing_in_int8_changes_nothing(build) -> None:
    model = build()
    other = insert_int8(model, [], {}, {})
    before = ir.to_proto(other).SerializeToString(deterministic=True)
    correct_score(model, other, find_layers(model), states_for(model, 32), threads=1)
    assert ir.to_proto(other).SerializeToString(deterministic=True) == before


def test_result_is_a_valid_graph_with_the_same_ends() -> None:
    model = conv_net()
    other = bent(model, 1.03, 0.1, int8=True)
    correct_score(model, other, find_layers(model), states_for(model, 64), threads=1)
    for side in ("inputs", "outputs"):
        old, new = getattr(model.graph, side), getattr(other.graph, side)
        assert [(v.name, v.dtype, str(v.shape)) for v in new] == [(v.name, v.dtype, str(v.shape)) for v in old]


def test_a_forward_layer_that_reaches_the_gradient_is_not_scaled() -> None:
    """Here the gradient has no layer of its own: E = sum(v softplus(x * w)) over products of one output."""
    model = graph(
        """score (float[B, 3] x, float[B] grad_scale) => (float[B] energy, float[B, 3] grad) {
            h = MatMul (x, w)  p = Softplus (h)  energy = ReduceSum <keepdims: int = 0> (p, last)
            s = Unsqueeze (grad_scale, last)  d = Sigmoid (h)  g = Mul (s, d)  grad = Mul (g, row)
        }""",
        {
            "w": np.array([[1.0], [-2], [0.5]], np.float32),
            "row": np.array([[1, -2, 0.5]], np.float32),
            "last": np.array([1]),
        },
    )
    (layer,) = find_layers(model)
    assert (layer.half, layer.writes_grad) == ("forward", True)
    other = ir.from_proto(ir.to_proto(model))
    other.graph.initializers["w"].const_value = ir.tensor(1.03 * np.array([[1.0], [-2], [0.5]], np.float32), name="w")
    correct_score(model, other, [layer], states_for(model, 32), threads=1)
    assert other.graph.initializers["w"].const_value.numpy()[0, 0] == np.float32(1.03)


def test_real_data_counts_like_an_end() -> None:
    """States at the start have no weight, so nothing can be learnt from them alone; data has that of an end."""
    model = perceptron()
    states = states_for(model, 64, stages=2)
    step = np.where(states.step == 0, DATA_STEP, 10)
    other = bent(model, 1.04, 0.0, int8=False)
    correct_score(model, other, find_layers(model), dataclasses.replace(states, step=step), threads=1)
    assert abs(fidelity(model, other, states).gain) < 1e-5
    only_starts = dataclasses.replace(states, step=np.zeros_like(step))
    other = bent(model, 1.04, 0.0, int8=False)
    correct_score(model, other, find_layers(model), only_starts, threads=1)  # nothing there counts
    assert fidelity(model, other, states).gain == pytest.approx(0.04, abs=1e-5)


def test_states_kept_for_large_gradients_do_not_count() -> None:
    model = perceptron()
    states = states_for(model, 64)
    large = np.arange(64) % 8 == 0
    x = np.where(large[:, None], 5 * states.x, states.x)
    marked, others = bent(model, 1.03, 0.1, int8=True), bent(model, 1.03, 0.1, int8=True)
    correct_score(model, marked, find_layers(model), dataclasses.replace(states, x=x, large=large), threads=1)
    correct_score(model, others, find_layers(model), states.part(np.flatnonzero(~large)), threads=1)
    assert ir.to_proto(marked).SerializeToString(deterministic=True) == ir.to_proto(others).SerializeToString(
        deterministic=True
    )
