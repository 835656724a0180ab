"""The comparison with PyTorch's answers on the device that a bundle came to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime import LoadError, UsageError
from ebm_export.runtime.file_hash import sha256_of
from ebm_export.runtime.verify_bundle import verify_bundle

from .tiny_bundle import golden_data, write_bundle, write_two_precisions


def test_passes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    bundle = write_bundle(tmp_path / "m.ebm", cond=True)
    (row,) = verify_bundle(bundle, threads=1, progress=lambda *what: told.append(what))
    assert (row["file"], row["result"]) == ("score.fp32.onnxruntime.onnx", "passed")
    assert row["relative error"] < 1e-6
    assert told == [("verifying score.fp32.onnxruntime.onnx", 0, 1)]


def test_fails_against_other_answers(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "m.ebm")
    golden = golden_data()
    golden["grad"] *= 1.01
    np.savez(bundle / "golden.npz", allow_pickle=False, **golden)
    manifest = bundle / "manifest.json"
    entries = json.loads(manifest.read_text()) | {"files": {"golden.npz": sha256_of(bundle / "golden.npz")}}
    manifest.write_text(json.dumps(entries))
    (row,) = verify_bundle(bundle)
    assert row["result"] == "failed"
    np.testing.assert_allclose(row["relative error"], 0.01 / 1.01, rtol=1e-3)


def test_an_engine_that_is_missing_here_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebm_export.runtime.runnable.available", lambda backend: f"no {backend} here")
    (row,) = verify_bundle(write_bundle(tmp_path / "m.ebm"))
    assert (row["result"], row["note"]) == ("not run", "no onnxruntime here")


def test_precisions_that_are_judged_by_samples_are_measured(tmp_path: Path) -> None:
    fp32, int8 = verify_bundle(write_two_precisions(tmp_path / "m.ebm"))
    assert (fp32["result"], int8["result"]) == ("passed", "measured")
    assert int8["relative error"] == pytest.approx(0.5, rel=1e-5)
    assert int8["note"].startswith("int8 is judged by its samples")


def test_numbers_that_are_not_finite_fail_in_any_precision(tmp_path: Path) -> None:
    bundle = write_two_precisions(tmp_path / "m.ebm", coarse=float("inf"))
    assert [row["result"] for row in verify_bundle(bundle)] == ["passed", "failed"]


@pytest.mark.parametrize(("gap", "result"), [(0.01, "passed"), (0.5, "failed"), (float("inf"), "failed")])
def test_chains_that_stay_on_the_device_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: float, result: str
) -> None:
    monkeypatch.setattr("ebm_export.runtime.verify_bundle.check_device_loop", lambda *arguments: gap)
    (row,) = verify_bundle(write_bundle(tmp_path / "m.ebm"))
    assert row["result"] == result
    assert row["note"] == f"chains on the device end {gap:.1e} of their way from those on the host"


def test_nothing_fits(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "m.ebm")
    with pytest.raises(LoadError, match="has nothing fp16 to verify; it holds onnxruntime fp32"):
        verify_bundle(bundle, precision="fp16")
    with pytest.raises(LoadError, match="has nothing fp16 for backend 'openvino' to verify"):
        verify_bundle(bundle, precision="fp16", backend="openvino")
    with pytest.raises(UsageError, match="backend: expected one of tensorrt, openvino, onnxruntime, got 'openvion'"):
        verify_bundle(bundle, backend="openvion")
