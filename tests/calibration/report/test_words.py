from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ebm_export.calibration.chain_plan import fitted_plan
from ebm_export.calibration.comparison import Comparison
from ebm_export.calibration.gate_metrics import GATE_METRICS, Pools
from ebm_export.calibration.latency import Latency
from ebm_export.calibration.report.words import METRICS, headline, metric_name, own_limit, percent, verdict
from ebm_export.calibration.sample_set import SampleSet
from ebm_export.calibration.verdict import MetricVerdict

from ..made_comparison import REFERENCE, gate, lost, made_comparison, no_floor, rare, ratio, score


def with_engines(*names: str) -> Comparison:
    found = made_comparison()
    return dataclasses.replace(found, engines=tuple(one for one in found.engines if one.name in (REFERENCE, *names)))


def told(comparison: Comparison, name: str) -> tuple[str, str]:
    engine = next(one for one in comparison.engines if one.name == name)
    found = verdict(engine, comparison)
    return found.css, f"{found.word}: {found.text}"


class TestVerdict:
    def test_passes(self) -> None:
        css, text = told(made_comparison(), "int8 openvino")
        assert css == "good"
        assert text.startswith(
            "✓ passes: Its samples are as close to FP32's as FP32's are to each other. Largest ratio: "
        )
        assert "1.18 times the noise floor, 1.25 is allowed" in text

    def test_fails_by_its_samples(self) -> None:
        css, text = told(made_comparison(), "ort static")
        assert css == "bad"
        assert "can be told from FP32's by 11 of 11 metrics" in text
        assert "Largest ratio: Stein, 9.5 times the noise floor" in text

    def test_fails_by_its_gradient(self) -> None:
        css, text = told(made_comparison(), "bf16 openvino")
        assert css == "bad"
        assert "Its samples pass, its gradient does not" in text and "gradient gain 2 %, 1 % is allowed" in text

    def test_broke_off(self) -> None:
        assert told(made_comparison(), "fp16 onnxruntime")[1].startswith("✕ broke off: Its chains diverge")

    def test_a_ratio_to_a_floor_of_0_is_called_infinite(self) -> None:
        found = made_comparison()
        engine = dataclasses.replace(found.engines[1], gate=gate(no_floor("modes", 0.2), ratio("energy", 3.0)))
        text = "Largest ratio: modes, infinite: FP32's distance from itself is 0, the engine's is not."
        assert verdict(engine, found).text.endswith(text)
        alone = dataclasses.replace(found, engines=(found.first, engine))
        assert headline(alone)[1][0].endswith(
            ": modes is infinitely far beyond the seed noise floor, since FP32's distance from itself is 0, the engine's is not."
        )

    def test_chains_that_are_not_finite(self) -> None:
        found = made_comparison()
        engine = dataclasses.replace(found.engines[1], gate=gate(lost()))
        assert verdict(engine, found).text.endswith(
            "Worst: 40 of 400 chains left the numbers a float can hold, or went far out."
        )

    def test_a_gradient_that_is_no_number(self) -> None:
        broken = MetricVerdict(
            "score gain",
            math.nan,
            0.01,
            math.nan,
            math.nan,
            math.nan,
            1.0,
            None,
            False,
            True,
            "the gradient is not finite",
        )
        assert own_limit(broken) == "gradient gain not known: the gradient is not finite"

    def test_the_reference_says_how_it_fared_itself(self) -> None:
        assert "it passes, as it should" in told(made_comparison(), REFERENCE)[1]
        found = made_comparison()
        failing = dataclasses.replace(found.first, gate=gate(ratio("energy", 1.4)))
        assert "it fails, so read the others with care" in verdict(failing, found).text

    def test_undecided(self) -> None:
        found = made_comparison()
        open_case = dataclasses.replace(gate(ratio("energy", 1.3, decided=False)), decided=False)
        engine = dataclasses.replace(found.engines[1], gate=open_case)
        assert verdict(engine, found).text.endswith("More chains could still change this.")


