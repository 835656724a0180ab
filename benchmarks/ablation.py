"""What each part of the calibration is worth: INT8 on OpenVINO with all of them, without each in turn, and without any.

    python benchmarks/ablation.py examples/digits/model.pt
    python benchmarks/ablation.py policy

Every layer that runs in INT8 by default does in each row, and nothing is kept in float32 for the gate's sake. Gain, bias and noise are
those of the gradient, the largest of any of the gate's 12 stages relative to its size there, by OpenVINO's engine. Then the gate judges
its samples, in one round, whatever it says of the score. "policy" is that of `observations.py`, which is trained first, with its encoder in
float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from observations import CONFIG, scenes, train
from quantizers import hold_scale, tell

from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.quantization.correct_score import correct_score
from ebm_export.calibration.quantization.quantized_layers import QuantizedLayers
from ebm_export.calibration.quantization.quantizer import Quantizer
from ebm_export.calibration.states import States, record_states
from ebm_export.exporter.calibrated import CalibratedArtifacts
from ebm_export.exporter.conditions import split_conditions
from ebm_export.exporter.energy import Energy, make_energy
from ebm_export.exporter.golden import make_golden
from ebm_export.exporter.load import load_model
from ebm_export.exporter.lowering import lower
from ebm_export.exporter.manifest import model_spec
from ebm_export.exporter.passes import optimize
from ebm_export.exporter.targets.score import write_score
from ebm_export.exporter.trace import trace
from ebm_export.runtime.shared_rows import rows_apart

BATCH = (1, 8, 64)
SEED = 3


@dataclass(frozen=True)
class Form:
    """What is done in a calibration.

    Attributes:
        fits: weights are rounded to what their layers read; else each to the nearest number.
        evens: channels are evened out as the export found it best for the engine; else not at all.
        centers: what INT8 adds to each channel in the mean is taken back, where that helps.
        corrects: the gradient as a whole gets float32's length and mean.
        scales: the graph runs with its gradient scale, and is calibrated with it; else with one, as any other export is.
        along: states are from all along the chains; else as many from their start.
    """

    fits: bool = True
    evens: bool = True
    centers: bool = True
    corrects: bool = True
    scales: bool = True
    along: bool = True


FORMS = {
    "all of it": Form(),
    "weights to the nearest number": Form(fits=False),
    "channels as they are": Form(evens=False),
    "no correction of each channel's mean": Form(centers=False),
    "no correction of the gradient as a whole": Form(corrects=False),
    "neither correction": Form(centers=False, corrects=False),
    "no gradient scale": Form(scales=False),
    "states from the start alone": Form(along=False),
    "none of it": Form(False, False, False, False, False, False),
}


def main() -> None:
    """Calibrates in each form, judges, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help='archive of save_energy, or "policy"')
    parser.add_argument("--row", action="append", choices=FORMS, metavar="NAME", help="only this row; repeat")
    parser.add_argument("--no-samples", action="store_true", help="gain, bias and noise alone, which take no samples")
    parser.add_argument(
        "--smallest-difference",
        type=float,
        default=0.2,
        help="shift of the energy that the gate should see, in its standard deviations: 18 / D^2 chains of each engine",
    )
    parser.add_argument("--training", type=int, default=500, help="steps of the policy's training")
    options = parser.parse_args()
    energy = policy(options.training) if options.model == "policy" else load_model(Path(options.model))
    assert energy.sampler is not None, "an archive with a sampler's settings"
    model = lower(trace(energy), "score")
    optimize(model)
    golden = make_golden(energy, energy.sampler)  # which a gradient scale keeps to
    rules = GateRules(smallest_difference=options.smallest_difference, extra_rounds=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        CalibratedArtifacts(
            model, model_spec(energy, golden), energy.sampler, Path(folder), rules, split_conditions(energy), None, BATCH, True, golden, tell
        ) as calibrated,
    ):  # fmt: skip
        found = calibrated.scheme("openvino")
        print(f"channels are evened out in: {', '.join(found.evens) or 'neither half'}", file=sys.stderr)
        states = {True: calibrated.states, False: states_at_the_start(calibrated, Path(folder))}
        print("| | gain | bias | noise | gate | largest ratio |")
        print("| --- | --- | --- | --- | --- | --- |", flush=True)
        for name in options.row or FORMS:
            form = FORMS[name]
            graph = made(calibrated, states[form.along], form)
            print(f"| {name} | {' | '.join(judged(calibrated, graph, not options.no_samples))} |", flush=True)


