"""Products and sums, which OpenVINO must not round together; `tests/exporter/test_fusion.py` compares what comes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime.backends.openvino_sums import part_sums

openvino = pytest.importorskip("openvino")
op = pytest.importorskip("openvino.opset13")


def kinds(model: Any) -> list[str]:
    return [each.get_type_name() for each in model.get_ordered_ops() if each.get_type_name() != "Constant"]


@pytest.mark.parametrize("kind", ["add", "subtract"])
def test_a_step_is_rounded_twice(kind: str) -> None:
    x, h, g = (op.parameter([-1, 3], np.float32, name=name) for name in "xhg")
    moved = getattr(op, kind)(x, op.multiply(h, g))
    model = openvino.Model([op.result(moved)], [x, h, g])
    part_sums(model)
    assert kinds(model)[3:] == ["Multiply", "Maximum", kind.title(), "Result"]
    model.validate_nodes_and_infer_types()


@pytest.mark.parametrize("constant", [True, False])
def test_what_is_a_scale_or_read_twice_stays(constant: bool) -> None:
    x, h = (op.parameter([-1, 3], np.float32, name=name) for name in "xh")
    product = op.multiply(h, op.constant(np.float32(2))) if constant else op.multiply(h, x)
    results = [op.result(op.add(product, x))] + ([] if constant else [op.result(product)])
    model = openvino.Model(results, [x, h])
    before = kinds(model)
    part_sums(model)
    assert kinds(model) == before
