"""Target openvino: the written file runs in the types of the graph, through the engine of the runtime."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino
import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.lowering.lower import ORIGIN
from ebm_export.exporter.precision import keep_in_float32
from ebm_export.exporter.targets.openvino import _keep_in_float32, available, write
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.errors import EbmExportError, MissingBackend, UnsupportedOperation
from tests.exporter.referee import score_graph as traced

BATCH = (1, 4, 8)
# FP16 rounds the weights, the input and the cotangent; BF16 every result as well.
BOUND = {"fp32": 1e-6, "fp16": 4e-3, "bf16": 3e-2}
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("precision", list(BOUND))
def test_runs(tmp_path: Path, score_graph: Any, batch_of: Any, float64_gradient: Any, precision: str) -> None:
    entry = write(score_graph(precision), tmp_path, precision=precision, batch=BATCH)
    assert (entry["path"], entry["files"]) == (
        f"score.{precision}.openvino.xml",
        [f"score.{precision}.openvino.bin"],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([entry["path"], *entry["files"]])
    path = tmp_path / entry["path"]
    with OpenVinoEngine(path, precision=precision, threads=1, options=entry["options"]) as engine:
        for size in (1, 3, 8):
            inputs = batch_of(size)
            grad, expected = engine.run(inputs)["grad"], float64_gradient(inputs)
            assert np.linalg.norm(grad - expected) < BOUND[precision] * np.linalg.norm(expected)
        assert (engine.executed_precision == "bf16") == (precision == "bf16" and HAS_BF16)


def test_low_precision_weights_are_stored_in_two_bytes(tmp_path: Path, score_graph: Any) -> None:
    weights = 2 * 64 * 2 * 9 + 64
    for precision, size in (("fp32", 4), ("fp16", 2), ("bf16", 2)):
        (extra,) = write(score_graph(precision), tmp_path, precision=precision, batch=BATCH)["files"]
        assert size * weights <= (tmp_path / extra).stat().st_size < (size + 0.5) * weights


def test_an_operation_that_openvino_lacks(tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    graph.graph.node[2].op_type = "Sigmoid4711"
    graph.graph.node[2].metadata_props.add(key=ORIGIN, value="aten.sigmoid.default, in module 'act'")
    with pytest.raises(
        UnsupportedOperation,
        match=r"cannot convert the fp32 score graph: .*Sigmoid4711.*; it stands for aten.sigmoid.default, in module "
        "'act'; rewrite that line with other operations, or leave the target openvino out",
    ):
        write(graph, tmp_path, precision="fp32", batch=BATCH)
    assert not list(tmp_path.iterdir())


def test_a_node_that_openvino_cannot_convert(tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    graph.graph.node[1].attribute[0].ints[:] = [1, 1, 1]  # pads of another rank
    graph.graph.node[1].metadata_props.add(key=ORIGIN, value="aten.convolution.default, in module 'conv'")
    with pytest.raises(UnsupportedOperation, match=r"Conv node 'h': .*; it stands for aten.convolution.default, in"):
        write(graph, tmp_path, precision="fp32", batch=BATCH)


def test_a_graph_that_openvino_cannot_read(tmp_path: Path, score_graph: Any) -> None:
    graph = score_graph("fp32")
    graph.graph.node[4].input[0] = "nobody"
    with pytest.raises(EbmExportError, match="cannot convert the fp32 score graph: .*nobody") as caught:
        write(graph, tmp_path, precision="fp32", batch=BATCH)
    assert caught.value.exit_code == 1


def test_available() -> None:
    assert available() is None


def test_openvino_is_not_installed(tmp_path: Path, score_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingBackend, match=r"target 'openvino' needs .* pip install 'ebm-export\[openvino\]'"):
        write(score_graph("fp32"), tmp_path, precision="fp32", batch=BATCH)


class Deep(nn.Module):
    """Two convolutions, and a linear layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.deep, self.head = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.deep(self.stem(x).relu()).relu().mean((2, 3))).relu().sum(1)


@pytest.mark.skipif(not HAS_BF16, reason="a CPU without BF16 lowers nothing")
def test_layers_that_are_kept_are_not_lowered(tmp_path: Path) -> None:
    graph = traced(make_energy(Deep().eval(), torch.randn(2, 1, 8, 8)))
    kept = {"deep/Conv", "deep/grad/Conv"}
    keep_in_float32(graph, kept)
    artifact = write(ir.to_proto(graph), tmp_path, precision="mixed", batch=(1, 2, 4))
    model = openvino.Core().read_model(tmp_path / artifact["path"])
    model.reshape({"x": [2, 1, 8, 8], "grad_scale": [2]})
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    ran = {}
    for operation in compiled.get_runtime_model().get_ops():
        said = {key: value.astype(str) for key, value in operation.get_rt_info().items()}
        if said["layerType"] == "Convolution":
            ran[said["originalLayersNames"]] = said["runtimePrecision"]
    for name in ("stem/Conv", *kept):
        (found,) = {precision for names, precision in ran.items() if name in names.replace("/WithoutBiases", "")}
        assert found == ("f32" if name in kept else "bf16"), (name, ran)


def test_a_layer_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<net><layers><layer name="a" type="Convolution"/></layers></net>')
    here, missing = (ir.Node("", "Conv", [], name=name) for name in "ab")
    _keep_in_float32(tmp_path / "a.xml", [here])
    assert '<rt_info><attribute name="precise" version="0" /></rt_info>' in (tmp_path / "a.xml").read_text()
    with pytest.raises(EbmExportError, match="no layer b, which was to stay in float32"):
        _keep_in_float32(tmp_path / "a.xml", [missing])


def test_parts_of_a_last_convolution_are_kept(tmp_path: Path) -> None:
    """Of a gradient that one convolution writes, which is called as the output is."""
    net = nn.Conv2d(3, 64, 3, padding=1)
    graph = traced(make_energy(lambda x: nn.functional.softplus(net(x)).sum((1, 2, 3)), torch.randn(2, 3, 8, 8)))
    last = graph.graph.outputs[1].producer()
    assert last is not None
    assert last.op_type == "Conv"
    artifact = write(ir.to_proto(graph), tmp_path, precision="fp32", batch=(1, 2, 4))
    marked = []
    for layer in ElementTree.parse(tmp_path / artifact["path"]).iter("layer"):
        if layer.find("rt_info/attribute[@name='precise']") is not None:
            marked.append((layer.get("type"), layer.get("name")))
    assert len(marked) == 3
    assert [kind for kind, _ in marked] == ["Convolution", "GroupConvolution", "Convolution"]
    assert marked[2][1] == "grad"