def policy(steps: int) -> Energy:
    """The policy of `observations.py` with 200 images."""
    images, _ = scenes(200, torch.Generator().manual_seed(3))
    return make_energy(train(steps), torch.zeros(4, 4), cond={"image": images}, sampler=CONFIG)


def states_at_the_start(calibrated: CalibratedArtifacts, folder: Path) -> States:
    """As many states as the export takes along chains, of chains that were not moved; they count like ends, or no mean would be corrected."""
    (folder / "start").mkdir()
    count = len(calibrated.states)
    config = calibrated.config.replace(steps=1)  # of which the first stage is the start
    found = record_states(
        calibrated.fp32, config, calibrated.spec.x.shape, folder / "start", count=count, stages=1, chains=count, seed=SEED,
        cond=calibrated.conditions.calibration,
    )  # fmt: skip
    read = rows_apart(calibrated.fp32.prepare(found.conditions), count) if found.conditions else {}
    return replace(
        found, step=np.ones_like(found.step), conditions={name: np.array(array) for name, array in read.items()}
    )


def made(calibrated: CalibratedArtifacts, states: States, form: Form) -> ir.Model:
    """The steps' graph with its layers in INT8, calibrated in this form."""
    scheme = calibrated.scheme("openvino")
    scheme = replace(scheme, fit_weights=form.fits, evens=scheme.evens if form.evens else ())
    if not form.scales:
        states = replace(states, grad_scale=np.ones_like(states.grad_scale))
    quantizer = Quantizer(calibrated.steps, states, scheme, batch=BATCH[1], progress=tell)
    if form.centers:
        graph = quantizer.model(quantizer.default)
    else:
        layers = [layer for layer in quantizer.layers if layer.macs]
        graph = QuantizedLayers(calibrated.steps, layers, states, scheme, batch=BATCH[1]).model(quantizer.default)
    if form.corrects:
        correct_score(calibrated.steps, graph, quantizer.layers, states, batch=BATCH[1])
    return graph if form.scales else ir.from_proto(hold_scale(ir.to_proto(graph)))


def judged(calibrated: CalibratedArtifacts, graph: ir.Model, samples: bool) -> list[str]:
    """Gain, bias and noise where they are largest, whether the gate lets the engine pass, and the largest ratio of its samples."""
    gate = calibrated.gate
    assert gate is not None
    with tempfile.TemporaryDirectory() as name:
        folder, halves = Path(name), calibrated.halves
        parts = graph if halves is None else halves._replace(score=graph)
        artifact = write_score("openvino", parts, folder, precision="int8", batch=BATCH)
        with calibrated.open(artifact, folder) as engine:
            fidelity = gate.fidelity(engine)
            result = gate.judge("INT8", engine, fidelity=fidelity) if samples else None
    worst = [max((abs(getattr(stage, part)) for stage in fidelity), default=0.0) for part in ("gain", "bias", "noise")]
    cells = [f"{value:.2%}" if value < 0.1 else f"{value:.1%}" for value in worst]
    if result is None:
        return [*cells, "-", "-"]
    ratios = [verdict for verdict in result.verdicts if verdict.limit == gate.rules.gate]
    largest = max(ratios, key=lambda verdict: verdict.ratio)
    return [*cells, "passed" if result.passed else "failed", f"{largest.ratio:.2f} ({largest.metric})"]


if __name__ == "__main__":
    main()
