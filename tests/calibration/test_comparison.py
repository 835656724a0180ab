from __future__ import annotations

import dataclasses
import json
import math

import pytest

from ebm_export.calibration.comparison import SCHEMA_VERSION
from ebm_export.calibration.verdict import MetricVerdict

from .made_comparison import REFERENCE, gate, made_comparison, one_mode, rare, ratio, score


def engine(**changes):
    return dataclasses.replace(made_comparison().engines[1], **changes)


class TestWorst:
    def test_of_those_that_pass_it_is_the_largest_ratio_to_the_floor(self) -> None:
        found = engine(gate=gate(ratio("energy", 1.1), ratio("mmd", 0.9), rare(0.6, 0.4), score("score bias", 0.009)))
        assert found.passed
        assert found.worst.metric == "energy"
        assert found.quality == pytest.approx(1.1)

    def test_of_those_that_fail_it_is_the_largest_ratio(self) -> None:
        found = engine(gate=gate(ratio("energy", 1.3), ratio("mmd", 1.4), score("score bias", 0.03)))
        assert not found.passed
        assert found.worst.metric == "mmd"
        assert found.quality == pytest.approx(1.4)

    def test_where_only_the_gradient_fails_it_counts_as_if_its_limit_were_the_gate(self) -> None:
        found = engine(gate=gate(ratio("energy", 1.2), score("score gain", 0.02), score("score bias", 0.03)))
        assert found.worst.metric == "score bias"
        assert found.quality == pytest.approx(1.25 * 3)

    def test_what_is_not_a_number_comes_first(self) -> None:
        broken = MetricVerdict("score gain", math.nan, 0.01, math.nan, math.nan, math.nan, 1.0, None, False, True)
        found = engine(gate=gate(ratio("energy", 1.0), broken))
        assert found.worst.metric == "score gain"
        assert found.quality == math.inf

    def test_what_was_not_compared_is_not_the_worst(self) -> None:
        found = engine(gate=gate(ratio("energy", 0.97), one_mode(), rare(0.1, 0.5), score("score bias", 0.001)))
        assert found.worst.metric == "energy" and found.quality == pytest.approx(0.97)
        assert [verdict.metric for verdict in found.ratios] == ["energy"]
        alone = engine(gate=gate(one_mode(), rare(0.1, 0.5)))
        assert alone.worst.metric == "modes"  # where nothing else was, as chains are that all end in one point

    def test_without_a_gate_there_is_none(self) -> None:
        assert engine(gate=None).worst is None
        assert engine(gate=None).quality is None


class TestComparison:
    def test_speed_is_relative_to_the_reference_at_the_largest_batch(self) -> None:
        found = made_comparison()
        assert found.speed(found.first) == 1
        assert found.speed(found.engines[1]) == pytest.approx(2.0 / 0.6)
        assert found.speed(next(one for one in found.engines if one.failure)) is None

    def test_failures_name_the_engine_and_the_reason(self) -> None:
        lines = made_comparison().failures
        assert [line.partition(": ")[0] for line in lines] == [
            "ort static",
            "bf16 openvino",
            "fp16 onnxruntime",
            "other",
        ]
        assert lines[0] == "ort static: energy 2.50 times the seed noise floor"
        assert "chains diverge" in lines[2]

    def test_report_json_is_plain_and_has_no_number_that_json_lacks(self) -> None:
        found = made_comparison()
        broken = dataclasses.replace(ratio("energy", 2.0), ratio=math.inf, low=math.nan, high=-math.inf)
        first = dataclasses.replace(found.engines[1], gate=gate(broken))
        entries = dataclasses.replace(found, engines=(found.first, first)).to_dict()
        read = json.loads(json.dumps(entries, allow_nan=False))
        assert read == entries
        verdict = read["engines"][1]["gate"]["verdicts"][0]
        assert (verdict["ratio"], verdict["low"], verdict["high"]) == (None, None, None)
        assert read["schema_version"] == SCHEMA_VERSION == 1
        assert read["reference"] == REFERENCE
        assert read["engines"][0]["latency"][1] == {
            "batch": 8, "median": 2.0, "low": 1.9, "high": 2.4, "rounds": 9, "steps": 40
        }  # fmt: skip
        assert not {"pictures", "mode_pictures"} & set(read)
