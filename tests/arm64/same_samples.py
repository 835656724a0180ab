"""What is exported here runs on ARM64, and the same seed gives the same samples there, up to rounding.

`make test-arm64` runs this file in the exporter's environment, and ARM64_PYTHON names the Python that
unpack.sh made. Pytest passes it over by itself, since its name does not begin with test_.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "model.pt"
NOISE = """
import hashlib, numpy
from ebm_export.runtime.noise import NoiseSource
numbers = NoiseSource(3).normal(7, range(100_000), (3,))
print(numbers.dtype, hashlib.sha256(numbers.tobytes()).hexdigest())
"""


def on(python: str, code: str, *arguments: object) -> str:
    """What this code prints on that Python."""
    command = [python, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return run.stdout


def ebm_run(python: str, *arguments: object) -> str:
    return on(python, "from ebm_export.cli import ebm_run; ebm_run()", *arguments)


@pytest.fixture(scope="module")
def arm64() -> str:
    return os.environ["ARM64_PYTHON"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits energy: two engines of float32, and FP16, which onnxruntime really computes in on ARM64 alone."""
    path = tmp_path_factory.mktemp("arm64") / "digits.ebm"
    flags = ["--target", "onnxruntime", "--target", "openvino", "--precision", "fp32", "--precision", "fp16"]
    on(sys.executable, "from ebm_export.cli import ebm_export; ebm_export()", DIGITS, *flags, "--out", path)
    return path


def test_it_is_another_processor_and_has_no_torch(arm64: str) -> None:
    code = "import importlib.util, platform; print(platform.machine(), importlib.util.find_spec('torch'))"
    assert on(arm64, code).split() == ["aarch64", "None"]


def test_noise_has_the_same_bits(arm64: str) -> None:
    assert on(arm64, NOISE) == on(sys.executable, NOISE)


def test_info_says_that_every_file_runs(arm64: str, bundle: Path) -> None:
    files = json.loads(ebm_run(arm64, "info", bundle, "--json"))["artifacts"]
    assert len(files) == 4
    assert {file["runs here"] for file in files} == {"yes"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_verify_passes(arm64: str, bundle: Path, backend: str, precision: str) -> None:
    rows = json.loads(ebm_run(arm64, "verify", bundle, "--backend", backend, "--precision", precision, "--json"))
    assert [row["result"] for row in rows] == ["passed"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_same_seed_same_samples(arm64: str, bundle: Path, tmp_path: Path, backend: str) -> None:
    settings = ["-n", 3, "--seed", 3, "--steps", 30, "--precision", "fp32", "--backend", backend]
    for python, name in ((arm64, "there.npy"), (sys.executable, "here.npy")):
        ebm_run(python, "sample", bundle, *settings, "--out", tmp_path / name)
    there, here = np.load(tmp_path / "there.npy"), np.load(tmp_path / "here.npy")
    # Pixels are about one. Float32 rounds to 6e-8, the gradient is off by 4e-6 of its size after a network of
    # convolutions, and a chain multiplies what differs: four chains of 300 steps ended 4e-6 apart.
    np.testing.assert_allclose(there, here, atol=1e-4, rtol=0)
    assert np.abs(np.diff(here, axis=0)).max() > 0.1  # three samples, not one
