"""Two wells in one dimension and a harmonic one beside it, by the same formulas as an engine would compute."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.quality_gate import QualityGate
from ebm_export.calibration.sample_networks import SampleNetworks
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.precision_schedule import Span

CENTRES = np.array([[-2.0, 0.0], [2.0, 0.0]])
SHARES = np.array([0.7, 0.3])
CONFIG = SamplerConfig(steps=60, step_size=0.1)
MODEL = ModelSpec("two wells", TensorSpec("x", (2,), "float32"))

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def wells(shares: np.ndarray = SHARES, change: Change | None = None) -> FunctionEngine:
    """E = -log sum_k share_k exp(-|x - c_k|^2 / 2); `change` takes (x, dE/dx) and gives another gradient."""

    def score(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        away = x[:, None].astype(np.float64) - CENTRES  # [B, 2, 2]
        logs = np.log(shares + 1e-30) - np.square(away).sum(2) / 2
        top = logs.max(1, keepdims=True)
        parts = np.exp(logs - top)
        energy = -top[:, 0] - np.log(parts.sum(1))
        grad = (parts[..., None] / parts.sum(1)[:, None, None] * away).sum(1)
        return energy, grad if change is None else change(x, grad)

    return FunctionEngine(score)


@pytest.fixture(scope="module")
def gate() -> QualityGate:
    return QualityGate(wells(), MODEL, CONFIG, GateRules(smallest_difference=0.3))


def noisy(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """An error of 2 % that averages out, as rounding makes it: it depends on x alone."""
    return grad + 0.02 * np.sin(1e4 * x)


def constant(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    return grad + 0.02 * np.array([0.0, np.sqrt(2.0)])  # rms of the gradient is about 1 in either number


def diverging(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) > 1.5, np.nan, grad)


def test_what_is_being_done_is_said_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(
        "ebm_export.calibration.rounds.judge", lambda *sets, **rules: SimpleNamespace(decided=next(answers))
    )
    told: dict[str, None] = {}  # each once, in order
    gate = QualityGate(
        wells(), MODEL, CONFIG, GateRules(smallest_difference=0.5), progress=lambda what, *now: told.setdefault(what)
    )
    gate.judge("low", wells(), fidelity=())
    count = gate.plan.pool
    assert list(told) == [
        "a trajectory of FP32",
        "drawing samples of low",
        "scoring samples of low",
        "drawing samples of FP32",
        "scoring samples of FP32",
        f"judging {count} samples of low",
        "undecided about low: more samples",
        f"judging {2 * count} samples of low",
    ]


def test_comparing_gradients_shows_how_far_it_is() -> None:
    """Of a network over particles it took minutes below the line of what was done before."""
    told: list[tuple[str, int, int]] = []
    gate = QualityGate(
        wells(), MODEL, CONFIG, GateRules(smallest_difference=0.5), progress=lambda *now: told.append(now)
    )
    told.clear()
    stages = len(gate.fidelity(wells()))
    assert stages > 1
    assert told[:stages] == [("comparing gradients with FP32's", done, stages) for done in range(1, stages + 1)]


@pytest.mark.parametrize("change", [None, noisy])
def test_an_engine_without_fault_passes(gate: QualityGate, change: Change | None) -> None:
    result = gate.judge("engine", wells(change=change))
    assert result.passed, result.reason
    assert result.reason.startswith("all ")


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (wells(change=lambda x, grad: 1.02 * grad), r"score gain 0\.02\d\d, 0\.01 passes"),
        (wells(change=lambda x, grad: 0.98 * grad), r"score gain 0\.02\d\d, 0\.01 passes"),
        (wells(change=constant), r"score bias 0\.0\d\d\d, 0\.01 passes"),
        (wells(shares=np.array([1.0, 0.0])), r"rare modes: one has lost ([89]\d|100)% of its mass"),
        (wells(change=diverging), r"not finite or far out: \d+ of \d+ chains"),
    ],
    ids=["too long", "too short", "constant", "lost mode", "diverges"],
)
def test_damage_fails_with_its_name(gate: QualityGate, engine: FunctionEngine, reason: str) -> None:
    result = gate.judge("engine", engine)
    assert not result.passed
    assert re.search(reason, result.reason), result.reason


def test_a_class_that_is_lost_fails_where_nothing_else_is_asked_of_it() -> None:
    """Samples are compared by their second number alone, in which the wells are alike; a classifier tells the wells apart."""
    blind = SampleNetworks(features=lambda x: x[:, 1:])
    seeing = SampleNetworks(features=lambda x: x[:, 1:], classify=lambda x: (x[:, 0] > 0).astype(int))
    lost = wells(shares=np.array([1.0, 0.0]))
    for networks, wanted in ((blind, set()), (seeing, {"modes", "rare modes"})):
        gate = QualityGate(
            wells(), MODEL, CONFIG, GateRules(smallest_difference=0.3, extra_rounds=0), networks=networks
        )
        failed = {verdict.metric for verdict in gate.judge("engine", lost).verdicts if not verdict.passed}
        assert failed & {"modes", "rare modes", "mmd", "frechet", "density", "coverage"} == wanted


def test_the_score_alone_tells_of_a_bent_gradient(gate: QualityGate) -> None:
    def failed(engine: FunctionEngine) -> list[str]:
        return [verdict.metric for verdict in gate.score_verdicts(gate.fidelity(engine)) if not verdict.passed]

    assert failed(wells()) == []
    assert failed(wells(change=lambda x, grad: 1.02 * grad)) == ["score gain"]
    assert failed(wells(change=constant)) == ["score bias"]
    assert failed(wells(change=diverging)) == ["score gain", "score bias"]


def test_a_gradient_that_is_not_finite_is_refused_in_words(gate: QualityGate) -> None:
    assert gate.refused_by_score(gate.fidelity(wells())) == ""
    assert gate.refused_by_score(gate.fidelity(wells(change=constant))).startswith("score bias 0.0")
    said = gate.refused_by_score(gate.fidelity(wells(change=diverging)))
    assert "not finite at some of the states" in said and "nan" not in said


class TestSchedule:
    COARSE = staticmethod(lambda x, grad: 1.05 * grad)

    def test_coarse_early_and_exact_at_the_end_passes(self, gate: QualityGate) -> None:
        coarse, exact = wells(change=self.COARSE), wells()
        assert not gate.judge("coarse", coarse).passed
        spans = [(Span("mixed", 0, 10), coarse), (Span("fp32", 10, None), exact)]
        result = gate.judge("schedule", exact, spans)
        assert result.passed, result.reason

    def test_exact_early_and_coarse_at_the_end_fails(self, gate: QualityGate) -> None:
        coarse, exact = wells(change=self.COARSE), wells()
        result = gate.judge("schedule", coarse, [(Span("fp32", 0, 10), exact), (Span("mixed", 10, None), coarse)])
        assert not result.passed
        assert "score gain" in result.reason


def test_fp32_draws_once_for_all_candidates() -> None:
    calls = 0

    def counted(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return grad

    own = QualityGate(wells(change=counted), MODEL, CONFIG, GateRules(smallest_difference=0.3, extra_rounds=0))
    spent = []
    for _ in range(3):
        before = calls
        own.judge("engine", wells())
        spent.append(calls - before)
    assert spent[0] > CONFIG.steps  # FP32's chains, and the score of both sets
    assert spent[1] == spent[2] < CONFIG.steps


def test_same_seed_same_verdict(gate: QualityGate) -> None:
    one, other = (gate.judge("engine", wells(change=noisy)) for _ in range(2))
    assert one == other


def test_conditions_are_dealt_to_chains() -> None:
    centres = np.array([[-1.0, 0], [0, 1], [3, 3]], np.float32)

    def pulled(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 0.5 * np.square(x - centre).sum(1), x - centre

    model = ModelSpec("pulled", MODEL.x, cond=(TensorSpec("centre", (2,), "float32"),))
    rules = GateRules(smallest_difference=0.3)
    own = QualityGate(FunctionEngine(pulled), model, CONFIG, rules, cond={"centre": centres})
    assert own.judge("engine", FunctionEngine(pulled)).passed
    lost = FunctionEngine(lambda x, centre: pulled(x, np.zeros_like(centre)))
    assert not own.judge("engine", lost).passed


def test_pulling_left_at_one_condition_and_right_at_another_fails() -> None:
    """Neither the mean error nor the samples of all conditions together show it."""
    centres = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)

    def pulled(x: np.ndarray, centre: np.ndarray, by: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        return 0.5 * np.square(x - centre).sum(1), x - centre + by * np.sign(centre)

    model = ModelSpec("pulled", MODEL.x, cond=(TensorSpec("centre", (2,), "float32"),))
    rules = GateRules(smallest_difference=0.3)
    gate = QualityGate(FunctionEngine(pulled), model, CONFIG, rules, cond={"centre": centres})
    bent = gate.judge("engine", FunctionEngine(lambda x, centre: pulled(x, centre, 0.05)))
    assert [verdict.metric for verdict in bent.verdicts if not verdict.passed] == ["score bias by condition"]
    assert gate.judge("engine", FunctionEngine(lambda x, centre: pulled(x, centre, 0.01))).passed
