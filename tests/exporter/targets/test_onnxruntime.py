"""Target onnxruntime: every precision comes out as a file that the CPU provider runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ebm_export.exporter.targets.onnxruntime import available, write

BATCH = (1, 4, 8)
# Weights, input and cotangent alone are rounded: half a unit in the last place, with room for sums of errors.
BOUND = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 1.6e-2}


@pytest.mark.parametrize("precision", list(BOUND))
def test_runs(tmp_path: Path, score_graph: Any, batch_of: Any, float64_gradient: Any, precision: str) -> None:
    entry = write(score_graph(precision), tmp_path, precision=precision, batch=BATCH)
    assert entry["path"] == f"score.{precision}.onnxruntime.onnx"
    assert entry["toolchain"] == {"onnxruntime": onnxruntime.__version__}
    session = onnxruntime.InferenceSession(tmp_path / entry["path"], providers=["CPUExecutionProvider"])
    for size in (1, 3, 8):
        inputs = batch_of(size)
        (grad,) = session.run(["grad"], inputs)
        expected = float64_gradient(inputs)
        assert np.linalg.norm(grad - expected) < BOUND[precision] * np.linalg.norm(expected)


def test_low_precision_files_are_half_as_large(tmp_path: Path, score_graph: Any) -> None:
    size = {}
    for precision in BOUND:
        entry = write(score_graph(precision), tmp_path, precision=precision, batch=BATCH)
        size[precision] = (tmp_path / entry["path"]).stat().st_size
    weights = 2 * 64 * 2 * 9 + 64
    assert size["fp16"] < size["fp32"] - 1.9 * weights
    assert size["bf16"] < size["fp32"] - 1.5 * weights  # less the Cast nodes that widen them


@pytest.mark.parametrize(
    ("precision", "note"), [("fp32", ""), ("fp16", "float32 on x86"), ("bf16", "arithmetic in float32")]
)
def test_the_note_says_what_runs(tmp_path: Path, score_graph: Any, precision: str, note: str) -> None:
    assert note in write(score_graph(precision), tmp_path, precision=precision, batch=BATCH)["note"]


def test_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install ebm-export" in str(available())
