"""A comparison made up by hand: every kind of engine and every part of a report."""

from __future__ import annotations

import math

import numpy as np

from ebm_export.calibration.candidate import NotRun
from ebm_export.calibration.chain_mixing import ChainMixing
from ebm_export.calibration.chain_plan import fitted_plan
from ebm_export.calibration.comparison import Comparison, EngineResult, ModelSummary
from ebm_export.calibration.energy_use import EnergyUse
from ebm_export.calibration.exact_acceptance import ExactAcceptance
from ebm_export.calibration.histogram import histograms
from ebm_export.calibration.latency import Latency
from ebm_export.calibration.layer_precisions import LayerPrecision, Layers
from ebm_export.calibration.likelihood import Likelihood
from ebm_export.calibration.metrics.likelihood import LogPartition
from ebm_export.calibration.metrics.score_fidelity import StageFidelity
from ebm_export.calibration.mode_shares import ModeShares
from ebm_export.calibration.sample_figures import SampleFigures
from ebm_export.calibration.verdict import GateResult, MetricVerdict

REFERENCE = "fp32 openvino"
RATIOS = ("energy", "sliced wasserstein", "mmd", "frechet", "density", "coverage", "modes", "stein")


def ratio(metric: str, value: float, decided: bool = True) -> MetricVerdict:
    """A verdict on a ratio to the noise floor."""
    passed = value <= 1.25
    return MetricVerdict(
        metric, 0.01 * value, 0.01, value, 0.9 * value, 1.2 * value, 1.25, 0.3 if passed else 0.005, passed, decided
    )


def no_floor(metric: str, value: float) -> MetricVerdict:
    """A verdict where FP32 is at no distance from itself, as the gate gives it."""
    return MetricVerdict(metric, value, 0.0, math.inf, math.inf, math.inf, 1.25, 0.005, False, True)


def one_mode() -> MetricVerdict:
    """The verdict on modes where there is one, as the gate gives it."""
    return MetricVerdict("modes", 0.0, 0.0, 1.0, 1.0, 1.0, 1.25, None, True, True, "one mode: nothing to compare")


def lost() -> MetricVerdict:
    """The one verdict on an engine with chains that are not finite."""
    return MetricVerdict("finite", 0.1, 0.0, math.inf, math.inf, math.inf, 1.25, None, False, True, "40 of 400 chains")


def score(metric: str, value: float) -> MetricVerdict:
    """A verdict on the gradient, of which 1 % is allowed."""
    return MetricVerdict(metric, value, 0.01, value / 0.01, 0.0, value / 0.005, 1.0, None, value <= 0.01, True)


def rare(lost: float, p_value: float) -> MetricVerdict:
    """A verdict on the largest loss of a mode."""
    passed = lost <= 0.5 or p_value > 0.001
    note = "mode 7 of 9: 40 of 400 FP32 chains, 9 of 400 of the candidate's"
    return MetricVerdict("rare modes", lost, 1.0, lost, 0.0, 1.0, 0.5, p_value, passed, True, note)


def gate(*verdicts: MetricVerdict, reason: str = "all verdicts pass") -> GateResult:
    passed = all(verdict.passed for verdict in verdicts)
    return GateResult(passed, True, verdicts, (), 400, 25, 0.21, 1.25, reason)


def fidelity(size: float) -> tuple[StageFidelity, ...]:
    return tuple(
        StageFidelity(
            stage,
            25 * stage,
            1 - size**2,
            0.9,
            0.1 * size,
            0.01,
            0.2 * size,
            0.01,
            size,
            size,
            64,
            0.04 * size**2,
            0.004 * size,
        )
        for stage in range(12)
    )


def latency(milliseconds: float) -> tuple[Latency, ...]:
    return tuple(
        Latency(batch, factor * milliseconds, 0.95 * factor * milliseconds, 1.2 * factor * milliseconds, 9, 40)
        for batch, factor in ((1, 0.3), (8, 1.0))
    )


