"""A whole chain in one file, run by other programs than ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.split import Split
from ebm_export.exporter.standalone_sampler import standalone_sampler, why_not_standalone
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.known_scales import NOTHING_KNOWN, KnownScales

from .referee import score_graph
from .test_sampler_graph import SETTINGS, Net, config_of
from .test_split import POLICY, Policy

STEP = 0.2
WEB = Path(__file__).parents[2] / "build" / "web" / "node_modules" / "onnxruntime-web"


def gaussian(x: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    return 0.5 * (x - centre).square().sum(1)


def chain(config: SamplerConfig, *, scales: KnownScales | None = None) -> onnx.ModelProto:
    """A chain on N(centre, 1)."""
    model = score_graph(make_energy(gaussian, torch.randn(4, 2), cond={"centre": torch.randn(4, 2)}))
    proto = ir.to_proto(standalone_sampler(model, config, scales=scales))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto: onnx.ModelProto, **feeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    sample, energy = session.run(["sample", "energy"], feeds)
    return sample, energy


def check_moments(sample: np.ndarray, energy: np.ndarray, centre: np.ndarray, variance: float) -> None:
    """Within five standard errors of independent chains."""
    off = (sample - centre).astype(np.float64)
    count = off.size
    assert abs(off.mean()) < 5 * np.sqrt(variance / count)
    assert abs(off.var() / variance - 1) < 5 * np.sqrt(2 / count)
    np.testing.assert_allclose(energy, 0.5 * (off**2).sum(1), rtol=1e-4, atol=1e-5)


# Where a Gaussian's chain settles: x' = (1 - h) x + sqrt(2 h T) n has the variance T / (1 - h / 2) after the noise, and
# (1 - h)^2 times that, without the noise's part, after the drift.
MOMENTS: dict[str, tuple[dict[str, Any], float]] = {
    "langevin": ({}, 1 / (1 - STEP / 2)),
    "cold": ({"temperature": 0.5}, 0.5 / (1 - STEP / 2)),
    "noise first": ({"order": "noise-drift"}, (1 - STEP) ** 2 / (1 - STEP / 2)),
    "underdamped": ({"sampler": "underdamped", "friction": 2.0}, 1.0),  # exact for a Gaussian
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", sorted(MOMENTS))
def test_known_moments(name: str, scaled: bool) -> None:
    changes, variance = MOMENTS[name]
    config = SamplerConfig(**({"steps": 60, "step_size": STEP} | changes))
    centre = np.tile(np.array([[1.0, -3.0]], np.float32), (20000, 1))
    check_moments(
        *run(chain(config, scales=NOTHING_KNOWN if scaled else None), x=np.zeros_like(centre), centre=centre),
        centre,
        variance,
    )


def test_every_call_has_noise_of_its_own() -> None:
    proto = chain(SamplerConfig(steps=5, step_size=STEP))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: np.zeros((3, 2), np.float32) for name in ("x", "centre")}
    first, second = (session.run(["sample"], feeds)[0] for _ in range(2))
    assert not np.isclose(first, second).any()
    assert len(np.unique(first)) == first.size


def test_without_noise_it_is_the_loop() -> None:
    """Descent is the same in both: there is no noise to differ."""
    config = SamplerConfig(steps=30, step_size=0.1, sampler="optimize", momentum=0.6)
    centre = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    sample, _ = run(chain(config), x=np.zeros_like(centre), centre=centre)
    position = velocity = np.zeros_like(centre)
    for _ in range(30):
        velocity = 0.6 * velocity - 0.1 * (position - centre)
        position = position + velocity
    np.testing.assert_allclose(sample, position, rtol=1e-5)


PROLOGUE = """<ir_version: 10, opset_import: ["" : 20]>
prologue (float[B,2] centre) => (float[B,2] feature_0) <float factor = {2.0}>
{ [moved] feature_0 = Mul(centre, factor) }"""
SCORE = """<ir_version: 10, opset_import: ["" : 20]>
score (float[B,2] x, float[B,2] feature_0, float[B] grad_scale) => (float[B] energy, float[B,2] grad)
<float factor = {0.5}, int64[1] axes = {1}>
{
  [off] off = Sub(x, feature_0)
  [squares] squares = ReduceSumSquare <keepdims = 0> (off, axes)
  [energy] energy = Mul(squares, factor)
  [each] each = Unsqueeze(grad_scale, axes)
  [grad] grad = Mul(off, each)
}"""


def test_halves_with_other_constants_of_the_same_name() -> None:
    """Each half may have been quantized by itself."""
    prologue, score = (ir.from_proto(onnx.parser.parse_model(text)) for text in (PROLOGUE, SCORE))
    halves = Split(prologue, score, ("centre",), ())
    proto = ir.to_proto(standalone_sampler(halves, SamplerConfig(steps=60, step_size=STEP), scales=None))
    onnx.checker.check_model(proto, full_check=True)
    centre = np.tile(np.array([[1.0, -3.0]], np.float32), (20000, 1))
    check_moments(*run(proto, x=np.zeros_like(centre), centre=centre), 2 * centre, 1 / (1 - STEP / 2))


@pytest.mark.parametrize(
    ("changes", "precision", "schedule", "reason"),
    [
        ({"sampler": "mala"}, "fp32", "", "accepts and rejects"),
        ({"sampler": "preconditioned"}, "fp32", "", "learns in its warm-up"),
        ({}, "bf16", "", "few ONNX runtimes"),
        ({}, "mixed", "mixed:0-5,fp32:5-", r"its chains change their precision (mixed:0-5,fp32:5-)"),
    ],
)
def test_what_cannot_be_one_file(changes: dict[str, Any], precision: str, schedule: str, reason: str) -> None:
    assert reason in (why_not_standalone(SamplerConfig(steps=8, **changes), precision, schedule) or "")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "mixed"])
def test_what_can_be_one_file(precision: str) -> None:
    assert why_not_standalone(SamplerConfig(steps=8), precision) is None


def in_javascript(file: Path, **feeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample and energy by onnxruntime-web."""
    if not WEB.is_dir():
        pytest.fail(
            "onnxruntime-web is not there: `make test` installs it (npm install --prefix build/web onnxruntime-web)"
        )
    inputs = {name: [array.shape, array.ravel().tolist()] for name, array in feeds.items()}
    script = Path(__file__).with_name("standalone.mjs")
    given = file.with_suffix(".json")
    given.write_text(json.dumps(inputs))
    command = ["node", str(script), str(WEB), str(file), str(given)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    return np.array(found["sample"], np.float32).reshape(feeds["x"].shape), np.array(found["energy"])


def test_in_javascript_with_nothing_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "standalone.onnx"
    onnx.save(chain(SamplerConfig(steps=60, step_size=STEP)), file)
    centre = np.tile(np.array([[1.0, -3.0]], np.float32), (4000, 1))
    sample, energy = in_javascript(file, x=np.zeros_like(centre), centre=centre)
    check_moments(sample, energy, centre, 1 / (1 - STEP / 2))


def test_what_an_export_wrote_in_javascript(tmp_path: Path) -> None:
    """A policy with an encoder; without noise there is one sample, that of the loop."""
    config = SamplerConfig(steps=20, step_size=0.05, noise=0.0)
    path = export(
        Policy().eval(), POLICY["x"], cond={"image": POLICY["image"]}, out=tmp_path / "policy.ebm", sampler=config,
        targets=["onnx"], fuse=4,
    )  # fmt: skip
    names = {artifact.role for artifact in Bundle(path).artifacts}
    assert "prologue" in names
    start, image = (tensor.numpy()[:3] for tensor in POLICY.values())
    sample, energy = in_javascript(path / "standalone.fp32.onnx", x=start, image=image)
    with load(path, threads=1) as ebm:
        expected = ebm.refine(start, image=image)
        of_the_end, _ = ebm.score(expected, image=image)
    assert np.abs(expected - start).max() > 0.05
    np.testing.assert_allclose(sample, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(energy, of_the_end, rtol=1e-4, atol=1e-5)


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    "name", [name for name in sorted(SETTINGS) if why_not_standalone(config_of(name), "fp32") is None]
)
def test_tensorrt_builds_it(tmp_path: Path, name: str) -> None:
    from ebm_export.runtime.tensorrt_library import build_plan

    model = score_graph(make_energy(Net().eval(), torch.randn(4, 3), cond={"goal": torch.randn(4, 3)}))
    graph = standalone_sampler(model, config_of(name), scales=NOTHING_KNOWN)
    assert len(build_plan(ir.to_proto(graph).SerializeToString(), batch=(1, 8, 64)).data) > 1000
