"""Target onnx: the file is the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from ebm_export.exporter.targets.onnx import available, write

BATCH = (1, 4, 8)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_writes_the_graph_as_it_is(tmp_path: Path, score_graph: Any, precision: str) -> None:
    entry = write(score_graph(precision), tmp_path, precision=precision, batch=BATCH)
    assert entry["path"] == f"score.{precision}.onnx"
    assert (entry["target"], entry["precision"], entry["role"], entry["files"]) == ("onnx", precision, "score", [])
    assert entry["toolchain"] == {"onnx": onnx.__version__}
    assert onnx.load(tmp_path / entry["path"]) == score_graph(precision)
    assert [path.name for path in tmp_path.iterdir()] == [entry["path"]]


def test_available() -> None:
    assert available() is None
