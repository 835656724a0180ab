"""The comparison with golden data, on engines that are off by a known amount."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ebm_export.runtime import EngineMismatch, FunctionEngine, UsageError
from ebm_export.runtime.verify import StageResult, check_engine, tolerance

from .tiny_bundle import golden_data


def quadratic(
    grad: Callable[[np.ndarray], np.ndarray] = lambda grad: grad,
    energy: Callable[[np.ndarray], np.ndarray] = lambda energy: energy,
) -> FunctionEngine:
    """The golden data's own energy with something done to its answers."""
    return FunctionEngine(lambda x: (energy(0.5 * (x * x).sum(axis=1)), grad(x)))


def check(engine: FunctionEngine, precision: str = "fp32", **changes: np.ndarray) -> list[StageResult]:
    with engine:
        return check_engine(engine, golden_data() | changes, precision)


def test_the_same_engine_passes_at_every_stage_and_batch_size() -> None:
    results = check(quadratic())
    assert [(result.stage, result.step, result.batch) for result in results] == [
        (stage, 10 * stage, batch) for stage in range(4) for batch in (1, 3, 8)
    ]
    assert all(result.passed for result in results)
    assert max(result.relative_error for result in results) < 1e-6


class TakesFew(FunctionEngine):
    """Of the same energy."""

    def __init__(self, largest: int) -> None:
        super().__init__(lambda x: (0.5 * (x * x).sum(axis=1), x))
        self.largest_batch = largest
        self.asked: list[np.ndarray] = []

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self.largest_batch is not None and len(inputs["x"]) <= self.largest_batch
        self.asked.append(inputs["x"])
        return super().run(inputs)


@pytest.mark.parametrize(("largest", "batches"), [(1, [1] * 12), (2, [1, 2, 1, 2, 2, 2, 2]), (4, [1, 3, 4, 4])])
def test_batches_are_those_that_an_engine_takes(largest: int, batches: list[int]) -> None:
    engine = TakesFew(largest)
    results = check(engine)
    assert [result.batch for result in results if result.stage == 1] == batches
    assert all(result.passed for result in results)
    np.testing.assert_array_equal(np.concatenate(engine.asked[: len(batches)])[4:], golden_data()["x"][0][:8])


def test_conditions_reach_the_engine() -> None:
    engine = FunctionEngine(lambda x, centre: (0.5 * ((x - centre) ** 2).sum(axis=1), x - centre))
    with engine:
        assert all(result.passed for result in check_engine(engine, golden_data(cond=True), "fp32"))


def test_a_condition_that_all_samples_share_is_asked_for_too() -> None:
    """An engine that takes one row for all of them is right in that form, or is told to be wrong."""
    shared = []

    def answer(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        alike = len(x) > 1 and (centre == centre[:1]).all()
        shared.append(alike)
        off = x - centre
        return 0.5 * (off**2).sum(axis=1), off[::-1] if alike else off

    golden = golden_data(cond=True)
    with FunctionEngine(answer) as engine:
        results = check_engine(engine, golden, "fp32")
    assert shared == [False, False, False, True] * 4
    assert [result.batch for result in results] == [1, 3, 8, 8] * 4
    assert [result.shared for result in results] == [False, False, False, True] * 4
    assert [result.passed for result in results] == [True, True, True, False] * 4


def test_one_that_takes_one_sample_has_no_other_form() -> None:
    engine = FunctionEngine(lambda x, centre: (0.5 * ((x - centre) ** 2).sum(axis=1), x - centre))
    engine.largest_batch = 1
    with engine:
        results = check_engine(engine, golden_data(cond=True), "fp32")
    assert [(result.batch, result.shared) for result in results] == [(1, False)] * 12 * 4


@pytest.mark.parametrize(
    ("precision", "off", "passed"),
    [
        ("fp32", 0.9e-4, True),
        ("fp32", 1.2e-4, False),
        ("fp16", 0.045, True),
        ("fp16", 0.055, False),
        ("bf16", 0.045, True),
    ],
)
def test_relative_error(precision: str, off: float, passed: bool) -> None:
    results = check(quadratic(grad=lambda grad: grad * (1 + off)), precision)
    assert all(result.passed == passed for result in results)
    np.testing.assert_allclose([result.relative_error for result in results], off, rtol=0.01)


def test_one_bad_sample_fails_the_batches_that_hold_it() -> None:
    def spoil(grad: np.ndarray) -> np.ndarray:
        grad = grad.copy()
        grad[grad[:, 0] == golden_data()["x"][2, 6, 0]] *= 1.01
        return grad

    failed = [(result.stage, result.batch) for result in check(quadratic(grad=spoil)) if not result.passed]
    assert failed == [(2, 8)]


def test_fp32_may_be_off_by_twice_what_pytorch_is() -> None:
    off = quadratic(grad=lambda grad: grad * (1 + 3e-3))
    loose = np.full((4, 8), 2e-3)
    assert all(result.passed for result in check(off, reference_error=loose))
    assert not any(result.passed for result in check(off, reference_error=loose / 2))


def test_low_precision_judges_the_direction_too() -> None:
    def turn(grad: np.ndarray) -> np.ndarray:
        side = np.cross(grad, np.ones(3, np.float32))
        side *= 0.047 * np.linalg.norm(grad, axis=1, keepdims=True) / np.linalg.norm(side, axis=1, keepdims=True)
        return grad + side

    result = check(quadratic(grad=turn), "fp16")[0]
    assert result.relative_error < 0.05 and result.cosine < 0.999 and not result.passed


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("fp16", 5e-2)])
def test_energy_is_relative_to_the_spread(precision: str, limit: float) -> None:
    golden = golden_data()
    # Energies beside the spread, not larger than it: what rounding may do of them is less than the limit.
    golden["energy"] -= golden["energy"].mean()
    spread = float(np.std(golden["energy"]))
    for share, passed in ((0.9, True), (1.2, False)):
        off = share * limit * spread
        results = check(beside(golden, lambda energy, off=off: energy + off), precision, **golden)
        assert all(result.passed == passed for result in results)
        np.testing.assert_allclose([result.energy_error for result in results], share * limit, rtol=1e-2)


