"""The engine of an artifact, and TensorRT plans that come from another machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from ebm_export.runtime import artifact_engine, load
from ebm_export.runtime.artifact_engine import engine_of, fused_of
from ebm_export.runtime.backends import tensorrt
from ebm_export.runtime.bench import time_bundle
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import LoadError, MissingBackend
from ebm_export.runtime.file_hash import sha256_of
from ebm_export.runtime.tensorrt_library import Fingerprint
from ebm_export.runtime.tensorrt_library import Plan as BuiltPlan
from ebm_export.runtime.verify_bundle import verify_bundle

from .backends.test_tensorrt import Cuda, Plan
from .tiny_bundle import artifact_entry, golden_data, manifest_entries, quadratic_graph, write_manifest, writing_bundle

PLAN = "score.fp32.tensorrt.plan"


def bundle_with_plan(path: Path, *, onnx_file: bool = True) -> Path:
    """A bundle whose plan was built somewhere else, and called verified there."""
    with writing_bundle(path) as folder:
        (folder / PLAN).write_bytes(b"a plan of another machine")
        entries = [artifact_entry(folder, PLAN, target="tensorrt", options={"batch": [2, 3, 4]})]
        if onnx_file:
            onnx.save(quadratic_graph(), folder / "score.fp32.onnx")
            entries.append(artifact_entry(folder, "score.fp32.onnx", target="onnx"))
        np.savez(folder / "golden.npz", allow_pickle=False, **golden_data())
        write_manifest(folder, manifest_entries(entries))
    return path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A machine with a stand-in for a GPU, on which only plans that were built here load; the list is what was tried.

    The plans are real: TensorRT-RTX builds them without a GPU.
    """
    tried: list[bytes] = []

    def load_plan(data: bytes) -> Plan:
        tried.append(data)
        if data == b"a plan of another machine":
            raise LoadError("TensorRT cannot load the plan: wrong device. A plan runs with ..")
        return Plan()

    library = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), nptype=lambda dtype: np.float32)
    fake: Any = SimpleNamespace(missing_tensorrt=lambda: None, import_tensorrt=lambda: library, load_plan=load_plan)
    monkeypatch.setattr(tensorrt, "tensorrt_library", fake)
    monkeypatch.setattr(tensorrt, "_import_cuda", Cuda)
    return tried


def without_kernels(call: Any, cuda: Any) -> Any:
    raise MissingBackend("no kernels here")


