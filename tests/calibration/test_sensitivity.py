from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_export.calibration import deadline as clock
from ebm_export.calibration import sensitivity
from ebm_export.calibration.deadline import Deadline
from ebm_export.calibration.metrics.score_fidelity import StageFidelity, score_fidelity
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.layers import find_layers
from ebm_export.calibration.quantization.quantizer import Quantizer
from ebm_export.calibration.sensitivity import Sensitivity, measure_sensitivity
from ebm_export.calibration.states import DATA_STEP
from tests.calibration.quantization.graphs import conv_net, run, states_for


@pytest.fixture(scope="module")
def measured() -> list[Sensitivity]:
    model = conv_net()
    states = states_for(model, 32)
    quantizer = Quantizer(model, states, Scheme(), threads=1)
    return list(measure_sensitivity(model, quantizer, quantizer.layers, states, batch=7, threads=1))


def test_one_entry_for_each_layer_with_all_stages(measured: list[Sensitivity]) -> None:
    assert [entry.layer.name for entry in measured] == ["h", "a", "b", "gr", "gb", "grad"]
    assert all([stage.step for stage in entry.stages] == [0, 10, 20, 30] for entry in measured)
    assert all(0 < entry.error < 0.2 and entry.systematic < entry.error for entry in measured)


def test_numbers_are_those_of_a_layer_alone(measured: list[Sensitivity]) -> None:
    model = conv_net()
    states = states_for(model, 32)
    quantizer = Quantizer(model, states, Scheme(), threads=1)
    first = states.inputs(states.step == 0)
    scale = first["grad_scale"].reshape(-1, 1, 1, 1)  # dE/dx is compared, as the gate does
    exact, got = (run(graph, first)["grad"] / scale for graph in (model, quantizer.model({"gr"})))
    wanted = score_fidelity(exact, got)
    stage = measured[3].stages[0]
    assert (stage.gain, stage.relative_error) == pytest.approx((wanted.gain, wanted.relative_error), rel=1e-3)


def test_figures_are_rms_over_the_stages(measured: list[Sensitivity]) -> None:
    entry = measured[0]
    assert entry.error == pytest.approx(np.sqrt(np.mean([stage.relative_error**2 for stage in entry.stages])))
    assert entry.systematic == pytest.approx(
        np.sqrt(np.mean([stage.gain**2 + stage.bias**2 for stage in entry.stages]))
    )


def test_parts_are_means_over_neighbouring_stages() -> None:
    def stage(step: int, gain: float, bias_squared: float, noise: float) -> StageFidelity:
        return StageFidelity(0, step, 1.0, 1.0, gain, 0.0, 0.0, 0.0, noise, 0.0, 8, bias_squared, 0.0)

    stages = (
        stage(0, 0.1, 0.04, 3.0),
        stage(1, -0.3, -0.02, 4.0),
        stage(5, 0.0, -0.01, 0.0),
        *(stage(9, 0, 0, 0),) * 2,
    )
    (layer,) = find_layers(conv_net())[:1]
    data = stage(DATA_STEP, 9.0, 9.0, 9.0)
    assert Sensitivity(layer, (data, *stages)).parts() == Sensitivity(layer, stages).parts()  # it is no part of a chain
    assert Sensitivity(layer, (data,)).parts() == []
    first, second, *others = Sensitivity(layer, stages).parts()
    assert first == {
        "from step": 0,
        "gain": -0.1,
        "bias": 0.1,
        "noise": 3.53553,
    }  # errors of bias^2 of both signs cancel
    assert second == {"from step": 5, "gain": 0.0, "bias": 0.0, "noise": 0.0}
    assert [part["from step"] for part in others] == [9, 9]
    assert len(Sensitivity(layer, stages[:2]).parts()) == 2


def test_what_is_said_of_a_layer_has_noise_apart(measured: list[Sensitivity]) -> None:
    entry = measured[0]
    noise = np.sqrt(np.mean([stage.noise**2 for stage in entry.stages]))
    wanted = (
        f"alone it moves the gradient by {entry.error:.1%} ({entry.systematic:.1%} gain and bias, {noise:.1%} noise)"
    )
    assert entry.said == wanted


def test_a_log_has_it_to_the_last_bit(measured: list[Sensitivity]) -> None:
    layers = [entry.layer for entry in measured]
    read = [Sensitivity.from_dict(json.loads(json.dumps(entry.to_dict())), layers) for entry in measured]
    assert read == measured
    lost = dataclasses.replace(
        measured[0].stages[0], gain=float("nan"), noise=float("inf")
    )  # of an engine that overflows
    entry = json.loads(json.dumps(Sensitivity(layers[0], (lost,)).to_dict()))
    (again,) = Sensitivity.from_dict(entry, layers).stages
    assert np.isnan(again.gain) and again.noise == float("inf")


def test_stages_of_one_state_are_left_out() -> None:
    model = conv_net()
    states = states_for(model, 5, stages=4)  # two at the first two stages, one at the third
    quantizer = Quantizer(model, states, Scheme(), threads=1)
    seen: list[tuple[str, int, int]] = []
    (found,) = measure_sensitivity(
        model, quantizer, quantizer.layers[:1], states, threads=1, progress=lambda *now: seen.append(now)
    )
    assert [stage.step for stage in found.stages] == [0, 10]
    assert seen == [("measuring what each layer does to the score", 0, 1)]


def test_no_layer_is_begun_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes one second for each graph that is run over the states: float32's, then one for each layer."""
    model = conv_net()
    states = states_for(model, 32)
    quantizer = Quantizer(model, states, Scheme(), threads=1)
    asked, ask = 0, sensitivity.gradients

    def counted(*given: Any, **more: Any) -> np.ndarray:
        nonlocal asked
        asked += 1
        return ask(*given, **more)

    monkeypatch.setattr(sensitivity, "gradients", counted)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: float(asked)))
    for seconds, names in ((0.0, []), (1.0, ["h"]), (3.0, ["h", "a"]), (None, ["h", "a", "b", "gr", "gb", "grad"])):
        asked = 0
        found = measure_sensitivity(model, quantizer, quantizer.layers, states, deadline=Deadline(seconds), threads=1)
        assert [entry.layer.name for entry in found] == names
        assert asked == len(names) + bool(names), "float32 is not asked where there is no time for a layer"
