"""Train the digits energy model and write it, with its sampler's settings inside, as a torch.export archive.

    python train.py                     # about 10 minutes on one core; writes model.pt beside this file

Two stages. First multi-scale denoising score matching (Li, Chen, Sommer, arXiv 1910.07762): dE/dx at a digit plus noise
has to equal that noise, for all noise levels at once, and the model is not told the level. That shapes E around the data
but says nothing about places where no noisy digit ever lies, so chains get caught between digits. Then persistent
contrastive divergence (Tieleman, ICML 2008) is added: chains that are annealed as the shipped sampler's are, in half as many steps, are
kept in a replay buffer, and their energy is raised against that of digits with the noise of the same temperature. Score
matching stays on throughout: it fixes the scale of E and keeps the contrast from running away.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import load_split
from model import DigitEnergy
from torch import nn
from torch.nn import functional as F

from ebm_export.exporter import save_energy
from ebm_export.runtime import SamplerConfig

__all__ = ["SAMPLER", "train"]

SAMPLER: dict[str, Any] = {
    "steps": 150,
    "step_size": [0.5, 0.25],  # the state at the end is less denoised by a shorter last step: see README, low precision
    "noise": None,  # sqrt(2 * step_size * temperature)
    "temperature": [round(float(t), 5) for t in np.geomspace(0.5, 0.02, 13)],  # noise level 0.7 down to 0.14, squared
    "grad_clip": None,
    "grad_clip_mode": "value",
    "bounds": None,
    "order": "noise-drift",
    "init": "normal",
}

SHIPPED: dict[str, Any] = {
    **SAMPLER,
    "steps": 300,
    "temperature": [round(float(t), 5) for t in (*np.geomspace(0.5, 0.01, 11), 0.02, 0.02)],
}
"""The archive's sampler: slower and colder than the chains of training, so that fewer samples are caught between digits.
The last steps are warmer again, since a gradient must not become too small for bfloat16."""

BATCH = 128
BUFFER = 512  # chains; with BATCH and CHAIN_STEPS, a chain goes from noise to digit within 120 updates
CHAIN_STEPS = 5  # sampler steps per update
NOISE_LEVELS = (0.08, 1.3)  # sd; from below the sampler's last level to above its first
CONTRAST_WEIGHT = 1.0  # 1: energies in units of T per pixel beside a squared error in units of sd^2 per pixel
GRADIENT_NORM = 1.0
EMA_DECAY = 0.999


def schedule(values: float | list[float], steps: int) -> torch.Tensor:
    """One value per step [steps] float32 from a number or a list, linearly interpolated over the steps."""
    points = np.atleast_1d(np.asarray(values, dtype=np.float64))
    return torch.from_numpy(np.interp(np.linspace(0, len(points) - 1, steps), np.arange(len(points)), points)).float()


def input_gradient(model: nn.Module, x: torch.Tensor, *, create_graph: bool = False) -> torch.Tensor:
    """dE/dx [B, 1, 8, 8] at x; with create_graph it can be differentiated again with respect to the weights."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=create_graph)
    return gradient


def per_image(values: torch.Tensor) -> torch.Tensor:
    """Values [B] as [B, 1, 1, 1], to multiply images with."""
    return values[:, None, None, None]


