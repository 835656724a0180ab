"""Every model of the zoo on OpenVINO, and as TensorRT plans in every precision. Slow: `make test-slow`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from ebm_export.exporter.energy import Energy
from ebm_export.exporter.precision import LOW_TYPES, typed
from ebm_export.exporter.targets import target
from ebm_export.exporter.trace import input_names
from ebm_export.runtime.backends import open_engine
from ebm_export.runtime.errors import UnsupportedOperation

from .cases import REFUSED, Case, all_cases, draw
from .referee import autograd, energy_of, per_sample, score_graph

pytestmark = pytest.mark.slow

REFUSED_BY_TENSORRT = {
    # The nodes of all samples stand in one list, so that only a scatter can add to them, and TensorRT's do not add.
    "indexing/message_passing_flat": (
        "does not take the ScatterND node 'ScatterND': Assertion failed: mode == \"none\": ScatterND with reduction is "
        "not supported; it stands for aten.index_put.default, in the model itself (indexing.py:"
    ),
}
"""Cases that TensorRT does not take in any precision, with what the error must say."""


class Lowered(NamedTuple):
    """A case and its float32 score graph."""

    name: str
    case: Case
    energy: Energy
    model: ir.Model

    def typed(self, precision: str) -> onnx.ModelProto:
        """The graph in a precision, as a target takes it."""
        return ir.to_proto(self.model if precision == "fp32" else typed(self.model, precision))


# Module scope: pytest runs all engines of a case before it goes on, so each case is traced once.
@pytest.fixture(scope="module", params=[name for name in all_cases() if name not in REFUSED])
def lowered(request: pytest.FixtureRequest) -> Lowered:
    """Each case in turn."""
    case = all_cases()[request.param]
    energy = energy_of(case)
    return Lowered(request.param, case, energy, score_graph(energy))


def test_openvino_agrees_with_float64_autograd(lowered: Lowered, tmp_path: Path) -> None:
    case = lowered.case
    entry = target("openvino").write(lowered.typed("fp32"), tmp_path, precision="fp32", batch=(1, 3, 8))
    names = input_names(lowered.energy)
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
def test_tensorrt_builds_a_plan(lowered: Lowered, precision: str, tmp_path: Path) -> None:
    model = lowered.typed(precision)
    if lowered.name in REFUSED_BY_TENSORRT:
        with pytest.raises(UnsupportedOperation, match=re.escape(REFUSED_BY_TENSORRT[lowered.name])):
            target("tensorrt").write(model, tmp_path, precision=precision, batch=(1, 2, 8))
        return
    entry = target("tensorrt").write(model, tmp_path, precision=precision, batch=(1, 2, 8))
    assert (tmp_path / entry["path"]).stat().st_size > 1000
