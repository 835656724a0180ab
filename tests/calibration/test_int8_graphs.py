"""What INT8 graphs of one float32 graph share: a calibration for each scheme, and what was measured with it."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration import deadline as clock
from ebm_export.calibration import layer_order
from ebm_export.calibration.deadline import Deadline
from ebm_export.calibration.int8_graphs import Int8Graphs
from ebm_export.calibration.layer_order import order_layers
from ebm_export.calibration.metrics.score_fidelity import StageFidelity
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.correct_score import correct_score
from ebm_export.calibration.quantization.layers import Layer
from ebm_export.calibration.quantization.score_error import gradients
from ebm_export.calibration.search_log import SearchLog
from ebm_export.calibration.sensitivity import Sensitivity
from tests.calibration.quantization.graphs import conv_net, perceptron, states_for

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
    assert {*found} == graphs.quantizer(PLAIN).default and list(found) == [entry.layer.name for entry in found.values()]
    harm = [entry.error**2 / entry.layer.macs for entry in found.values()]
    assert harm == sorted(harm, reverse=True) and len(set(harm)) > 1


@pytest.mark.parametrize("limit", range(5))
def test_a_log_has_each_layer_as_soon_as_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Those with the most work first. A clock that goes one second for each of them stands for a kill, and for a time that is short."""
    model = perceptron(widths=(40, 16))  # whose two layers are of different sizes
    states = states_for(model, 64)
    whole, cut, again = (Int8Graphs(model, states) for _ in range(3))
    by_work = sorted(whole.layers(PLAIN), key=lambda layer: -layer.macs)
    assert len({layer.macs for layer in by_work}) > 1 and len(by_work) == 4
    wanted = whole.sensitivities(PLAIN)
    path, measured = tmp_path / "log.jsonl", layer_order.measure_sensitivity
    asked: list[str] = []

    def counted(exact: Any, quantizer: Any, layers: Sequence[Layer], *given: Any, **more: Any) -> Iterator[Sensitivity]:
        for entry in measured(exact, quantizer, layers, *given, **more):
            asked.append(entry.layer.name)
            yield entry

    monkeypatch.setattr(layer_order, "measure_sensitivity", counted)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: float(len(asked))))
    found = cut.sensitivities(PLAIN, SearchLog(path, {}), Deadline(limit))
    names = [layer.name for layer in by_work[:limit]]
    assert asked == names and {*found} == {*names}
    assert [json.loads(line).get("layer") for line in path.read_text().splitlines()] == [None, *names]
    assert list(again.sensitivities(PLAIN, SearchLog(path, {})).items()) == list(wanted.items())
    assert list(cut.sensitivities(PLAIN, SearchLog(path, {})).items()) == list(wanted.items())
    assert asked == [layer.name for layer in by_work], "each once"


def test_a_layer_that_was_not_measured_errs_like_the_others(graphs: Int8Graphs) -> None:
    layers = graphs.layers(PLAIN)
    by_work = [replace(layer, macs=macs) for macs, layer in enumerate(layers, 2)]
    assert order_layers(by_work[::-1], {}) == by_work, "the least work, which is the least loss, first"

    def stages(error: float) -> tuple[StageFidelity, ...]:
        return (StageFidelity(0, 1, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, error, 8, 0.0, 0.0),)

    one, two, three, *others = (replace(layer, macs=10) for layer in layers)
    usual = {one.name: Sensitivity(one, stages(0.1)), three.name: Sensitivity(three, stages(0.3))}
    assert order_layers([one, two, three], usual) == [three, two, one]  # of 0.1, 0.2 as the median, and 0.3
    assert order_layers([one, replace(two, macs=3), three], usual)[0].name == two.name
    lost = usual | {other.name: Sensitivity(other, stages(math.nan)) for other in others[:1]}
    assert order_layers([one, two, three, others[0]], lost)[0] == others[0]


def test_layers_are_measured_once_and_a_log_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_net()
    states = states_for(model, 64)
    first, second = (Int8Graphs(model, states) for _ in range(2))
    found = first.sensitivities(PLAIN)

    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(layer_order, "measure_sensitivity", again)
    log = SearchLog(None, {})
    # Read from the log, and kept from then on.
    for graphs, given in ((first, None), (first, log), (second, log), (second, None)):
        assert list(graphs.sensitivities(PLAIN, given).items()) == list(found.items())


def test_forms_that_are_kept_hold_no_float32_weights_of_their_own() -> None:
    """Each target tries several, and another target that shares them goes on with what was calibrated."""

    def weights() -> int:
        gc.collect()
        tensors = [one for one in gc.get_objects() if type(one) in (ir.Tensor, ir.TensorProtoTensor)]
        # Those of the border, which have a length of their own, are smaller.
        return sum(one.dtype == ir.DataType.FLOAT and one.size > 1000 for one in tensors)

    model = conv_net()
    graphs, before = Int8Graphs(model, states_for(model, 16)), weights()
    for evens in (("forward", "gradient"), ("forward",), ()):
        scheme = Scheme(evens=evens)
        assert len(graphs.corrected(scheme, graphs.quantizer(scheme).default).graph) > len(model.graph)
    assert weights() <= before


def test_what_was_measured_is_described() -> None:
    model = conv_net()
    graphs = Int8Graphs(model, states_for(model, 64))
    default = graphs.quantizer(PLAIN).default
    assert not any("alone" in entry for entry in graphs.describe(PLAIN, default, {}))
    graphs.sensitivities(PLAIN)
    assert {entry["name"] for entry in graphs.describe(PLAIN, default, {}) if "alone" in entry} == default