@pytest.mark.tensorrt
def test_built_again_and_kept(tmp_path: Path, machine: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    path = bundle_with_plan(tmp_path / "m.ebm")
    with load(path, backend="tensorrt") as ebm:
        x = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
        np.testing.assert_allclose(ebm.score(x)[1], x, rtol=1e-6)
        fingerprint = ebm.fingerprint
    assert len(machine) == 2 and len(machine[1]) > 1000
    (line,) = [message for message in caplog.messages if "does not fit" in message]
    assert line == (
        f"{PLAN} does not fit this machine: building it again from score.fp32.onnx, which can take minutes; the new one is not verified: "
        "from the next load on, another backend is taken where none is named, until `ebm-run verify` has compared it with PyTorch"
    )
    entry = next(entry for entry in Bundle(path).artifacts if entry.target == "tensorrt")
    assert entry.status == "built, not run" and list(entry.options["batch"]) == [2, 3, 4]
    assert entry.sha256 == sha256_of(path / PLAN) and (path / PLAN).read_bytes() == machine[1]
    with load(path, backend="tensorrt") as ebm:  # the second time it fits
        assert len(machine) == 3
        assert ebm.fingerprint == fingerprint, "a checkpoint of the first run is gone on with"


def test_fused_steps_are_built_again_with_it(
    tmp_path: Path, machine: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their engine is opened later, when the file is another one than the one that was looked up."""
    monkeypatch.setattr("ebm_export.runtime.build.build_plan", lambda *graph, **how: BuiltPlan(b"built here", {}))
    made_by = Fingerprint("tensorrt", "10.3.0.0", "Orin", "8.7")
    monkeypatch.setattr("ebm_export.runtime.build.fingerprint", lambda: made_by)
    with writing_bundle(tmp_path / "m.ebm") as folder:
        entries = []
        for target, ending in (("onnx", "onnx"), ("tensorrt", "tensorrt.plan")):
            for role, more in (("score", {"sampler": f"sampler.fp32.{ending}"}), ("sampler", {"steps": 4})):
                (folder / f"{role}.fp32.{ending}").write_bytes(b"a plan of another machine")
                entries.append(artifact_entry(folder, f"{role}.fp32.{ending}", target=target, role=role, **more))
        write_manifest(folder, manifest_entries(entries))
    bundle = Bundle(tmp_path / "m.ebm")
    (plan,) = (entry for entry in bundle.artifacts if entry.path == PLAN)
    fused = fused_of(bundle, plan, "tensorrt")
    assert fused is not None
    with engine_of(bundle, plan, "tensorrt"), contextlib.closing(fused):
        fused.open()
    assert machine == [b"a plan of another machine", b"built here", b"built here"]
    (tmp_path / "m.ebm" / "sampler.fp32.tensorrt.plan").write_bytes(b"something else")
    with pytest.raises(LoadError, match="damaged or was changed"):
        fused.open()


@pytest.mark.tensorrt
def test_a_bundle_that_cannot_be_written_to(
    tmp_path: Path, machine: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = bundle_with_plan(tmp_path / "m.ebm")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    monkeypatch.setattr(os, "access", lambda where, mode: False)  # the tests may run as root, who may write anywhere
    with load(path, backend="tensorrt"):
        assert len(machine[1]) > 1000
    assert "for this process alone, as the bundle cannot be written to; `ebm-run build` on a copy" in caplog.text
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_what_was_built_for_one_process_is_told_from_what_was_for_another(
    tmp_path: Path, machine: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle_with_plan(tmp_path / "m.ebm")
    monkeypatch.setattr(os, "access", lambda where, mode: False)
    found = []
    for data in (b"one plan", b"another plan", b"one plan"):
        monkeypatch.setattr(artifact_engine, "build_plan", lambda *_, data=data, **__: SimpleNamespace(data=data))
        with load(path, backend="tensorrt") as ebm:
            found.append(ebm.fingerprint)
    assert found[0] == found[2] != found[1]


def test_verify_and_bench_ask_a_plan_for_what_it_takes(
    tmp_path: Path, machine: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which are batches of 2 to 4 here, and those of fewer."""
    path = bundle_with_plan(tmp_path / "m.ebm")
    monkeypatch.setattr(tensorrt.tensorrt_library, "load_plan", lambda data: Plan())
    monkeypatch.setattr("ebm_export.runtime.runnable.available", lambda backend: None)
    monkeypatch.setattr(tensorrt, "load_kernels", without_kernels)
    rows = verify_bundle(path)
    assert [(row["file"], row["result"]) for row in rows] == [(PLAN, "passed"), ("score.fp32.onnx", "passed")]
    timed = time_bundle(path, batches=[1, 8], seconds=0.05)
    assert [(row["file"], row["batch"]) for row in timed] == [(PLAN, 1), ("score.fp32.onnx", 1), ("score.fp32.onnx", 8)]
    assert f"{PLAN} is not timed at a batch of 8: it takes 4 samples in one call at the most" in caplog.messages
    with load(path, backend="tensorrt") as ebm:
        assert ebm.sample(9, steps=3).shape == (9, 3)  # the last batch is one of 1


def test_no_onnx_file_to_build_it_from(tmp_path: Path, machine: list[bytes]) -> None:
    path = bundle_with_plan(tmp_path / "m.ebm", onnx_file=False)
    with pytest.raises(LoadError, match="no ONNX file in fp32 to build it again from: export .*wrong device"):
        load(path, backend="tensorrt")


def test_a_damaged_plan_is_not_built_again(tmp_path: Path, machine: list[bytes]) -> None:
    path = bundle_with_plan(tmp_path / "m.ebm")
    (path / PLAN).write_bytes(b"something else")
    with pytest.raises(LoadError, match="damaged or was changed"):
        load(path, backend="tensorrt")
    assert not machine


def test_other_backends_get_the_options_of_the_manifest_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    path = bundle_with_plan(tmp_path / "m.ebm")
    bundle = Bundle(path)
    artifact = next(entry for entry in bundle.artifacts if entry.target == "onnx")
    with engine_of(bundle, artifact, "onnxruntime", threads=1) as engine:
        assert engine.run({"x": np.zeros((2, 3), np.float32), "grad_scale": np.ones(2, np.float32)})["grad"].shape == (
            2,
            3,
        )
    assert not caplog.messages and json.loads((path / "manifest.json").read_text())
