"""What the table at the end of an export says."""

from __future__ import annotations

import pytest

from ebm_export.exporter.closing_table import _gate_said, _how_to_judge, _limit, _why_so_far_off


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
def test_an_engine_that_no_gate_judged_says_so_and_how_it_would_be(
    target: str, precision: str, said: str | None
) -> None:
    artifact = {"target": target, "precision": precision}
    assert _gate_said(artifact, None) == said
    found = _how_to_judge(artifact, {"fp32", precision})
    assert found.startswith("its samples were not judged: --gate 1.25 has") == (said is not None)


def test_what_came_with_mixed_is_judged_where_its_precision_is_asked_for() -> None:
    """The gate is on already."""
    low, plan = ({"target": target, "precision": "fp16"} for target in ("onnx", "tensorrt"))
    found = _how_to_judge(low, {"fp32", "fp16", "mixed"})
    assert found.startswith("--precision fp16 has the export judge") and "--gate" not in found
    assert _how_to_judge(plan, {"fp32", "fp16", "mixed"}) == ""
