"""Every model of the zoo on OpenVINO, and as TensorRT plans in every precision. Slow: `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ebm_export.exporter.precision import LOW_TYPES, typed
from ebm_export.exporter.targets import target
from ebm_export.exporter.trace import input_names
from ebm_export.runtime.backends import open_engine
from ebm_export.runtime.tensorrt_library import build_plan

from .cases import REFUSED, all_cases, draw
from .referee import autograd, energy_of, per_sample, score_graph

CASES = {name: case for name, case in all_cases().items() if name not in REFUSED}
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CASES)
def test_openvino_agrees_with_float64_autograd(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    energy = energy_of(case)
    entry = target("openvino").write(ir.to_proto(score_graph(energy)), tmp_path, precision="fp32", batch=(1, 3, 8))
    names = input_names(energy)
    path = tmp_path / entry["path"]
    with open_engine("openvino", path, precision="fp32", threads=1, options=entry["options"]) as engine:
        for batch in (1, 3):
            inputs = draw(case, 200 + batch, batch)
            feeds = {names[key]: array for key, array in inputs.items()} | {"grad_scale": np.ones(batch, np.float32)}
            grad = engine.run(feeds)["grad"]
            _, exact = autograd(case.build(), case, inputs, torch.float64)
            _, rough = autograd(case.build(), case, inputs, torch.float32)
            limit = np.maximum(1e-4, 2 * per_sample(rough - exact, exact))
            assert (per_sample(grad - exact, exact) <= limit).all()


@pytest.mark.parametrize("precision", ["fp32", *LOW_TYPES])
@pytest.mark.parametrize("name", CASES)
def test_tensorrt_builds_a_plan(name: str, precision: str) -> None:
    model = score_graph(energy_of(CASES[name]))
    if precision != "fp32":
        model = typed(model, precision)
    assert len(build_plan(ir.to_proto(model).SerializeToString(), batch=(1, 2, 8))) > 1000
