"""What is refused before a plan is built; those that build are in tests/exporter/test_split.py and need TensorRT."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebm_export.runtime import LoadError, UsageError
from ebm_export.runtime.build import build_plans
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle
from ebm_export.runtime.file_lock import sole_user
from ebm_export.runtime.tensorrt_library import Fingerprint, Plan

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


def test_what_a_busy_manifest_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old plan beside its old entry, or the new one beside the new one."""
    plans = iter([b"first", b"second", b"third"])
    monkeypatch.setattr(
        "ebm_export.runtime.build.build_plan", lambda *graph, **how: Plan(next(plans), {"conv": "int8", "head": "fp32"})
    )
    monkeypatch.setattr(
        "ebm_export.runtime.build.fingerprint", lambda: Fingerprint("tensorrt", "10.3.0.0", "Orin", "8.7")
    )
    monkeypatch.setattr("ebm_export.runtime.manifest_update._PATIENCE", 0.05)
    bundle = with_onnx(tmp_path / "m.ebm")

    def plan() -> bytes:
        here = Bundle(bundle)
        (artifact,) = (artifact for artifact in here.artifacts if artifact.target == "tensorrt")
        return here.file_of(artifact).read_bytes()  # which compares the sha256

    (row,) = build_plans(bundle)
    assert row["note"] == "TensorRT runs 1 of 2 convolutions and matrix products in INT8"
    (entry,) = (artifact for artifact in Bundle(bundle).artifacts if artifact.target == "tensorrt")
    assert entry.layers == {"conv": "int8", "head": "fp32"}
    assert entry.note == f"built by ebm-run build; {row['note']}"
    assert plan() == b"first"
    with (
        sole_user("manifest", bundle / "manifest.json"),
        pytest.raises(UsageError, match="is being changed by another process: wait"),
    ):
        build_plans(bundle)
    assert plan() == b"first"
    build_plans(bundle)
    assert plan() == b"third"


def test_a_bundle_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_onnx(tmp_path / "m.ebm")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bundle)
    with pytest.raises(UsageError, match="^bundle: .*m.ebm may not be written to$"):
        build_plans(bundle)