class Digits:
    """Batches of real training digits; one half of each is slightly turned, sheared, scaled and shifted."""

    def __init__(self, generator: torch.Generator) -> None:
        self._images = torch.from_numpy(load_split()[0])  # [1437, 1, 8, 8]
        self._generator = generator

    def _between(self, limit: float, count: int) -> torch.Tensor:
        """Uniform numbers [count] in (-limit, limit)."""
        return (torch.rand(count, generator=self._generator) * 2 - 1) * limit

    def batch(self, count: int) -> torch.Tensor:
        """Draw images [count, 1, 8, 8]."""
        x = self._images[torch.randint(len(self._images), (count,), generator=self._generator)]
        angle = self._between(math.radians(10), count)
        wide, high = 1 + self._between(0.08, count), 1 + self._between(0.08, count)
        shear = self._between(0.1, count)
        right, down = self._between(0.125, count), self._between(0.125, count)  # half a pixel: the image spans -1..1
        cos, sin = angle.cos(), angle.sin()
        rows = [torch.stack([cos * wide, shear - sin * high, right], 1), torch.stack([sin * wide, cos * high, down], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        moved = F.grid_sample(x + 1, grid, padding_mode="zeros", align_corners=False) - 1  # blank outside is -1
        return torch.where(per_image(torch.rand(count, generator=self._generator) < 0.5), x, moved)


class Chains:
    """Replay buffer of chains, each at its own step of the sampler's schedule; a finished chain restarts from noise."""

    def __init__(self, digits: Digits, generator: torch.Generator) -> None:
        self._generator = generator
        self._steps = int(SAMPLER["steps"])
        self._step_size = schedule(SAMPLER["step_size"], self._steps)
        self._temperature = schedule(SAMPLER["temperature"], self._steps)
        # Random ages, so that each update meets every temperature; as there are no chains yet, noisy digits stand in.
        self._age = torch.randint(self._steps, (BUFFER,), generator=generator)
        start = digits.batch(BUFFER)
        self._x = start + per_image(self._level(self._age)) * torch.randn(start.shape, generator=generator)

    def _level(self, age: torch.Tensor) -> torch.Tensor:
        """Sd [B] of the noise on chains at `age` [B] just before the drift: where such steps in |x|^2 / 2 settle."""
        return (2 * self._temperature[age] / (2 - self._step_size[age])).sqrt()

    def advance(self, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run BATCH chains of the buffer for CHAIN_STEPS steps (x <- x + sigma * n, then x <- x - step * dE/dx).

        Returns:
            states [BATCH, 1, 8, 8] where the last gradient was taken, temperature [BATCH] and noise sd [BATCH] there.
        """
        rows = torch.randperm(BUFFER, generator=self._generator)[:BATCH]
        x, age = self._x[rows], self._age[rows]
        for _ in range(CHAIN_STEPS):
            ended = (age >= self._steps) | ~torch.isfinite(x).flatten(1).all(1)
            x = torch.where(per_image(ended), torch.randn(x.shape, generator=self._generator), x)
            age = torch.where(ended, 0, age)
            step, temperature = per_image(self._step_size[age]), self._temperature[age]
            noised = x + (2 * step * per_image(temperature)).sqrt() * torch.randn(x.shape, generator=self._generator)
            level = self._level(age)
            x, age = noised - step * input_gradient(model, noised), age + 1
        self._x[rows], self._age[rows] = x, age
        return noised, temperature, level


def denoising_loss(model: nn.Module, digits: Digits, generator: torch.Generator) -> torch.Tensor:
    """Mean of |dE/dx(x + n) - n|^2 * (1/sd^2 + 2) per pixel, with sd log-uniform over NOISE_LEVELS; [] float32."""
    x = digits.batch(BATCH)
    low, high = (math.log(level) for level in NOISE_LEVELS)
    level = per_image((torch.rand(BATCH, generator=generator) * (high - low) + low).exp())
    noise = level * torch.randn(x.shape, generator=generator)
    error = input_gradient(model, x + noise, create_graph=True) - noise
    return (error.square() * (1 / level.square() + 2)).mean()


def contrastive_loss(model: nn.Module, digits: Digits, chains: Chains, generator: torch.Generator) -> torch.Tensor:
    """Mean of (E(digit + noise) - E(chain)) / (T * pixels), digit and chain at the same temperature; [] float32."""
    model.requires_grad_(False)
    negative, temperature, level = chains.advance(model)
    model.requires_grad_(True)
    positive = digits.batch(BATCH)
    positive = positive + per_image(level) * torch.randn(positive.shape, generator=generator)
    real, drawn = model(torch.cat([positive, negative])).chunk(2)
    return ((real - drawn) / (temperature * positive[0].numel())).mean()


def train(*, seed: int = 0, denoising_updates: int = 4000, contrastive_updates: int = 2500) -> nn.Module:
    """Train from scratch; the same seed gives the same model on the same machine and torch version.

    Args:
        seed: of the weights and of everything drawn.
        denoising_updates: updates of stage one.
        contrastive_updates: updates of stage two.

    Returns:
        The model in eval mode, its weights averaged over the last updates (exponential moving average).
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitEnergy()
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    digits = Digits(generator)
    chains = Chains(digits, generator)
    started = time.monotonic()
    for stage, updates, peak in (("denoising", denoising_updates, 2e-3), ("contrastive", contrastive_updates, 5e-4)):
        if stage == "contrastive":
            model.load_state_dict(averaged.state_dict())
        optimizer = torch.optim.Adam(model.parameters(), lr=peak, betas=(0.9, 0.99))
        sums = np.zeros(2)
        for update in range(updates):
            warm_up, cosine = min(1.0, (update + 1) / 100), 0.5 * (1 + math.cos(math.pi * update / updates))
            optimizer.param_groups[0]["lr"] = peak * warm_up * (cosine + 0.01)
            denoising = denoising_loss(model, digits, generator)
            contrast = torch.zeros(())
            if stage == "contrastive":
                contrast = contrastive_loss(model, digits, chains, generator)
            optimizer.zero_grad()
            (denoising + CONTRAST_WEIGHT * contrast).backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            # Early on the average follows closely, or it would remember the random start.
            decay = min(EMA_DECAY, (update + 1) / (update + 10))
            for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(value.detach(), 1 - decay)
            sums += denoising.item(), contrast.item()
            if (update + 1) % 100 == 0:
                print(
                    f"{stage} {update + 1}/{updates}   error {sums[0] / 100:.4f}   contrast {sums[1] / 100:+.4f}   "
                    f"{(time.monotonic() - started) / 60:.1f} min",
                    flush=True,
                )
                if sums[0] > 1000:
                    raise RuntimeError(f"training diverged: error {sums[0] / 100:.3g}; lower the learning rate")
                sums[:] = 0
    return averaged


def save_archive(model: nn.Module, path: Path) -> None:
    """Write model and sampler settings as one archive that ebm-export needs nothing else for."""
    settings = SamplerConfig.from_dict(SHIPPED)
    save_energy(model, path, torch.zeros(2, 1, 8, 8), sampler=settings, name="digits")


def main() -> None:
    """Train with the settings of the command line and write the archive."""
    parser = argparse.ArgumentParser(description="Train the digits energy model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("model.pt"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds differently")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    save_archive(train(seed=arguments.seed), arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