@pytest.mark.parametrize(("share", "passed"), [(0.9, True), (1.2, False)])
def test_energy_in_bf16_is_relative_to_itself_where_that_is_more(share: float, passed: bool) -> None:
    golden = golden_data()
    golden["energy"] += 100
    results = check(beside(golden, lambda energy: energy * (1 + share * 5e-2)), "bf16", **golden)
    assert all(result.passed == passed for result in results)


def beside(golden: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> FunctionEngine:
    """The golden data's own energy with its constant, in float64 until the end."""
    constant = float((golden["energy"] - 0.5 * (golden["x"].astype(np.float64) ** 2).sum(axis=2)).mean())

    def score(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energy = 0.5 * (x.astype(np.float64) ** 2).sum(axis=1) + constant
        return change(energy).astype(np.float32), x

    return FunctionEngine(score)


class TestConstant:
    """An energy with a large constant: what is compared is what moves."""

    def golden(self, constant: float = 5000.0, own: float = 1e-4) -> dict[str, np.ndarray]:
        golden = golden_data()
        golden["energy"] += constant
        golden["reference_energy_error"] = np.full((4, 8), own)
        return golden

    @pytest.mark.parametrize("constant", [5000.0, -5000.0])
    def test_an_engine_that_returns_the_constant_alone_fails(self, constant: float) -> None:
        golden = self.golden(constant)
        wrong = beside(golden, lambda energy: np.full_like(energy, golden["energy"].mean()))
        assert not any(result.passed for result in check(wrong, **golden))

    @pytest.mark.parametrize(("units", "passed"), [(0, True), (25, True), (-25, True), (45, False)])
    def test_a_few_units_in_the_last_place_are_rounding(self, units: int, passed: bool) -> None:
        golden = self.golden(own=0.0)
        found = check(beside(golden, lambda energy: energy + units * np.spacing(np.float32(5000))), **golden)
        assert all(result.passed for result in found) == passed

    def test_a_state_at_which_pytorch_is_right_by_chance_is_allowed_what_its_stage_is(self) -> None:
        golden = self.golden(own=0.05)
        golden["reference_energy_error"][:, ::3] = 0.0
        assert all(result.passed for result in check(beside(golden, lambda energy: energy + 0.09), **golden))
        assert not any(result.passed for result in check(beside(golden, lambda energy: energy + 0.11), **golden))

    def test_one_state_of_large_errors_does_not_excuse_the_others(self) -> None:
        golden = self.golden()
        golden["reference_energy_error"][:, 7] = np.inf
        golden["reference_energy_error"][:, 6] = 1.0
        assert not any(result.passed for result in check(beside(golden, lambda energy: energy + 0.5), **golden))


def test_answers_that_are_not_finite_fail() -> None:
    results = check(quadratic(grad=lambda grad: grad * np.nan))
    assert all(result.relative_error == np.inf and not result.passed for result in results)
    results = check(quadratic(energy=lambda energy: energy + np.nan))
    assert all(result.energy_error == np.inf and not result.passed for result in results)


class TestZeroReference:
    """A gradient of zero is judged by the typical gradient of its stage."""

    def golden(self) -> dict[str, np.ndarray]:
        golden = golden_data()
        golden["x"][1, 0] = 0
        golden["grad"][1, 0] = 0
        golden["energy"][1, 0] = 0
        return golden

    @pytest.mark.parametrize(("off", "passed"), [(0.5e-4, True), (3e-4, False)])
    def test_one_sample(self, off: float, passed: bool) -> None:
        golden = self.golden()
        typical = np.median(np.linalg.norm(golden["grad"][1, 1:], axis=1))

        def add(grad: np.ndarray) -> np.ndarray:
            zero = (grad == 0).all(axis=1, keepdims=True)
            return (grad + zero * off * typical / np.sqrt(3)).astype(np.float32)

        single = check(quadratic(grad=add), **golden)[3]
        assert (single.stage, single.batch) == (1, 1)
        np.testing.assert_allclose(single.relative_error, off, rtol=1e-3)
        assert single.cosine == 1 and single.passed == passed

    def test_a_whole_stage_and_everything(self) -> None:
        golden = self.golden()
        golden["x"][1], golden["grad"][1], golden["energy"][1] = 0, 0, 0
        assert all(result.passed for result in check(quadratic(), **golden))
        zeros = {name: np.zeros_like(golden[name]) for name in ("x", "grad", "energy")}
        assert all(result.passed for result in check(quadratic(), **(golden | zeros)))
        assert not any(result.passed for result in check(quadratic(grad=lambda grad: grad + 1), **(golden | zeros)))

    def test_zero_where_the_reference_is_not(self) -> None:
        result = check(quadratic(grad=lambda grad: grad * 0), "fp16")[0]
        assert (result.cosine, result.relative_error, result.passed) == (0, 1, False)


class TestRounded:
    """At the end of a descent a gradient is what rounding left of larger terms: it has no direction to agree on."""

    def check(self, precision: str, off: float, own: float, rests: bool = True) -> list[StageResult]:
        """The last stage has arrived: gradients of 1e-7, and an engine that is off there by a share of what the others have."""
        golden = golden_data()
        length = np.median(np.linalg.norm(golden["grad"][0], axis=1))
        golden["x"][3] *= 1e-7
        golden["grad"][3] *= 1e-7
        golden["energy"][3] *= 1e-14
        golden["rests"] = np.array(rests)
        for name in ("reference_error", "reference_error.fp16"):
            golden[name] = np.full((4, 8), 1e-7)
            golden[name][3] = own

        def add(grad: np.ndarray) -> np.ndarray:
            arrived = np.abs(grad).max(axis=1, keepdims=True) < 1e-5
            return (grad + arrived * off * length / np.sqrt(3)).astype(np.float32)

        return check(quadratic(grad=add), precision, **golden)

    @pytest.mark.parametrize(("precision", "off"), [("fp32", 5e-7), ("fp16", 1e-3)])
    @pytest.mark.parametrize("own", [0.02, 5.0, 1e4])
    def test_an_error_that_is_nothing_beside_the_largest_gradients_passes(
        self, precision: str, off: float, own: float
    ) -> None:
        found = self.check(precision, off, own)
        assert all(result.passed for result in found)
        assert (
            max(result.relative_error for result in found) < 100 * off
        )  # not thousands, of a gradient that is nothing
        assert all(result.cosine == 1 for result in found[-3:])

    def test_in_fp16_only_where_chains_rest(self) -> None:
        found = self.check("fp16", 1e-3, 5.0, rests=False)
        assert [result.stage for result in found if not result.passed] == [3, 3, 3]

    @pytest.mark.parametrize(("precision", "off"), [("fp32", 3e-6), ("fp16", 6e-3)])
    def test_a_larger_one_does_not(self, precision: str, off: float) -> None:
        found = self.check(precision, off, 5.0)
        assert [result.stage for result in found if not result.passed] == [3, 3, 3]

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    @pytest.mark.parametrize("factor", [0.0, -1.0])
    def test_with_noise_a_small_gradient_is_what_makes_the_samples(self, precision: str, factor: float) -> None:
        golden = golden_data()
        golden["x"][3] *= 1e-3
        golden["grad"][3] *= 1e-3
        golden["energy"][3] *= 1e-6
        golden[f"reference_error.{precision}"] = np.full((4, 8), 0.05)

        def wrong(grad: np.ndarray) -> np.ndarray:
            return np.where(np.abs(grad).max(axis=1, keepdims=True) < 0.01, factor * grad, grad).astype(np.float32)

        found = check(quadratic(grad=wrong), precision, **golden)
        assert [result.stage for result in found if not result.passed] == [3, 3, 3]

    def test_what_pytorch_knows_better_is_judged_as_it_is(self) -> None:
        found = self.check("fp32", 1e-8, 1e-3)
        assert [result.stage for result in found if not result.passed] == [3, 3, 3]


def test_outputs_of_another_shape() -> None:
    with pytest.raises(EngineMismatch, match=r"stage 0, batch 1: output 'grad' should be \(1, 3\), got \(1, 2\)"):
        check(FunctionEngine(lambda x: (x[:, 0], x[:, :2])))


class TestKinks:
    """Where a relu's gradient jumps, engines in a low type differ by as much, and golden data say how much that can be."""

    def turned(self, off: float) -> FunctionEngine:
        """One sample of one stage is off by this share, at a right angle."""

        def bend(grad: np.ndarray) -> np.ndarray:
            across = np.cross(grad, [0.3, 0.5, 0.7])
            across *= np.linalg.norm(grad, axis=1, keepdims=True) / np.linalg.norm(across, axis=1, keepdims=True)
            return (grad + off * across).astype(np.float32)

        return quadratic(grad=bend)

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    @pytest.mark.parametrize(("off", "passed"), [(0.03, True), (0.2, True), (0.35, False)])
    def test_the_limit_rises_to_twice_what_was_found(self, precision: str, off: float, passed: bool) -> None:
        golden = golden_data()
        golden[f"reference_error.{precision}"] = np.full(golden["energy"].shape, 0.15)
        golden[f"reference_energy_error.{precision}"] = np.zeros(golden["energy"].shape)
        assert all(result.passed for result in check(self.turned(off), precision, **golden)) == passed

    def test_the_energys_limit_rises_too(self) -> None:
        golden = golden_data()
        size = np.maximum(np.abs(golden["energy"]), np.std(golden["energy"]))
        golden["reference_energy_error.bf16"] = 0.15 * size
        for off, passed in ((0.25, True), (0.35, False)):
            engine = quadratic(energy=lambda energy, off=off: (energy + off * size.min()).astype(np.float32))
            assert all(result.passed for result in check(engine, "bf16", **golden)) == passed

    @pytest.mark.parametrize(("states", "passed"), [(3, True), (4, False)])
    def test_at_a_tenth_of_the_states_pytorch_may_know_nothing(self, states: int, passed: bool) -> None:
        """Of 32; an engine that points elsewhere at these alone."""
        golden = golden_data()
        own = np.zeros(golden["energy"].shape)
        own[2, :states] = 0.5
        golden["reference_error.fp16"] = own

        def turn(grad: np.ndarray) -> np.ndarray:
            there = (grad[:, None] == golden["x"][2, :states]).all(axis=2).any(axis=1, keepdims=True)
            return np.where(there, -grad, grad).astype(np.float32)

        found = check(quadratic(grad=turn), "fp16", **golden)
        assert all(result.passed for result in found) == passed
        assert max(result.relative_error for result in found) > 1.9, "it is told all the same"

    @pytest.mark.parametrize("floor", [np.inf, np.nan, 1e9])
    @pytest.mark.parametrize("grad", [np.nan, 0.0, 0.1])
    def test_no_floor_lets_a_wrong_engine_pass(self, floor: float, grad: float) -> None:
        golden = golden_data()
        for name in ("reference_error", "reference_energy_error"):
            golden[f"{name}.fp16"] = np.full(golden["energy"].shape, floor)
        wrong = check(quadratic(grad=lambda exact: (grad * exact).astype(np.float32)), "fp16", **golden)
        assert not any(result.passed for result in wrong)
        wrong = check(quadratic(energy=lambda exact: (np.nan * exact).astype(np.float32)), "fp16", **golden)
        assert not any(result.passed for result in wrong)

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_without_any_it_stays(self, precision: str) -> None:
        assert all(result.passed for result in check(self.turned(0.03), precision))
        assert not any(result.passed for result in check(self.turned(0.2), precision))

    def test_those_of_another_precision_do_not_count(self) -> None:
        golden = golden_data()
        golden["reference_error"] = golden["reference_error.bf16"] = np.full(golden["energy"].shape, 0.15)
        assert not any(result.passed for result in check(self.turned(0.2), "fp16", **golden))


def test_unknown_precision() -> None:
    with pytest.raises(UsageError, match="precision 'int8' is not judged gradient by gradient; those that are: fp32"):
        check(quadratic(), "int8")


def test_tolerances_in_words_and_in_json() -> None:
    assert tolerance("fp32").describe() == (
        "relative error up to 0.0001, energy error up to 0.0001 "
        "(or 2 times PyTorch's own error by rounding where that is more)"
    )
    assert tolerance("bf16").describe() == (
        "relative error up to 0.05, energy error up to 0.05, cosine from 0.999 "
        "(or 2 times PyTorch's own error by rounding where that is more)"
    )
    assert tolerance("fp16").to_dict()["cosine"] == 0.999
