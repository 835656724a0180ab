"""Times E and dE/dx of small convolutional energies by their normalization, beside the best that PyTorch does, in FP32.

    python benchmarks/norms.py

Images have 64 channels and 32x32 places, three residual blocks and a batch of 8; series 64 channels and 32 places, and a batch of 64. All take
turns; a turn begins after a pause, so that threads of the one before sleep, and with calls that are not timed. A ratio is the median of
those within a round. Weights are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from int8_speed import WAYS, Call, engine_call, measure, torch_call
from torch import nn

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.bundle import Bundle

CHANNELS, PLACES = 64, 32


class Residual(nn.Module):
    """Three blocks of a norm, SiLU and a convolution, in one or two dimensions."""

    def __init__(self, norm: Callable[[], nn.Module], inputs: int, kind: type[nn.Conv1d | nn.Conv2d]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = kind(inputs, CHANNELS, 3, 1, 1), nn.Linear(CHANNELS, 1)
        self.norms = nn.ModuleList(norm() for _ in range(3))
        self.convolutions = nn.ModuleList(kind(CHANNELS, CHANNELS, 3, 1, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h = h + convolution(nn.functional.silu(norm(h)))
        return self.head(h.flatten(2).mean(2)).squeeze(1)


class OverChannels(nn.LayerNorm):
    """A layer norm of each place of an image, as torchvision's ConvNeXt has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Places(nn.Module):
    """A norm and two layers of each place of an image (ConvNeXt, Liu et al., arXiv:2201.03545)."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(CHANNELS, CHANNELS, 7, 1, 3, groups=CHANNELS)
        self.layers = nn.Sequential(
            nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 4 * CHANNELS), nn.GELU(), nn.Linear(4 * CHANNELS, CHANNELS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(self.depth(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Three blocks of layers of each place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, CHANNELS, 2, 2), nn.Linear(CHANNELS, 1)
        self.blocks = nn.Sequential(*(Places() for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3))).squeeze(1)


CASES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "images, group norm": (lambda: images(lambda: nn.GroupNorm(8, CHANNELS)), torch.rand(8, 3, PLACES, PLACES)),
    "images, instance norm": (lambda: images(lambda: nn.InstanceNorm2d(CHANNELS, affine=True)), torch.rand(8, 3, PLACES, PLACES)),
    "images, layer norm over channels": (lambda: images(lambda: OverChannels(CHANNELS)), torch.rand(8, 3, PLACES, PLACES)),
    "images, ConvNeXt": (ConvNext, torch.rand(8, 3, PLACES, PLACES)),
    "images, batch norm": (lambda: images(lambda: nn.BatchNorm2d(CHANNELS)), torch.rand(8, 3, PLACES, PLACES)),
    "series, group norm": (lambda: Residual(lambda: nn.GroupNorm(8, CHANNELS), 7, nn.Conv1d), torch.rand(64, 7, PLACES)),
}  # fmt: skip
LIBRARIES = ("openvino", "onnxruntime")


def images(norm: Callable[[], nn.Module]) -> Residual:
    """A network for images."""
    return Residual(norm, 3, nn.Conv2d)


def frozen(build: Callable[[], nn.Module]) -> nn.Module:
    """As it is used."""
    return build().eval().requires_grad_(False)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| | best PyTorch, ms | OpenVINO, ms | times as fast | onnxruntime, ms | times as fast |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (build, x) in CASES.items():
        torch.compiler.reset()  # else it gives up compiling after eight networks
        calls: dict[str, Call] = {}
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            sampler = SamplerConfig(steps=4, step_size=0.1)
            path = export(frozen(build), x[:2], out=Path(folder) / "net.ebm", targets=LIBRARIES, sampler=sampler)
            for way in WAYS:
                for channels_last in (False, True)[: 1 + (x.ndim == 4)]:
                    words = f"{way}{', channels last' * channels_last}"
                    calls[words] = torch_call(frozen(build), x, low=False, channels_last=channels_last, way=way)
            inputs = {"x": x.numpy(), "grad_scale": np.ones(len(x), np.float32)}
            for library in LIBRARIES:
                calls[library] = engine_call(stack, Bundle(path), "fp32", inputs, options.threads, library)
            times = measure(calls, options.rounds, pause=0.3, together=5)
        best = min(times.keys() - set(LIBRARIES), key=lambda key: float(np.median(times[key])))
        row = [name, f"{np.median(times[best]):.1f} ({best})"]
        for library in LIBRARIES:
            row += [f"{np.median(times[library]):.1f}", f"{np.median(times[best] / times[library]):.2f}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
