"""The networks of samplers.py, and how each is run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from igebm import Igebm
from resnet import Resnet18
from torch import nn
from wide_resnet import WideResNet

from ebm_export.runtime import SamplerConfig

__all__ = ["CASES", "Case"]

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))


class Mlp(nn.Module):
    """Two hidden layers on two numbers."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        layers = [nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).squeeze(1)


def _convolutions() -> list[nn.Module]:
    """Of a 96x96 image to 256 channels of 6x6."""
    found: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 256)):
        found += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
    return found


class Attention(nn.Module):
    """A block of a transformer whose one token looks at others'."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.grow = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, token: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        token = token + self.attend(self.before(token), places, places, need_weights=False)[0]
        return token + self.grow(self.after(token))


class AttentionPolicy(nn.Module):
    """An encoder of a 96x96 image, to whose 36 places a token made of 14 numbers of an action attends."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_convolutions(), nn.Conv2d(256, width, 1), nn.Flatten(2))
        self.where = nn.Parameter(0.1 * torch.randn(36, width))
        self.embed = nn.Sequential(nn.Linear(14, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Attention(width, 4) for _ in range(2))
        self.judge = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        places = self.encoder(image).transpose(1, 2) + self.where
        # Where one image is that of all candidates, they are tokens that look at the same places: the fastest way in PyTorch.
        shared = len(image) == 1
        token = self.embed(x)
        token = token[None] if shared else token[:, None]
        for block in self.blocks:
            token = block(token, places)
        return self.judge(token[0] if shared else token[:, 0]).squeeze(1)


class Policy(nn.Module):
    """An encoder of a 96x96 image, and a perceptron over its features and 14 numbers of an action."""

    def __init__(self, encoder: nn.Module | None = None, features: int = 256) -> None:
        super().__init__()
        self.encoder = encoder or nn.Sequential(*_convolutions(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        layers = [nn.Linear(features + 14, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 1)]
        self.judge = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        features = self.encoder(image).expand(len(x), -1)  # one image may be that of all candidates
        return self.judge(torch.cat([features, x], 1)).squeeze(1)


def digits() -> nn.Module:
    """The energy of examples/digits."""
    from model import DigitEnergy

    return DigitEnergy()


@dataclass
class Case:
    """A network and how it is run."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    steps: int
    threads: int
    fuse: int | None = None
    cond: dict[str, tuple[int, ...]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
    rounds: int = 7
    repeats: bool = False
    """Whether PyTorch is also run with the condition repeated for each chain."""
    verify: bool = False
    """Whether the export runs its engines, as it does by default; it takes minutes for a large network."""

    @property
    def settings(self) -> SamplerConfig:
        """Of everybody. This order asks the engine once per step, as the others' loops do, and nothing before the first."""
        return SamplerConfig(**({"steps": self.steps, "step_size": 0.01, "order": "noise-drift"} | self.config))


def _resnet18(steps: int) -> Case:
    """A policy with a larger encoder.

    100 steps are what the published policy on pixels takes, before it takes as many again: Florence et al., "Implicit behavioral
    cloning", CoRL 2021 (`langevin_actions_given_obs.num_iterations`).
    """
    return Case(
        lambda: Policy(Resnet18(), 512),
        (14,),
        (512,),
        steps,
        2,
        fuse=16,
        cond={"image": (3, 96, 96)},
        config={"bounds": (-1.0, 1.0)},
        rounds=5,
        verify=True,
    )


IMAGE = {"step_size": 10.0, "noise": 0.005, "bounds": (0.0, 1.0), "grad_clip": 0.01, "init": "uniform"}
CASES = {
    "mlp": Case(Mlp, (2,), (1, 64, 1024), 1024, 1, fuse=32, precisions=("fp32",), rounds=5),
    "policy": Case(
        Policy,
        (14,),
        (512,),
        16,
        2,
        fuse=16,
        cond={"image": (3, 96, 96)},
        config={"bounds": (-1.0, 1.0)},
        repeats=True,
        verify=True,
    ),
    "policy_attention": Case(
        AttentionPolicy,
        (14,),
        (512,),
        16,
        2,
        fuse=16,
        cond={"image": (3, 96, 96)},
        config={"bounds": (-1.0, 1.0)},
        repeats=True,
        rounds=5,
        verify=True,
    ),
    "policy_resnet18": _resnet18(16),
    "policy_resnet18_long": _resnet18(100),
    "digits": Case(
        digits, (1, 8, 8), (64,), 16, 2, fuse=16, config={"step_size": 0.05, "temperature": 0.05}, verify=True
    ),
    "igebm_cifar": Case(Igebm, (3, 32, 32), (8,), 20, 2, config=IMAGE, rounds=5),
    "jem_wrn_28_10": Case(WideResNet, (3, 32, 32), (2,), 10, 2, config=IMAGE, rounds=3),
    "igebm_128": Case(Igebm, (3, 128, 128), (1,), 8, 2, config=IMAGE, rounds=5),
}
