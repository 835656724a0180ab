"""Times the export and verification of a five-million-parameter residual energy of 32x32 images.

    python benchmarks/export_time.py

The goal is 60 seconds on two cores for onnxruntime and OpenVINO in FP32. Prints the time of each part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig

CONFIG = SamplerConfig(steps=60, step_size=10.0, noise=0.005, bounds=(0, 1), grad_clip=0.01, init="uniform")
"""The settings of IGEBM (Du and Mordatch, arXiv:1903.08689)."""


class Block(nn.Module):
    """Two convolutions beside a skip, then a mean over 2x2 pixels where the resolution halves."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.halve = halve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] -> [B, outputs, H or H / 2, W or W / 2]."""
        h = self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2)) + self.skip(x)
        return F.avg_pool2d(h, 2) if self.halve else h


class ResidualEnergy(nn.Module):
    """A residual network in the shape of IGEBM's for CIFAR-10."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        wide = [width, 2 * width, 4 * width, 4 * width]
        blocks = []
        for inputs, outputs in zip([width, *wide[:-1]], wide, strict=True):
            blocks += [Block(inputs, outputs, halve=outputs != width), Block(outputs, outputs, halve=False)]
        self.stem, self.blocks = nn.Conv2d(3, width, 3, 1, 1), nn.Sequential(*blocks)
        self.head = nn.Linear(wide[-1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, 32, 32] -> [B]."""
        return self.head(F.relu(self.blocks(self.stem(x))).sum((2, 3))).squeeze(1)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", action="append", choices=["fp32", "fp16", "bf16"], help="[fp32]")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = ResidualEnergy().eval()
    parts: dict[str, float] = {}
    last = ["", time.perf_counter()]

    def tell(what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if what != last[0]:
            if last[0]:
                parts[last[0]] = parts.get(last[0], 0) + now - float(last[1])
            last[:] = [what, now]

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        export(
            model,
            torch.zeros(2, 3, 32, 32),
            out=Path(folder) / "net.ebm",
            targets=["onnxruntime", "openvino"],
            precisions=options.precision or ["fp32"],
            sampler=CONFIG,
            progress=tell,
        )
        tell("", 0, 0)
    result = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.perf_counter() - begun, 1),
        "parts": {what: round(seconds, 1) for what, seconds in parts.items()},
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
