"""Which artifact is picked, and the line that says why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ebm_export.runtime import Bundle, LoadError, MissingBackend, UsageError, backends, choice, runnable
from ebm_export.runtime.choice import choose
from ebm_export.runtime.measured import keep_measurements

from .tiny_bundle import manifest_entries, write_manifest, writing_bundle


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backends that can be used; tests change the set."""
    usable = {"openvino", "onnxruntime"}

    def available(backend: str) -> str | None:
        return None if backend in usable else f"no {backend} here"

    monkeypatch.setattr(choice, "available", available)
    monkeypatch.setattr(runnable, "available", available)
    return usable


def bundle_of(tmp_path: Path, *artifacts: str) -> Bundle:
    """A bundle whose artifacts are given as "target precision [status]"."""

    def entry(text: str) -> dict[str, Any]:
        target, precision, *status = text.split(maxsplit=2)
        return {
            "path": f"{target}.{precision}",
            "target": target,
            "precision": precision,
            "sha256": "0",
            "status": status[0] if status else "verified",
        }

    with writing_bundle(tmp_path / "m.ebm", force=True) as folder:
        write_manifest(folder, manifest_entries([entry(text) for text in artifacts]))
    return Bundle(tmp_path / "m.ebm")


def test_openvino_before_onnxruntime_and_fp32_by_default(tmp_path: Path, machine: set[str]) -> None:
    bundle = bundle_of(tmp_path, "onnx fp32", "onnxruntime fp32", "openvino bf16", "openvino fp32")
    picked = choose(bundle)
    assert (picked.backend, picked.artifact.path) == ("openvino", "openvino.fp32")
    assert picked.reason == (
        "openvino fp32 (openvino.fp32): backend left out: the first of tensorrt, openvino, onnxruntime with a verified "
        "artifact that runs here; precision left out: the default"
    )


def test_tensorrt_first_where_it_is_usable_and_verified(tmp_path: Path, machine: set[str]) -> None:
    machine.add("tensorrt")
    bundle = bundle_of(tmp_path, "openvino fp32", "tensorrt fp32")
    assert choose(bundle).backend == "tensorrt"
    bundle = bundle_of(tmp_path, "openvino fp32", "tensorrt fp32 built, not run")
    picked = choose(bundle)
    assert picked.backend == "openvino"
    assert "not tensorrt.fp32 on tensorrt: built, not run" in picked.reason


