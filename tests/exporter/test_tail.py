from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
import torch.nn.functional as F

from ebm_export.exporter.calibrated import CalibratedArtifacts
from ebm_export.exporter.conditions import Conditions
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.golden import make_golden
from ebm_export.exporter.manifest import model_spec
from ebm_export.exporter.tail import low_types, write_tail
from ebm_export.exporter.targets.score import files_of
from ebm_export.runtime import SamplerConfig

from .referee import score_graph

CONFIG = SamplerConfig(steps=4, step_size=0.1)


def test_types_are_those_that_are_faster_than_float32() -> None:
    assert low_types("onnx") == low_types("tensorrt") == ["fp16"]
    assert low_types("onnxruntime") == []  # on CPUs
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert low_types("openvino") == ["bf16"] * ("BF16" in can)


@pytest.mark.parametrize("right", [True, False])
def test_one_that_disagrees_with_pytorch_is_not_offered(tmp_path: Path, right: bool) -> None:
    energy = make_energy(lambda x: F.silu(x).square().sum(1), torch.randn(4, 3), sampler=CONFIG)
    golden = make_golden(energy, CONFIG, precisions=["fp16"])
    if not right:
        golden["grad"] *= 1.5
    spare, bundle, scratch = tmp_path / "spare", tmp_path / "bundle", tmp_path / "scratch"
    for folder in (spare, bundle, scratch):
        folder.mkdir()
    with CalibratedArtifacts(
        score_graph(energy), model_spec(energy), CONFIG, scratch, None, Conditions({}, {}, True), None, (1, 8, 8), True, golden,
        lambda what, done, total: None,
    ) as artifacts:  # fmt: skip
        tail = write_tail(artifacts, "onnx", "fp16", spare)
        assert (tail is not None) == right
        if tail is None:
            return
        assert tail.verification is not None and tail.verification.passed
        tail.move(bundle)
        assert sorted(file.name for file in bundle.iterdir()) == sorted(files_of(tail.artifact)) == ["score.fp16.onnx"]
        with artifacts.open(tail.artifact, tail.folder) as engine:
            answer = engine.run({"x": np.zeros((2, 3), np.float32), "grad_scale": np.ones(2, np.float32)})
        np.testing.assert_array_equal(answer["grad"], 0)
