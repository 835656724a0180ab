from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration.metrics.score_fidelity import score_fidelity
from ebm_export.calibration.observers import OBSERVERS, Histogram, min_max_range
from ebm_export.calibration.quantization import quantizer as quantizer_file
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.quantizer import Quantizer
from ebm_export.calibration.states import States

from .graphs import conv_net, error, perceptron, run, states_for


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    model = conv_net()
    return Quantizer(model, states_for(model, 64), Scheme(), threads=1)


def test_the_border_stays_in_float_where_it_is_small(quantizer: Quantizer) -> None:
    assert quantizer.default == {"a", "b", "gr", "gb"}


def test_the_border_runs_in_int8_where_it_is_most_of_the_work() -> None:
    model = perceptron(widths=(40, 16))
    assert Quantizer(model, states_for(model, 32), Scheme(), threads=1).default == {"h", "f", "p1", "grad"}


def test_any_choice_of_layers(quantizer: Quantizer) -> None:
    model = conv_net()
    inputs = states_for(model, 8, seed=1).inputs(slice(None))
    wanted = run(model, inputs)
    for chosen in ({"a"}, {"h", "grad"}, {layer.name for layer in quantizer.layers}):
        made = quantizer.model(chosen)
        assert sum(node.op_type == "QuantizeLinear" for node in made.graph) == len(chosen)
        assert 0 < error(wanted["grad"], run(made, inputs)["grad"]) < 0.15


def test_nothing_in_int8_is_the_graph_itself(quantizer: Quantizer) -> None:
    inputs = states_for(conv_net(), 8).inputs(slice(None))
    np.testing.assert_array_equal(run(quantizer.model([]), inputs)["grad"], run(conv_net(), inputs)["grad"])
    assert [node.name for node in quantizer.model([]).graph] == [node.name for node in conv_net().graph]


def test_corrections_are_kept_where_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges that end far inside what comes make an error that is the same everywhere."""

    def clipping(histogram: Histogram, symmetric: bool) -> list[tuple[float, float]]:
        return [(low / 5, high / 5) for low, high in min_max_range(histogram, symmetric)]

    monkeypatch.setitem(OBSERVERS, "clipping", clipping)
    model = conv_net()
    found = Quantizer(model, states_for(model, 64), Scheme(observer="clipping", fit_weights=False), threads=1)
    assert found.corrected
    fresh = states_for(model, 256, seed=5).inputs(slice(None))
    wanted = run(model, fresh)["grad"]
    corrected = score_fidelity(wanted, run(found.model(found.default), fresh)["grad"])
    found._made.weights = found.calibration.weights
    before = score_fidelity(wanted, run(found.model(found.default), fresh)["grad"])
    assert before.gain**2 + before.bias**2 > 1e-3
    assert corrected.gain**2 + corrected.bias**2 < 0.7 * (before.gain**2 + before.bias**2)


def test_few_states_make_no_corrections() -> None:
    model = conv_net()
    assert not Quantizer(model, states_for(model, 4), Scheme(), threads=1).corrected


def test_corrections_are_tried_on_other_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """And neither made nor tried with states that were kept for their large gradients, which are more than come."""
    asked: list[States] = []

    def corrected(model, layers, grids, weights, states, **options):
        asked.append(states)
        return dict(weights)

    def judged(exact, got, states):
        asked.append(states)
        return []

    monkeypatch.setattr(quantizer_file, "correct_bias", corrected)
    monkeypatch.setattr(quantizer_file, "score_error", judged)
    model = conv_net()
    chain = np.repeat(np.arange(16), 4)
    states = dataclasses.replace(states_for(model, 64), chain=chain, large=np.arange(64) % 4 == 3)
    Quantizer(model, states, Scheme(fit_weights=False), threads=1)
    seen, tried, again = asked
    assert not seen.large.any() and not tried.large.any()
    assert set(seen.chain) == {n for n in range(16) if n % 4} and set(tried.chain) == set(again.chain) == {0, 4, 8, 12}
    assert len(seen) == 36 and len(tried) == 12


def test_description(quantizer: Quantizer) -> None:
    said = {entry["name"]: entry for entry in quantizer.describe({"a", "gb"}, {"b": "it harms"}, "bf16")}
    assert list(said) == ["h", "a", "b", "gr", "gb", "grad"]
    assert {name: entry["precision"] for name, entry in said.items()} == {
        "h": "bf16", "a": "int8", "b": "bf16", "gr": "bf16", "gb": "int8", "grad": "bf16",
    }  # fmt: skip
    assert said["a"]["reason"].startswith("range -")
    assert said["b"]["reason"] == "it harms"
    assert said["gr"]["reason"] == "not chosen"
    assert said["h"]["reason"].startswith("reads the state")
    assert (said["a"]["signed"], said["gb"]["signed"]) == (False, True)
    assert "scale" not in said["b"]


def test_a_graph_without_layers() -> None:
    from .graphs import graph

    model = graph(
        """score (float[B, 3] x, float[B] grad_scale) => (float[B] energy, float[B, 3] grad) {
            q = Mul (x, x)  energy = ReduceSum <keepdims: int = 0> (q, last)
            s = Unsqueeze (grad_scale, last)  d = Add (x, x)  grad = Mul (d, s)
        }""",
        {"last": np.array([1])},
    )
    found = Quantizer(model, states_for(model, 8), Scheme(), threads=1)
    assert not found.default
    assert not found.corrected
    assert [node.op_type for node in found.model([]).graph] == [node.op_type for node in model.graph]
    assert isinstance(found.model([]), ir.Model)
