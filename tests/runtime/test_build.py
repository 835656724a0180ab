"""What is refused before a plan is built; those that build are in tests/exporter/test_split.py and need TensorRT."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebm_export.runtime import LoadError, UsageError
from ebm_export.runtime.build import build_plans
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle

from .tiny_bundle import artifact_entry, manifest_entries, write_bundle


def with_onnx(path: Path) -> Path:
    """A bundle with a file of the target onnx, whose contents nobody reads here."""
    with writing_bundle(path) as folder:
        (folder / "score.fp32.onnx").write_bytes(b"graph")
        write_manifest(folder, manifest_entries([artifact_entry(folder, "score.fp32.onnx", target="onnx")]))
    return path


def test_no_file_to_build_from(tmp_path: Path) -> None:
    """The target onnx is what a workstation without TensorRT can write."""
    with pytest.raises(LoadError, match=r"to build anything from; it has none: export again with --target onnx$"):
        build_plans(write_bundle(tmp_path / "a.ebm"))
    with pytest.raises(
        LoadError,
        match=r"build fp16 from; it has fp32: export again with --target onnx --precision fp32 --precision fp16$",
    ):
        build_plans(with_onnx(tmp_path / "b.ebm"), precisions=["fp32", "fp16"])


def test_a_bundle_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_onnx(tmp_path / "m.ebm")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bundle)
    with pytest.raises(UsageError, match="^bundle: .*m.ebm may not be written to$"):
        build_plans(bundle)
