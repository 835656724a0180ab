"""What it matters at which observations a policy is calibrated and judged: made-up ones, or real ones.

    python benchmarks/observations.py

A policy is trained here, in a minute or two: where to grasp the green disc of an image with two discs, from the left or from the
right (implicit behavioral cloning, Florence et al., CoRL 2021). It is exported in INT8 twice, once with the shape of an image
alone and once with 200 images, and both are judged at 200 other images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.export import export_energy
from ebm_export.exporter.gating import gating_for
from ebm_export.runtime import SamplerConfig

SIZE, RADIUS, WIDTH = 48, 0.12, 256
CONFIG = SamplerConfig(steps=40, step_size=[0.05, 0.002], noise=0.02, bounds=(-1, 1), init="uniform", grad_clip=2.0)


class Policy(nn.Module):
    """E(image, action): an encoder, and a perceptron over what it saw and four numbers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(8, outputs), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 64))
        judge: list[nn.Module] = [nn.Linear(64 + 4, WIDTH), nn.SiLU()]
        for _ in range(2):
            judge += [nn.Linear(WIDTH, WIDTH), nn.SiLU()]
        self.judge = nn.Sequential(*judge, nn.Linear(WIDTH, 1))

    def forward(self, action: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.judge(torch.cat([self.encoder(image), action], 1)).squeeze(1)


def scenes(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 3, 48, 48] and actions [count, 4]: place, side and speed of a grasp."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    places = torch.rand(count, 2, 2, generator=generator) * 1.6 - 0.8
    images = 0.3 + 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    for disc, channel in ((0, 1), (1, 0)):
        inside = ((x - places[:, disc, 0, None, None]) ** 2 + (y - places[:, disc, 1, None, None]) ** 2) < RADIUS**2
        images[:, channel] = torch.where(inside, torch.ones(()), images[:, channel])
    side = (torch.rand(count, generator=generator) < 0.7).float() * 2 - 1
    actions = torch.stack([places[:, 0, 0], places[:, 0, 1], 0.5 * side, 0.3 * places[:, 1, 0]], 1)
    return images, actions + 0.03 * torch.randn(count, 4, generator=generator)


def train(steps: int) -> Policy:
    """Tells the action that was taken from 80 others."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    for _ in range(steps):
        images, taken = scenes(64, generator)
        others = torch.rand(64, 64, 4, generator=generator) * 2 - 1
        near = taken[:, None] + 0.15 * torch.randn(64, 16, 4, generator=generator)
        actions = torch.cat([taken[:, None], others, near], 1)
        seen = policy.encoder(images)[:, None].expand(-1, actions.shape[1], -1)
        energies = policy.judge(torch.cat([seen, actions], -1)).squeeze(-1)
        loss = F.cross_entropy(-energies, torch.zeros(64, dtype=torch.long)) + 1e-3 * energies.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.eval()


def judged(policy: Policy, images: torch.Tensor, unseen: Path, folder: Path) -> dict[str, Any]:
    """Exports with these images, and returns what the export and the unseen images say of INT8."""
    precisions, path = ["fp32", "int8"], folder / "policy.ebm"
    energy = make_energy(policy, torch.zeros(4, 4), cond={"image": images}, sampler=CONFIG)
    gating = gating_for(precisions, 1.25, smallest_difference=0.15, out=path)
    report = export_energy(energy, out=path, targets=["openvino"], precisions=precisions, gating=gating, force=True)
    if report.failure is not None:
        return {"export": str(report.failure)}
    code = "from ebm_export.cli import ebm_compare; ebm_compare()"
    options = [path, "--precision", "int8", "--cond", f"image={unseen}", "--out", folder / "report"]
    subprocess.run([sys.executable, "-c", code, *map(str, options)], check=True, stdout=subprocess.DEVNULL)
    engines = json.loads((folder / "report" / "report.json").read_text())["engines"]
    gate = next(engine["gate"] for engine in engines if engine["precision"] == "int8")
    values = {verdict["metric"]: verdict["value"] for verdict in gate["verdicts"]}
    return {
        "export": "passes",
        "at unseen images": "passes" if gate["passed"] else "fails",
        **{metric: value for metric, value in values.items() if metric.startswith("score")},
        "seconds": report.seconds,
    }


def main() -> None:
    """Trains, exports, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of the training")
    options = parser.parse_args()
    policy = train(options.steps)
    real, others = (scenes(200, torch.Generator().manual_seed(seed))[0] for seed in (2, 3))
    made_up = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))  # what --cond image=3,48,48 is
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "unseen.npy", others.numpy())
        for name, images in (("the shape of an image", made_up), ("200 images", real)):
            folder = Path(scratch) / name.replace(" ", "_")
            folder.mkdir()
            print(f"{name}: {json.dumps(judged(policy, images, Path(scratch) / 'unseen.npy', folder))}", flush=True)


if __name__ == "__main__":
    main()
