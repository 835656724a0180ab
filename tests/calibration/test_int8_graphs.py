"""What INT8 graphs of one float32 graph share: a calibration for each scheme, and what was measured with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.calibration import layer_order
from ebm_export.calibration.int8_graphs import Int8Graphs
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.correct_score import correct_score
from ebm_export.calibration.quantization.score_error import gradients
from ebm_export.calibration.search_log import SearchLog
from tests.calibration.quantization.graphs import conv_net, states_for

PLAIN = Scheme()


@pytest.fixture(scope="module")
def graphs() -> Int8Graphs:
    model = conv_net()
    return Int8Graphs(model, states_for(model, 64))


def test_each_scheme_is_calibrated_once(graphs: Int8Graphs) -> None:
    assert graphs.quantizer(Scheme()) is graphs.quantizer(PLAIN)
    assert graphs.quantizer(Scheme(evens=())) is not graphs.quantizer(PLAIN)


def test_a_graph_has_its_score_corrected(graphs: Int8Graphs) -> None:
    layers = graphs.quantizer(PLAIN).default
    plain, wanted = (graphs.quantizer(PLAIN).model(layers) for _ in range(2))
    correct_score(graphs.exact, wanted, graphs.quantizer(PLAIN).layers, graphs.states)
    asked = states_for(graphs.exact, 8, seed=1)
    found = gradients(graphs.corrected(PLAIN, layers), asked)
    np.testing.assert_array_equal(found, gradients(wanted, asked))
    assert (found != gradients(plain, asked)).any()


def test_the_most_harm_for_its_work_comes_first(graphs: Int8Graphs) -> None:
    found = graphs.sensitivities(PLAIN)
    assert {entry.layer.name for entry in found} == graphs.quantizer(PLAIN).default
    harm = [entry.error**2 / entry.layer.macs for entry in found]
    assert harm == sorted(harm, reverse=True) and len(set(harm)) > 1


def test_layers_are_measured_once_and_a_log_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_net()
    states = states_for(model, 64)
    first, second = (Int8Graphs(model, states) for _ in range(2))
    found = first.sensitivities(PLAIN)

    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(layer_order, "measure_sensitivity", again)
    log = SearchLog(None, {})
    assert first.sensitivities(PLAIN) == first.sensitivities(PLAIN, log) == found
    assert second.sensitivities(PLAIN, log) == found, "read from the log"
    assert second.sensitivities(PLAIN) == found, "and kept from then on"


def test_what_was_measured_is_described() -> None:
    model = conv_net()
    graphs = Int8Graphs(model, states_for(model, 64))
    default = graphs.quantizer(PLAIN).default
    assert not any("alone" in entry for entry in graphs.describe(PLAIN, default, {}))
    graphs.sensitivities(PLAIN)
    assert {entry["name"] for entry in graphs.describe(PLAIN, default, {}) if "alone" in entry} == default