def test_threads_do_not_rule_out_a_plan_that_was_measured_to_be_the_fastest(
    tmp_path: Path, machine: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine.add("tensorrt")
    bundle = bundle_of(tmp_path, "tensorrt fp32", "openvino fp32", "openvino int8")
    way = {"batch": 1, "fused": 0}
    rows = [
        {"file": "openvino.fp32", "threads": 1, "median ms": 2.0, **way},
        {"file": "openvino.fp32", "threads": None, "median ms": 1.0, **way},
        {"file": "openvino.int8", "threads": None, "median ms": 0.5, **way},
    ]
    keep_measurements(bundle, [*rows, {"file": "tensorrt.fp32", "threads": None, "median ms": 0.1, **way}])
    for threads in (None, 1, 2):
        for precision in (None, "fastest"):
            assert choose(bundle, precision=precision, threads=threads).artifact.path == "tensorrt.fp32"
    assert choose(bundle, "openvino", threads=1).threads == 1
    keep_measurements(bundle, [*rows, {"file": "tensorrt.fp32", "threads": None, "median ms": 9.0, **way}])
    assert choose(bundle, threads=1).artifact.path == "openvino.fp32"


def test_fp32_on_a_later_backend_comes_before_another_precision(tmp_path: Path, machine: set[str]) -> None:
    assert choose(bundle_of(tmp_path, "openvino bf16", "onnxruntime fp32")).artifact.path == "onnxruntime.fp32"
    picked = choose(bundle_of(tmp_path, "openvino bf16", "onnxruntime fp16"))
    assert picked.artifact.path == "openvino.bf16"
    assert "precision left out: no fp32 fits" in picked.reason


def test_the_file_written_for_onnxruntime_comes_before_the_general_one(tmp_path: Path, machine: set[str]) -> None:
    bundle = bundle_of(tmp_path, "onnx fp32", "onnxruntime fp32")
    assert choose(bundle, "onnxruntime").artifact.path == "onnxruntime.fp32"
    assert choose(bundle_of(tmp_path, "onnx fp32"), "onnxruntime").artifact.path == "onnx.fp32"


def test_a_wish_is_followed(tmp_path: Path, machine: set[str]) -> None:
    bundle = bundle_of(tmp_path, "openvino fp32", "openvino bf16", "onnxruntime fp32")
    assert choose(bundle, precision="bf16").artifact.path == "openvino.bf16"
    picked = choose(bundle, "onnxruntime", "fp32")
    assert picked.reason == "onnxruntime fp32 (onnxruntime.fp32): as asked for"


def test_a_backend_asked_for_may_be_unverified_and_it_says_so(tmp_path: Path, machine: set[str]) -> None:
    bundle = bundle_of(tmp_path, "openvino fp32 built, not run")
    (bundle.path / "golden.npz").touch()
    picked = choose(bundle, "openvino", "fp32")
    assert "NOT verified (built, not run): ebm-run verify" in picked.reason


def test_a_bundle_without_answers_is_not_said_to_be_verifiable(tmp_path: Path, machine: set[str]) -> None:
    """`ebm-run verify` would refuse it."""
    bundle = bundle_of(tmp_path, "openvino fp32 built, not run", "onnxruntime int8 run, not judged")
    assert "exported with --no-verify" in choose(bundle, "openvino").reason
    assert "ebm-run verify" not in choose(bundle, "openvino").reason
    assert "ebm-compare judges it" in choose(bundle, "onnxruntime").reason
    (bundle.path / "golden.npz").touch()
    assert "ebm-run verify compares it" in choose(bundle, "openvino").reason


def test_nothing_verified_names_the_cure(tmp_path: Path, machine: set[str]) -> None:
    bundle = bundle_of(tmp_path, "openvino fp32 built, not run", "onnxruntime int8 run, not judged")
    with pytest.raises(
        LoadError, match="has nothing verified that can run here; .*--backend openvino, in Python backend='op"
    ):
        choose(bundle)
    with pytest.raises(
        LoadError, match="has nothing verified in int8 that can run here; .*--backend onnxruntime, in Py"
    ):
        choose(bundle, precision="int8")
    machine.clear()
    with pytest.raises(LoadError, match="has nothing that can run here; ") as error:
        choose(bundle)
    assert "--backend" not in str(error.value)


def test_errors(tmp_path: Path, machine: set[str]) -> None:
    bundle = bundle_of(tmp_path, "openvino fp32 built, not run", "tensorrt fp16")
    with pytest.raises(UsageError, match="backend: expected one of tensorrt, openvino, onnxruntime, got 'tvm'"):
        choose(bundle, "tvm")
    with pytest.raises(MissingBackend, match="backend 'tensorrt' cannot be used here: no tensorrt here"):
        choose(bundle, "tensorrt")
    wanted = (
        "has nothing verified that can run here; it holds openvino fp32, tensorrt fp16; not tensorrt.fp16 on tensorrt: no "
        "tensorrt here; not openvino.fp32 on openvino: built, not run"
    )
    with pytest.raises(LoadError, match=re.escape(wanted)):
        choose(bundle)
    wanted = (
        "has nothing verified in fp32 that can run here; it holds openvino fp32, tensorrt fp16; not openvino.fp32 on openvino: built, "
        "not run (--backend openvino, in Python backend='openvino', takes it all the same)"
    )
    with pytest.raises(LoadError, match=re.escape(wanted)):
        choose(bundle, precision="fp32")
    with pytest.raises(LoadError, match="has nothing bf16 for backend 'openvino'; it holds openvino fp32"):
        choose(bundle, "openvino", "bf16")


def test_a_precision_that_was_not_exported(tmp_path: Path, machine: set[str]) -> None:
    bundle = bundle_of(tmp_path, "openvino int8", "onnxruntime fp16")
    with pytest.raises(LoadError, match="has nothing fp32; .*; export the model with --precision fp32 too$"):
        choose(bundle, precision="fp32")
    with pytest.raises(
        LoadError, match="has nothing fp16 for backend 'openvino'; it holds openvino int8, onnxruntime fp16$"
    ):
        choose(bundle, "openvino", "fp16")
    with pytest.raises(LoadError, match="has nothing fp23; it holds openvino int8, onnxruntime fp16$"):
        choose(bundle, precision="fp23")


def test_backend_of_each_target() -> None:
    found = {target: backends.backend_of(target) for target in ("onnx", "onnxruntime", "openvino", "tensorrt")}
    assert found == {
        "onnx": "onnxruntime",
        "onnxruntime": "onnxruntime",
        "openvino": "openvino",
        "tensorrt": "tensorrt",
    }
    with pytest.raises(UsageError, match="no backend runs files of the target 'tvm'"):
        backends.backend_of("tvm")
