"""How near INT8 gradients come to float32's with each way to choose the ranges of activations.

    python benchmarks/observers.py examples/digits/model.pt
    python benchmarks/observers.py toy

Every layer that runs in INT8 by default does, with grids as for OpenVINO, or as for TensorRT with --symmetric; channels are evened
out and weights fitted as in any export. Ranges come from states along the model's own chains, errors from those of another seed: the
largest gain, bias and noise of any of 12 stages, relative to the gradient's size, as integer arithmetic gives them in the graph itself.
"toy" is a perceptron of two numbers over a bowl, whose weights are random.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ebm_export.calibration.observers import OBSERVERS
from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.quantizer import Quantizer
from ebm_export.calibration.quantization.score_error import gradients, score_error
from ebm_export.calibration.states import States, record_states
from ebm_export.exporter import export
from ebm_export.exporter.energy import Energy, make_energy
from ebm_export.exporter.load import load_model
from ebm_export.exporter.lowering import lower
from ebm_export.exporter.passes import optimize
from ebm_export.exporter.trace import trace
from ebm_export.runtime import SamplerConfig, load

STAGES = 12


class Toy(nn.Module):
    """E(x) = 30 f(x) + |x|^2 / 2 over two numbers, f a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (2, 64, 64, 64, 1)
        layers = [(nn.Linear(one, other), nn.SiLU()) for one, other in itertools.pairwise(widths)]
        self.net = nn.Sequential(*[part for pair in layers for part in pair][:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns energies [B] of x [B, 2]."""
        energy: torch.Tensor = 30 * self.net(2 * x).squeeze(1) + 0.5 * x.square().sum(1)
        return energy


def main() -> None:
    """Calibrates with each observer and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help='archive of save_energy, or "toy"')
    parser.add_argument(
        "--states", type=int, default=2048, help="states to calibrate on, and nearly as many to judge at"
    )
    parser.add_argument("--symmetric", action="store_true", help="grids as for TensorRT")
    options = parser.parse_args()
    config = SamplerConfig(steps=100, step_size=0.05)
    energy = make_energy(Toy().eval(), torch.zeros(8, 2)) if options.model == "toy" else load_model(Path(options.model))
    energy.sampler = energy.sampler or config
    model = lower(trace(energy), "score")
    optimize(model)
    with tempfile.TemporaryDirectory() as folder:
        fitted, judged = recorded(energy, Path(folder), options.states)
        exact = gradients(model, judged)
        print("| ranges | gain | bias | noise |")
        print("| --- | --- | --- | --- |", flush=True)
        for name in OBSERVERS:
            quantizer = Quantizer(model, fitted, Scheme(asymmetric=not options.symmetric, observer=name))
            stages = score_error(exact, gradients(quantizer.model(quantizer.default), judged), judged)
            worst = [max(abs(getattr(stage, part)) for stage in stages) for part in ("gain", "bias", "noise")]
            print(f"| {name} | {' | '.join(f'{value:.2%}' for value in worst)} |", flush=True)


def recorded(energy: Energy, folder: Path, count: int) -> tuple[States, States]:
    """States to calibrate on, and as many of another seed to judge at, with gradient scales as INT8 chains have them."""
    path = export(energy.module, energy.x, targets=["onnxruntime"], sampler=energy.sampler, out=folder / "fp32.ebm")
    found = []
    with load(path, backend="onnxruntime") as ebm:
        for seed in (3, 4):
            (folder / str(seed)).mkdir()
            found.append(
                record_states(
                    ebm.engine, ebm.sampler, tuple(energy.x.shape[1:]), folder / str(seed), count=count, stages=STAGES, seed=seed
                )
            )  # fmt: skip
    fitted, judged = found
    return fitted, judged.part(np.flatnonzero(~judged.large))  # as they come


if __name__ == "__main__":
    main()
