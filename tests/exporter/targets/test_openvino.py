"""Target openvino: the written file runs in the types of the graph, through the engine of the runtime."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from ebm_export.exporter.lowering.lower import ORIGIN
from ebm_export.exporter.targets.openvino import available, write
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.errors import EbmExportError, MissingBackend, UnsupportedOperation

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
