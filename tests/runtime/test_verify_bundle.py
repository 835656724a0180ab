"""The comparison with PyTorch's answers on the device that a bundle came to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ebm_export.runtime import LoadError, UsageError
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.build import build_plans
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle
from ebm_export.runtime.file_hash import sha256_of
from ebm_export.runtime.file_lock import sole_user
from ebm_export.runtime.tensorrt_library import Fingerprint, Plan
from ebm_export.runtime.verify import check_engine
from ebm_export.runtime.verify_bundle import verify_bundle

from .tiny_bundle import (
    artifact_entry,
    golden_data,
    manifest_entries,
    quadratic_graph,
    write_bundle,
    write_two_precisions,
)


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


def built_here(path: Path, fits: bool = True) -> Path:
    """A bundle with a plan that nobody compared: a copy of the graph that it is built from, or what does not fit."""
    name = "score.fp32.tensorrt.plan"
    with writing_bundle(path) as folder:
        for file in ("score.fp32.onnx", name):
            onnx.save(quadratic_graph(), folder / file)
        if not fits:
            (folder / name).write_bytes(b"!")
        np.savez(folder / "golden.npz", allow_pickle=False, **golden_data())
        graph = artifact_entry(folder, "score.fp32.onnx", target="onnx")
        plan = artifact_entry(folder, name, target="tensorrt", status="built, not run")
        write_manifest(folder, manifest_entries([graph, plan]))
    return path


def plan_of(bundle: Path) -> dict[str, Any]:
    (entry,) = (
        entry for entry in json.loads((bundle / "manifest.json").read_text())["artifacts"] if "plan" in entry["path"]
    )
    return entry


@pytest.fixture
def plans_are_graphs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A stand-in for TensorRT: plans are files for onnxruntime, those that are built are these, and one that ends in "!" does not fit."""
    builds: list[bytes] = []
    monkeypatch.setattr("ebm_export.runtime.build.build_plan", lambda *graph, **how: Plan(builds[-1], {}))
    monkeypatch.setattr(
        "ebm_export.runtime.build.fingerprint", lambda: Fingerprint("tensorrt", "10.3.0.0", "Orin", "8.7")
    )
    monkeypatch.setattr("ebm_export.runtime.runnable.available", lambda backend: None)

    def engine(backend: str, path: Path, *, options: dict[str, Any], **how: Any) -> Any:
        assert backend == "tensorrt"

        class Engine(OnnxRuntimeEngine):
            def open(self) -> None:
                if path.read_bytes().endswith(b"!"):
                    assert options["rebuild"](LoadError("another GPU")) == builds[-1]
                super().open()

        return Engine(path, precision="fp32")

    monkeypatch.setattr("ebm_export.runtime.artifact_engine.open_engine", engine)
    return builds


@pytest.mark.parametrize("fits", [True, False])
def test_a_plan_that_was_built_here_is_verified_from_now_on(
    tmp_path: Path, plans_are_graphs: list[bytes], fits: bool
) -> None:
    bundle = built_here(tmp_path / "m.ebm", fits)
    plans_are_graphs.append((bundle / "score.fp32.onnx").read_bytes())
    (row,) = verify_bundle(bundle, backend="tensorrt")
    assert (row["result"], row["note"]) == ("passed", "")
    entry = plan_of(bundle)
    assert (entry["status"], entry["sha256"]) == ("verified", sha256_of(bundle / entry["path"]))


def test_a_plan_that_is_built_meanwhile_is_not_verified(
    tmp_path: Path, plans_are_graphs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = built_here(tmp_path / "m.ebm")

    def meanwhile(*given: Any) -> Any:
        plans_are_graphs.append(b"another plan")
        build_plans(bundle)
        return check_engine(*given)

    monkeypatch.setattr("ebm_export.runtime.verify_bundle.check_engine", meanwhile)
    (row,) = verify_bundle(bundle, backend="tensorrt")
    assert row["result"] == "passed"
    assert row["note"] == "it has been built anew meanwhile, and what was built then is not compared: verify again"
    assert plan_of(bundle)["status"] == "built, not run"
    assert (bundle / "score.fp32.tensorrt.plan").read_bytes() == b"another plan"


def test_a_busy_manifest_costs_no_figures(
    tmp_path: Path, plans_are_graphs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebm_export.runtime.manifest_update._PATIENCE", 0.05)
    bundle = built_here(tmp_path / "m.ebm")
    with sole_user("manifest", bundle / "manifest.json"):
        (row,) = verify_bundle(bundle, backend="tensorrt")
    assert row["result"] == "passed" and row["relative error"] < 1e-6
    assert row["note"] == (
        f"its status stays 'built, not run', as it could not be written: manifest: {bundle / 'manifest.json'} is being changed by "
        "another process: wait until that one is done, and run this again"
    )
    assert plan_of(bundle)["status"] == "built, not run"


def test_nothing_fits(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "m.ebm")
    with pytest.raises(LoadError, match="has nothing fp16 to verify; it holds onnxruntime fp32"):
        verify_bundle(bundle, precision="fp16")
    with pytest.raises(LoadError, match="has nothing fp16 for backend 'openvino' to verify"):
        verify_bundle(bundle, precision="fp16", backend="openvino")
    with pytest.raises(UsageError, match="backend: expected one of tensorrt, openvino, onnxruntime, got 'openvion'"):
        verify_bundle(bundle, backend="openvion")
