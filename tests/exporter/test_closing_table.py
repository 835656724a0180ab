"""What the table at the end of an export says."""

from __future__ import annotations

import pytest

from ebm_export.calibration.chain_plan import plan_chains
from ebm_export.calibration.verdict import GateResult
from ebm_export.exporter.closing_table import _gate_said, _how_to_judge, _limit, _why_so_far_off, how_judged


@pytest.mark.parametrize(
    ("precision", "gated", "worst", "limit", "said"),
    [
        ("fp32", False, 1e-4, "1e-04", ""),
        (
            "fp32",
            False,
            2e-4,
            "1e-04",
            "above the limit at a state where PyTorch's own, by rounding, is half as large or more",
        ),
        ("bf16", True, 0.04, "5e-02", ""),
        (
            "bf16",
            True,
            0.3,
            "5e-02",
            "above the limit at a state where PyTorch's own, by rounding, is half as large or more",
        ),
        ("int8", True, 0.04, "the gate", ""),
        ("int8", True, 0.6, "the gate", "decides nothing in int8: its samples do, and passed the gate"),
        ("mixed", False, 0.6, "none", "decides nothing in mixed: its samples would, and no gate judged them"),
    ],
)
def test_a_worst_error_says_what_it_is_held_to(
    precision: str, gated: bool, worst: float, limit: str, said: str
) -> None:
    assert _limit(precision, gated) == limit
    found = _why_so_far_off(precision, worst, gated)
    assert said in found and bool(said) == ("a relu's gradient jumps" in found)


@pytest.mark.parametrize(
    ("target", "precision", "said"),
    [
        ("onnx", "fp32", None),
        ("onnx", "bf16", "not judged"),
        ("openvino", "fp16", "not judged"),
        ("onnxruntime", "int8", "not judged"),
        ("tensorrt", "fp16", None),
    ],
)
def test_an_engine_that_no_gate_judged_says_so(target: str, precision: str, said: str | None) -> None:
    assert _gate_said({"target": target, "precision": precision}, None) == said


def test_what_came_with_mixed_is_judged_where_its_precision_is_asked_for() -> None:
    """The gate is on already."""
    low, plan = ({"target": target, "precision": "fp16", "note": ""} for target in ("onnx", "tensorrt"))
    found = _how_to_judge(low, {"fp32", "fp16", "mixed"})
    assert found.startswith("--precision fp16 has the export judge") and "--gate" not in found
    assert _how_to_judge(plan, {"fp32", "fp16", "mixed"}) == ""


def judged_by(chains: int, subset: int, difference: float) -> GateResult:
    return GateResult(True, True, (), (), chains, subset, difference, 1.25, "")


def test_what_the_verdicts_rest_on() -> None:
    plan = plan_chains(1.25, 0.15)
    usual = judged_by(plan.pool, plan.subset, plan.smallest_difference)
    said = how_judged([usual, usual])
    assert said.startswith(
        f"the gate compared {plan.pool} chains of each engine with as many of FP32's; a ratio above 1.25 fails. It sees a shift of "
        f"the energy by 0.15 of its standard deviations half of the time, by {plan.sure_difference:.2g} 95 times in 100"
    )
    assert plan.sure_difference > 0.2 and plan.pool == 800
    more = judged_by(3 * plan.pool, plan.subset, plan.smallest_difference)
    assert how_judged([more, usual]) == said.replace(
        "800 chains", "800 to 2400 chains"
    )  # the shift is that of the fewest
    assert how_judged([]) == ""
