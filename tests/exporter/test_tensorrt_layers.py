"""What TensorRT makes of an INT8 graph, from the list of layers of the engine that it compiled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from ebm_export.calibration.layer_precisions import read_layers
from ebm_export.exporter import export
from ebm_export.runtime import tensorrt_library
from ebm_export.runtime.build import build_plans
from ebm_export.runtime.bundle import Bundle

from .calibrated_models import SHAPE, Residual, options

pytestmark = [pytest.mark.tensorrt, pytest.mark.usefixtures("fewer_states")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = options(tmp_path_factory.mktemp("plan"), targets=["tensorrt"], precisions=["int8"], gate=None)
    return export(Residual().eval(), torch.randn(4, *SHAPE), **more)


def layers_of(bundle: Path) -> list[tuple[str, list[str]]]:
    """(line, ONNX nodes) of each layer of the engine that TensorRT compiles from the INT8 graph."""
    tensorrt_library.build_plan(bundle / "score.int8.onnx", batch=(1, 8, 64))
    listed = tensorrt_library._collector(tensorrt_library.import_tensorrt()).layers
    return [
        (line, re.findall(r"\[ONNX Layer: ([^\]]*)\]", line)) for line in listed.splitlines() if "LayerType" in line
    ]


def test_all_layers_that_are_int8_in_the_file_are_in_the_plan(bundle: Path) -> None:
    (entry,) = json.loads((bundle / "calibration.json").read_text())["artifacts"]
    in_file = {node["name"]: node["precision"] for node in entry["nodes"]}
    (plan,) = (artifact for artifact in Bundle(bundle).artifacts if artifact.target == "tensorrt")
    assert in_file.items() <= plan.layers.items()
    low = sum(precision == "int8" for precision in in_file.values())
    assert low >= 6 and f"TensorRT runs {low} of {len(plan.layers)} convolutions and matrix products" in plan.note
    graph, compiled = read_layers(Bundle(bundle))
    assert (graph.artifact, compiled.artifact) == ("score.int8.onnx", "score.int8.tensorrt.plan")
    assert graph.nodes == compiled.nodes


def test_nothing_is_rounded_or_summed_by_itself(bundle: Path) -> None:
    """A layer of roundings alone, or a residual sum alone, would read and write a whole activation for it."""
    layers = layers_of(bundle)
    assert len(layers) > 10
    assert not [line for line, nodes in layers if nodes and all(node.endswith("quantize") for node in nodes)]
    sums = {node for _, nodes in layers for node in nodes if re.search(r"(^|/)Add(_\d+)?$", node)}
    assert sums
    assert not [line for line, nodes in layers if nodes and set(nodes) <= sums]


def test_so_says_a_plan_that_is_built_on_the_device(bundle: Path) -> None:
    (before,) = (artifact for artifact in Bundle(bundle).artifacts if artifact.target == "tensorrt")
    (row,) = build_plans(bundle, precisions=["int8"])
    (after,) = (artifact for artifact in Bundle(bundle).artifacts if artifact.target == "tensorrt")
    assert after.layers == before.layers
    assert row["note"] in before.note and after.note == f"built by ebm-run build; {row['note']}"
