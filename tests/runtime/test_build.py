"""What is refused before a plan is built; those that build are in tests/exporter/test_split.py and need TensorRT."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebm_export.runtime import UsageError
from ebm_export.runtime.build import build_plans
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle

from .tiny_bundle import artifact_entry, manifest_entries


def with_onnx(path: Path) -> Path:
    """A bundle with a file of the target onnx, whose contents nobody reads here."""
    with writing_bundle(path) as folder:
        (folder / "score.fp32.onnx").write_bytes(b"graph")
        write_manifest(folder, manifest_entries([artifact_entry(folder, "score.fp32.onnx", target="onnx")]))
    return path


def test_a_bundle_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_onnx(tmp_path / "m.ebm")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bundle)
    with pytest.raises(UsageError, match="^bundle: .*m.ebm may not be written to$"):
        build_plans(bundle)