class TestHeadline:
    def test_all_pass(self) -> None:
        css, lines = headline(with_engines("int8 openvino"))
        assert css == "good"
        assert lines[0].startswith("The one candidate draws the same samples as FP32, as far as 400 chains can tell")
        assert lines[0].endswith(": none of its metrics is more than 1.25 times the seed noise floor away.")
        assert len(lines) == 2

    def test_none_passes(self) -> None:
        css, lines = headline(with_engines("ort static", "fp16 onnxruntime"))
        assert css == "bad"
        assert lines[0] == "None of the 2 candidates can stand in for FP32, as far as 400 chains can tell."
        assert lines[-1] == "Not to be used in FP32's place: ort static, fp16 onnxruntime."

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            (
                "ort static",
                ", as far as 400 chains can tell: Stein is 9.5 times the seed noise floor away, 1.25 is allowed.",
            ),
            ("bf16 openvino", ", as far as 400 chains can tell: gradient gain 2 %, 1 % is allowed."),
            ("fp16 onnxruntime", ": it broke off."),
        ],
    )
    def test_the_one_does_not_pass(self, name: str, why: str) -> None:
        css, lines = headline(with_engines(name))
        assert css == "bad"
        assert lines == [f"The one candidate cannot stand in for FP32{why}", f"Not to be used in FP32's place: {name}."]

    def test_some_pass(self) -> None:
        css, lines = headline(with_engines("int8 openvino", "ort static"))
        assert css == "told"
        assert lines[0].startswith("1 of 2 candidates draws the same samples as FP32")
        assert lines[0].endswith(": none of its metrics is more than 1.25 times the seed noise floor away.")

    def test_none_is_faster(self) -> None:
        found = with_engines("int8 openvino")
        slow = dataclasses.replace(found.engines[1], latency=found.first.latency)
        lines = headline(dataclasses.replace(found, engines=(found.first, slow)))[1]
        assert lines[1] == "None of those that pass is faster per step than fp32 openvino on this machine."

    def test_times_that_overlap_give_no_speed(self) -> None:
        found = with_engines("int8 openvino", "bf16 openvino")
        noisy = (Latency(8, 0.877, 0.104, 1.34, 9, 40),)
        first = dataclasses.replace(found.first, latency=noisy)
        candidate = dataclasses.replace(found.engines[1], latency=(Latency(8, 0.119, 0.106, 0.768, 9, 40),))
        lines = headline(dataclasses.replace(found, engines=(first, candidate)))[1]
        assert lines[1] == (
            "The fastest that passes may be int8 openvino, at 0.28 times the size of fp32 openvino: their times per step overlap, "
            "and only a quieter machine can tell which is faster."
        )
        slower = dataclasses.replace(candidate, name="sure", latency=(Latency(8, 0.1, 0.09, 0.1035, 9, 40),))
        lines = headline(dataclasses.replace(found, engines=(first, candidate, slower)))[1]
        assert lines[1].startswith("The fastest that passes is sure: 8.8 times as fast per step as fp32 openvino")
        assert len(lines) == 2  # the other's begin above its own

    @pytest.mark.parametrize(
        ("spreads", "said"),
        [  # 10th percentile, median and 90th; FP32's are 1.9 to 2.4
            (
                [(1.33, 1.38, 1.52), (1.41, 1.46, 1.54)],
                [
                    "The fastest that pass are a and b, as fast as one another, as their times overlap: 1.4 times as fast per step as "
                    "fp32 openvino, at 0.5 and 0.25 times its size."
                ],
            ),
            (
                [(1.41, 1.46, 1.54), (1.0, 1.25, 1.45), (1.42, 1.43, 1.44)],
                [
                    "The fastest that pass are b, c and a, as fast as one another, as their times overlap: 1.6, 1.4 and 1.4 times as "
                    "fast per step as fp32 openvino, at 0.25, 0.12 and 0.5 times its size."
                ],
            ),
            (  # a's overlap both of the others', and c is slower than b
                [(1.0, 1.1, 1.6), (1.15, 1.2, 1.3), (1.4, 1.5, 1.55)],
                [
                    "The fastest that pass are a and b, as fast as one another, as their times overlap: 1.8 and 1.7 times as fast per "
                    "step as fp32 openvino, at 0.5 and 0.25 times its size."
                ],
            ),
            (
                [(1.33, 1.38, 1.4), (1.41, 1.46, 1.54)],
                ["The fastest that passes is a: 1.4 times as fast per step as fp32 openvino, at 0.5 times its size."],
            ),
            (  # b's overlap FP32's too
                [(1.33, 1.38, 1.52), (1.41, 1.46, 2.0)],
                [
                    "The fastest that passes is a: 1.4 times as fast per step as fp32 openvino, at 0.5 times its size.",
                    "b may be as fast: the times per step vary too much to tell.",
                ],
            ),
            (
                [(1.33, 1.38, 1.95), (1.41, 1.46, 2.0)],
                [
                    "The fastest that passes may be a or b, at 0.5 and 0.25 times the size of fp32 openvino: their times per step "
                    "overlap, and only a quieter machine can tell which is faster."
                ],
            ),
        ],
    )
    def test_candidates_whose_times_overlap(self, spreads: list[tuple[float, float, float]], said: list[str]) -> None:
        found = with_engines("int8 openvino")
        candidates = [
            dataclasses.replace(
                found.engines[1],
                name=name,
                bytes=found.first.bytes // parts,
                latency=(Latency(8, median, low, high, 9, 40),),
            )
            for name, parts, (low, median, high) in zip("abc", (2, 4, 8), spreads, strict=False)
        ]
        lines = headline(dataclasses.replace(found, engines=(found.first, *candidates)))[1]
        assert lines[1:] == said


