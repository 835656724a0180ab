from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration.quantization.calibrate import Scheme, calibrate
from ebm_export.calibration.quantization.correct_bias import correct_bias
from ebm_export.calibration.quantization.insert import IntWeights, insert_int8
from ebm_export.calibration.quantization.layers import Layer, find_layers
from ebm_export.calibration.states import States

from .graphs import conv_net, graph, perceptron, run, states_for, to_nearest


def shifted(model: ir.Model, layers: list[Layer], amount: float) -> dict[str, IntWeights]:
    """Weights of layers that each add a constant, which is what the correction must find."""
    plain = {layer.name: to_nearest(model, layer) for layer in layers}
    return {
        name: dataclasses.replace(held, correction=np.full(len(held.scales), amount, np.float32))
        for name, held in plain.items()
    }


def channel_errors(model: ir.Model, int8: ir.Model, states: States, layer: Layer) -> np.ndarray:
    more = () if layer.output == "grad" else (layer.output,)
    inputs = states.inputs(slice(None))
    difference = run(int8, inputs, *more)[layer.output] - run(model, inputs, *more)[layer.output]
    channels = 1 if layer.op == "Conv" else -1
    return np.moveaxis(difference, channels, 0).reshape(difference.shape[channels], -1).mean(1)


@pytest.mark.parametrize("build", [conv_net, perceptron, lambda: perceptron(direct=True)])
@pytest.mark.parametrize("batch", [8, 7])
def test_a_constant_is_taken_back_in_every_layer(build, batch: int) -> None:
    """One layer at a time, so that no other error plays in: Conv, Gemm, MatMul, MatMul that writes `grad`."""
    model = build()
    states = states_for(model, 48)
    grids = calibrate(model, find_layers(model), states, Scheme(fit_weights=False), threads=1).grids
    for layer in find_layers(model):
        weights = shifted(model, [layer], 0.3)
        found = correct_bias(model, [layer], grids, weights, states, batch=batch, threads=1)
        left = channel_errors(model, insert_int8(model, [layer], grids, found), states, layer)
        before = channel_errors(model, insert_int8(model, [layer], grids, weights), states, layer)
        assert np.abs(left).max() < 0.1 * np.abs(before).min(), layer.name
        assert weights[layer.name].correction[0] == np.float32(0.3)  # what was given is not changed


def test_layers_behind_each_other() -> None:
    model = conv_net()
    layers = find_layers(model)
    states = states_for(model, 48)
    grids = calibrate(model, layers, states, Scheme(fit_weights=False), threads=1).grids
    weights = shifted(model, layers, 0.05)
    found = correct_bias(model, layers, grids, weights, states, threads=1)
    for layer in layers[:3]:
        left, before = (
            np.abs(channel_errors(model, insert_int8(model, layers, grids, held), states, layer)).mean()
            for held in (found, weights)
        )
        assert left < 0.5 * before, layer.name


@pytest.mark.parametrize("rows", ["[-1, 3]", "[4, -1, 3]", "time first"])
def test_a_layer_that_sees_a_state_as_many_rows(rows: str) -> None:
    """The mean is over rows, not their sum over states: x [B, 4, 3] as 4 * B rows, or as [4, B] with time in front."""
    read = "t = Transpose <perm = [1, 0, 2]> (x)" if rows == "time first" else "t = Reshape (x, shape)"
    back = "z = Transpose <perm = [1, 0, 2]> (y)" if rows == "time first" else "z = Reshape (y, whole)"
    model = graph(
        f"""score (float[B, 4, 3] x, float[B] grad_scale) => (float[B] energy, float[B, 4, 3] grad) {{
            {read}  y = MatMul (t, w)  {back}  energy = ReduceSum <keepdims: int = 0> (z, places)
            s = Unsqueeze (grad_scale, places)  grad = Mul (z, s)
        }}""",
        {
            "w": np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32),
            "places": np.array([1, 2]),
            **(
                {}
                if rows == "time first"
                else {"shape": np.array([-1, 3]) if rows == "[-1, 3]" else np.array([4, -1, 3])}
            ),
            **({} if rows == "time first" else {"whole": np.array([-1, 4, 3])}),
        },
    )
    states = states_for(model, 24)
    layers = find_layers(model)
    grids = calibrate(model, layers, states, Scheme(fit_weights=False), threads=1).grids
    found = correct_bias(model, layers, grids, shifted(model, layers, 0.3), states, threads=1)
    assert np.abs(found["y"].correction).max() < 0.03


def test_no_layers_no_corrections() -> None:
    model = perceptron()
    weights = shifted(model, find_layers(model), 0.3)
    assert correct_bias(model, [], {}, weights, states_for(model, 4)) == weights


def test_progress_counts_both_rounds() -> None:
    model = perceptron()
    states = states_for(model, 12)
    layers = find_layers(model)[:1]
    grids = calibrate(model, layers, states, Scheme(fit_weights=False), threads=1).grids
    seen: list[tuple[int, int]] = []
    weights = {layers[0].name: to_nearest(model, layers[0])}
    correct_bias(
        model, layers, grids, weights, states, batch=8, threads=1, progress=lambda what, *now: seen.append(now)
    )
    assert seen == [(8, 24), (12, 24), (20, 24), (24, 24)]
