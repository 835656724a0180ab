"""Precisions by steps: what is read, what is refused, and which engine runs which step."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.precision_schedule import Span, check_steps, is_schedule, parse_precision_schedule
from ebm_export.runtime.run import run_chains

MODEL = ModelSpec("bowl", TensorSpec("x", (3,), "float32"))


class Bowl(FunctionEngine):
    """E = slope |x|^2 / 2, and the scales it was asked with."""

    def __init__(self, slope: float) -> None:
        super().__init__(lambda x: (0.5 * slope * (x * x).sum(axis=1), slope * x))
        self.scales: list[np.ndarray] = []

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.scales.append(inputs["grad_scale"].copy())
        return super().run(inputs)


def start(chains: range) -> np.ndarray:
    return np.ones((len(chains), 3), np.float32)


class TestParsing:
    def test_spans(self) -> None:
        assert parse_precision_schedule("int8:0-200, bf16:200-256") == (Span("int8", 0, 200), Span("bf16", 200, 256))
        assert parse_precision_schedule("mixed:0-") == (Span("mixed", 0, None),)
        assert is_schedule("int8:0-") and not is_schedule("int8")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("int8:200", "expected PRECISION:FIRST-STOP with commas between them, such as"),
            ("int8:0-200,", "got '' in 'int8:0-200,'"),
            ("int8:0-200;bf16:200-", "got 'int8:0-200;bf16:200-'"),
            ("int8:5-9", "expected the span of int8 to start at 0, at the first step, got int8:5-9"),
            ("int8:0-9,bf16:10-", "expected the span of bf16 to start at 9, where int8:0-9 stops, got bf16:10-"),
            ("int8:0-9,bf16:8-", "expected the span of bf16 to start at 9"),
            ("int8:0-,bf16:9-", "only the last span may run to the end, got int8:0- before bf16:9-"),
            ("int8:0-0", "expected a span to stop after it starts, got int8:0-0"),
        ],
    )
    def test_refuses(self, text: str, message: str) -> None:
        with pytest.raises(UsageError, match=re.escape(message)):
            parse_precision_schedule(text)

    @pytest.mark.parametrize(
        ("text", "steps", "message"),
        [
            ("int8:0-20,bf16:20-25", 30, "covers 25 steps, and the chain has 30: run 25 steps, or write int8:0-20,bf16:20-"),
            ("int8:0-20,bf16:20-25", 22, "covers 25 steps, and the chain has 22: run 25 steps, or write"),
            ("int8:0-20,bf16:20-25", 9, "covers 25 steps, and the chain has 9: change the spans with the steps"),
            ("int8:0-20,bf16:20-", 20, "reaches bf16 at step 20, and the chain has 20 steps: start bf16 earlier"),
        ],
    )  # fmt: skip
    def test_steps_that_do_not_fit(self, text: str, steps: int, message: str) -> None:
        with pytest.raises(UsageError, match=re.escape(message)):
            check_steps(parse_precision_schedule(text), steps)

    @pytest.mark.parametrize("text", ["int8:0-20,bf16:20-25", "int8:0-20,bf16:20-", "int8:0-"])
    def test_steps_that_fit(self, text: str) -> None:
        check_steps(parse_precision_schedule(text), 25)


class TestChains:
    @pytest.mark.parametrize("order", ["drift-noise", "noise-drift"])
    def test_each_step_uses_its_own_engine(self, order: str) -> None:
        config = SamplerConfig.from_dict({"steps": 5, "step_size": 0.1, "noise": 0.0, "order": order})
        result = run_chains(Bowl(1.0), config, start, 2, switches={3: Bowl(4.0)})
        np.testing.assert_allclose(result, np.full((2, 3), 0.9**3 * 0.6**2), rtol=1e-5)

    def test_the_scale_goes_on_and_the_point_is_evaluated_again(self) -> None:
        first, second = Bowl(1.0), Bowl(4.0)
        config = SamplerConfig(steps=4, step_size=0.5, noise=0.0)
        run_chains(first, config, start, 1, switches={2: second})
        # 1 to find the scale, then the gradients of 1, 1/2 and 1/4, averaged as next_scale does; the second engine, whose
        # gradient there is 1, is asked at 1/4 again and goes on with what the first one left.
        half = 2 / np.sqrt(1 + 3 / 4)
        quarter = half * 2 / np.sqrt(1 + 3 * (half / 4) ** 2)
        np.testing.assert_allclose(np.ravel(first.scales), [1, 1, 1, half], rtol=1e-6)
        np.testing.assert_allclose(np.ravel(second.scales)[0], quarter, rtol=1e-6)

    def test_batches_each_start_with_the_first_engine(self) -> None:
        config = SamplerConfig(steps=5, step_size=0.1, noise=0.0)
        result = run_chains(Bowl(1.0), config, start, 5, switches={3: Bowl(4.0)}, max_batch=2)
        np.testing.assert_allclose(result, np.full((5, 3), 0.9**3 * 0.6**2), rtol=1e-5)


class TestEbm:
    def ebm(self, text: str) -> Ebm:
        engines = {"low": Bowl(1.0), "high": Bowl(4.0)}
        schedule = [(span, engines[span.precision]) for span in parse_precision_schedule(text)]
        return Ebm(engines["high"], MODEL, SamplerConfig(steps=5, step_size=0.1, noise=0.0), schedule=schedule)

    def test_samples_by_the_schedule_and_scores_with_the_last(self) -> None:
        ebm = self.ebm("low:0-3,high:3-5")
        np.testing.assert_allclose(ebm.sample(2, x0=start(range(1))), np.full((2, 3), 0.9**3 * 0.6**2), rtol=1e-5)
        np.testing.assert_allclose(ebm.score(start(range(1)))[1], [[4, 4, 4]])

    def test_other_steps_are_refused(self) -> None:
        with pytest.raises(UsageError, match="low:0-3,high:3-5 covers 5 steps, and the chain has 6: run 5 steps"):
            self.ebm("low:0-3,high:3-5").sample(2, steps=6)
        self.ebm("low:0-3,high:3-").sample(2, steps=6)