class TestOwnLimit:
    def test_gradient(self) -> None:
        assert own_limit(score("score bias", 0.00001)) == "gradient bias < 0.01 %, 1 % is allowed"

    def test_rare_modes(self) -> None:
        assert own_limit(rare(0.1, 0.5)) == (
            "largest sure loss of a mode 10 % (the worst: 40 of 400 FP32 chains, 9 of 400 of the candidate's, p 0.5)"
        )
        assert own_limit(rare(0.8, 1e-6)).endswith("9 of 400 of the candidate's, p 1e−6)")


@pytest.mark.parametrize("metric", [*GATE_METRICS, "score gain", "score bias", "finite"])
def test_every_metric_of_the_gate_is_explained(metric: str) -> None:
    name, text = METRICS[metric]
    assert metric_name(metric) == name
    assert len(text) > 20


def _normal(seed: int, width: float) -> SampleSet:
    x = width * np.random.default_rng(seed).standard_normal((800, 1)).astype(np.float32)
    return SampleSet(x, x[:, 0])


def test_metrics_are_called_what_the_gate_computes() -> None:
    """Between a normal and one three times as wide the distance of order 1 is 2 E|z| = 1.6, that of order 2 is 2."""
    pools = Pools(*(_normal(seed, width) for seed, width in ((0, 1.0), (1, 3.0))), fitted_plan(1.25, 0.1, 800), 1.0, 0)
    assert GATE_METRICS["sliced wasserstein"](pools).value == pytest.approx(1.6, abs=0.15)
    name, text = METRICS["sliced wasserstein"]
    assert name == "sliced W1" and "Wasserstein-1" in text
    assert "the FID" not in METRICS["frechet"][1]


def test_percent() -> None:
    assert [percent(share) for share in (0.0, 1e-5, 0.0123, 1.5)] == ["0 %", "< 0.01 %", "1.2 %", "150 %"]
