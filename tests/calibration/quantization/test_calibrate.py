from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration.quantization import calibrate as module
from ebm_export.calibration.quantization.calibrate import Scheme, calibrate
from ebm_export.calibration.quantization.insert import insert_int8
from ebm_export.calibration.quantization.layers import find_layers

from .graphs import conv_net, error, graph, perceptron, run, states_for, to_nearest

BUILDS = {"convolutions": conv_net, "perceptron": perceptron, "no nonlinearity": lambda: perceptron(direct=True)}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
class TestRanges:
    def test_are_those_of_the_values(self, build) -> None:
        model = build()
        states = states_for(model, 24)
        layers = find_layers(model)
        found = calibrate(model, layers, states, Scheme(observer="min-max"), batch=7, threads=1)
        read = {layer.activation for layer in layers}
        inputs = states.inputs(slice(None))
        values = {**inputs, **run(model, inputs, *(read - inputs.keys()))}
        assert found.ranges.keys() == found.grids.keys() == read
        for name in read:
            assert found.ranges[name] == pytest.approx((values[name].min(), values[name].max()), rel=1e-5)

    @pytest.mark.parametrize("asymmetric", [True, False])
    def test_gradients_have_symmetric_grids_in_any_case(self, build, asymmetric: bool) -> None:
        model = build()
        layers = find_layers(model)
        grids = calibrate(model, layers, states_for(model, 8), Scheme(asymmetric, "min-max", False), threads=1).grids
        for layer in layers:
            assert grids[layer.activation].signed == (layer.half == "gradient" or not asymmetric)

    def test_weights_without_fit_are_to_nearest(self, build) -> None:
        model = build()
        layers = find_layers(model)
        weights = calibrate(model, layers, states_for(model, 8), Scheme(fit_weights=False), threads=1).weights
        for layer in layers:
            wanted = to_nearest(model, layer)
            np.testing.assert_array_equal(weights[layer.name].numbers, wanted.numbers)
            np.testing.assert_array_equal(weights[layer.name].scales, wanted.scales)

    def test_fitted_weights_bring_layers_no_farther_away(self, build) -> None:
        """Each layer alone, at the states that it was fitted to, half of a per cent for rows that were not sampled."""
        model = build()
        states = states_for(model, 64)
        layers = find_layers(model)
        fitted, plain = (calibrate(model, layers, states, Scheme(fit_weights=fit), threads=1) for fit in (True, False))
        gained = []
        for layer in layers:
            more = () if layer.output == "grad" else (layer.output,)
            inputs = states.inputs(slice(None))
            wanted = run(model, inputs, *more)[layer.output]
            one, other = (
                error(wanted, run(insert_int8(model, [layer], held.grids, held.weights), inputs, *more)[layer.output])
                for held in (fitted, plain)
            )
            assert one <= 1.05 * other, layer.name
            gained.append(other / one)
        assert max(gained) > 1.05

    def test_same_seed_same_weights(self, build) -> None:
        model = build()
        one, other = (calibrate(model, find_layers(model), states_for(model, 16), Scheme(), threads=1) for _ in "ab")
        for name, held in one.weights.items():
            np.testing.assert_array_equal(held.numbers, other.weights[name].numbers)

    def test_chunks_change_nothing(self, build, monkeypatch: pytest.MonkeyPatch) -> None:
        """Layers whose moments do not fit into memory together wait for another pass."""
        model = build()
        whole = calibrate(model, find_layers(model), states_for(model, 16), Scheme(), threads=1)
        monkeypatch.setattr(module, "_MOMENT_NUMBERS", 1)
        parts = calibrate(model, find_layers(model), states_for(model, 16), Scheme(), threads=1)
        for name, held in whole.weights.items():
            np.testing.assert_array_equal(held.numbers, parts.weights[name].numbers)


def test_layers_too_wide_for_moments_are_rounded_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_net()
    monkeypatch.setattr(module, "_LARGEST_INPUT", 20)  # h reads 18 numbers in a row, the others 144
    weights = calibrate(model, find_layers(model), states_for(model, 16), Scheme(), threads=1).weights
    for layer in find_layers(model)[1:]:
        np.testing.assert_array_equal(weights[layer.name].numbers, to_nearest(model, layer).numbers)


def test_a_convolution_in_groups_and_a_gemm_with_rows_of_outputs() -> None:
    rng = np.random.default_rng(0)
    model = graph(
        """score (float[B, 4, 6] x, float[B] grad_scale) => (float[B] energy, float[B, 4, 6] grad) {
            h = Conv <group = 2, pads = [1, 1]> (x, w)  flat = Flatten (h)  y = Gemm <transB: int = 1> (flat, v)
            energy = ReduceSum <keepdims: int = 0> (y, last)  s = Unsqueeze (grad_scale, places)  grad = Mul (x, s)
        }""",
        {
            "w": rng.standard_normal((6, 2, 3)).astype(np.float32),
            "v": rng.standard_normal((5, 36)).astype(np.float32),
            "last": np.array([1]),
            "places": np.array([1, 2]),
        },
    )
    states = states_for(model, 64)
    found = calibrate(model, find_layers(model), states, Scheme(), threads=1)
    assert found.weights["h"].numbers.shape == (6, 2, 3)
    assert found.weights["y"].numbers.shape == (5, 36)
    inputs = states.inputs(slice(None))
    int8 = insert_int8(model, find_layers(model), found.grids, found.weights)
    assert error(run(model, inputs, "y")["y"], run(int8, inputs, "y")["y"]) < 0.02


def test_dead_activations() -> None:
    model = perceptron()
    model.graph.initializers["b1"].const_value = ir.tensor(np.full(16, -1e3, np.float32), name="b1")
    states = states_for(model, 16)
    found = calibrate(model, find_layers(model), states, Scheme(), threads=1)
    assert found.ranges["r"] == (0, 0)
    inputs = states.inputs(slice(None))
    int8 = insert_int8(model, find_layers(model), found.grids, found.weights)
    np.testing.assert_allclose(run(int8, inputs)["energy"], run(model, inputs)["energy"], atol=1e-6)


def test_progress_names_both_passes() -> None:
    model = perceptron()
    seen: list[tuple[str, int, int]] = []
    calibrate(
        model, find_layers(model), states_for(model, 12), Scheme(), threads=1, progress=lambda *now: seen.append(now)
    )
    assert seen == [(what, done, 12) for what in ("measuring ranges", "fitting weights") for done in (8, 12)]