def made_comparison(shape: tuple[int, ...] = (1, 8, 8), bounds: list[float] | None = None) -> Comparison:
    """A comparison of an int8 engine that passes, one that fails, one whose gradient fails, one that broke off, and one
    of another model."""
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((32, *shape)).astype(np.float32)
    fine = [ratio(name, 0.97 + 0.03 * index) for index, name in enumerate(RATIOS)]
    poor = [ratio(name, 2.5 + index) for index, name in enumerate(RATIOS)]
    good_score = [score("score gain", 0.0003), score("score bias", 0.004)]

    def engine(name: str, backend: str, precision: str, size: int, **found: object) -> EngineResult:
        return EngineResult(name, found.pop("model", "digits"), backend, precision, False, size, **found)

    engines = (
        engine(REFERENCE, "openvino", "fp32", 2_900_000, gate=gate(*fine, rare(0.1, 0.5)), latency=latency(2.0),
               auroc=0.981, figures=SampleFigures(400, 5, 0.95, 0.94, 1.01, 0.97, 2.16, 2048),
               mixing=ChainMixing(1.03, 512.4, 16, 64, 150, 300), energy=EnergyUse(0.5, 21.0, 9.0, 2.1, 8)),
        engine("int8 openvino", "openvino", "int8", 800_000, gate=gate(*fine, rare(0.1, 0.5), *good_score),
               fidelity=fidelity(0.05), latency=latency(0.6), same_noise_distance=0.21, front=True, auroc=0.98,
               figures=SampleFigures(400, 5, 0.946, 0.93, 0.99, 0.96, 2.31, 2048), mixing=ChainMixing(1.04, 498.0, 16, 64, 150, 300),
               exact=ExactAcceptance(0.934, 0.921, 0.946, 0.57, 0.5, 64, 45, 5),
               energy=EnergyUse(0.2, 19.0, 9.0, 2.0, 8)),
        engine("ort static", "onnxruntime", "external", 900_000,
               gate=gate(*poor, rare(0.8, 1e-6), score("score gain", 0.2), score("score bias", 0.3),
                         reason="energy 2.50 times the seed noise floor"),
               fidelity=fidelity(0.6), latency=latency(1.8), same_noise_distance=0.9, auroc=0.7,
               note="a score graph made elsewhere: int8.onnx"),
        engine("bf16 openvino", "openvino", "bf16", 1_500_000,
               gate=gate(*fine, rare(0.1, 0.5), score("score gain", 0.02), score("score bias", 0.004)),
               fidelity=fidelity(0.1), latency=latency(1.0), same_noise_distance=0.3),
        engine("fp16 onnxruntime", "onnxruntime", "fp16", 1_500_000, failure="Its chains diverge: 3 of 400 chains"),
        engine("other: fp32 openvino", "openvino", "fp32", 2_900_000, model="other", gate=gate(*poor, rare(0.1, 0.5)),
               not_exact="it holds another model",
               latency=latency(2.1)),
    )  # fmt: skip
    drawn = [entry.name for entry in engines if not entry.failure]
    energies = {name: generator.standard_normal(400) + 0.1 * index for index, name in enumerate(drawn)}
    share = (0.3, 0.3, 0.25, 0.1, 0.05)
    modes = ModeShares(
        reference=share,
        share={name: share for name in drawn} | {"ort static": (0.5, 0.3, 0.2, 0.0, 0.0)},
        loss_p_value={name: (0.5,) * 5 for name in drawn},
        rare=(4,),
        lost={name: () for name in drawn} | {"ort static": (3, 4)},
        shown=(0, 1, 2, 3, 4),
    )
    nodes = tuple(
        LayerPrecision(f"node_conv_{index}", "Conv", f"features.{index}", "fp32" if index in (0, 9) else "int8",
              "first layer: a step of INT8 is as large as the noise" if index == 0 else "")
        for index in range(10)
    )  # fmt: skip
    sampler = {"steps": 300, "step_size": [0.5, 0.25], "noise": None, "bounds": bounds, "order": "noise-drift"}
    return Comparison(
        created="2026-11-25T02:09:18+00:00",
        seconds=480.0,
        models=(
            ModelSummary("digits", "digits.ebm", "digits", shape, {}, sampler, {"torch": "2.13.0"}),
            ModelSummary("other", "other.ebm", "other", shape, {}, sampler, {"torch": "2.13.0"}, same_as_first=False),
        ),
        reference=REFERENCE,
        engines=engines,
        not_run=(NotRun("int8 tensorrt", "the package tensorrt is not installed"),),
        plan=fitted_plan(1.25, 0.1, 400),
        seeds={"reference": 0, "candidates": 1, "trajectory": 2},
        batches=(1, 8),
        energies=histograms(energies),
        modes=modes,
        features="x itself",
        layers=(Layers("digits", "score.int8.openvino.xml", {"int8": 8, "fp32": 2}, nodes),),
        power="energy from RAPL package-0",
        device={"processor": "a processor", "cores": "2"},
        toolchain={"numpy": "2.4.6"},
        likelihood=Likelihood(
            0.5,
            "the uniform density from 0 to 1",
            200,
            64,
            LogPartition(-310.2, 0.4, -308.9, 0.6, 0.66),
            {name: (-41.5 - index, -40.2 - index) for index, name in enumerate(drawn)},
            (-45.0, -43.7),
        ),
        pictures={
            name: reference if name == REFERENCE else reference + np.float32(0.1 * math.sqrt(index))
            for index, name in enumerate(drawn)
        },
        mode_pictures=reference[:5],
    )
