"""Exact sampling with a real INT8 engine: the mode weights that its own rounding moves come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.acceptance import AcceptanceMeter

CENTRES = torch.tensor([[-1.0, 0.0], [3.4, 0.0]])
WEIGHTS = torch.tensor([0.3, 0.7])
BETWEEN = 1.2
"""First coordinate of the line between the modes; 2.2 standard deviations from either, so 1.4 % of each lies beyond it."""
CHAINS = 6000
HALF_A_NORMAL = 0.0139
"""Mass of N(0, 1) beyond 2.2."""


class Mixture(nn.Module):
    """-log(0.3 N(x; a, I) + 0.7 N(x; b, I)) up to a constant, with its logits a.x and b.x made by three wide layers.

    The first layer writes x and 1 in a random basis of 64 directions, the second turns that basis back, the third reads off the
    logits: in exact arithmetic the mixture itself, in INT8 nothing of the kind.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        basis = torch.linalg.qr(torch.randn(64, 64))[0]
        self.first, self.second, self.third = nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 2)
        with torch.no_grad():
            self.first.weight.copy_(basis[:, :2])
            self.first.bias.copy_(basis[:, 2])
            self.second.weight.copy_(basis.T)
            self.third.weight.zero_()
            self.third.weight[:, :2] = CENTRES
            self.third.weight[:, 2] = torch.log(WEIGHTS) - 0.5 * CENTRES.square().sum(1)
            self.second.bias.zero_()
            self.third.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.third(self.second(self.first(x)))
        return 0.5 * x.square().sum(1) - torch.logsumexp(logits, 1)


LEFT = 0.3 * (1 - HALF_A_NORMAL) + 0.7 * HALF_A_NORMAL
MEAN = float((WEIGHTS[:, None] * CENTRES).sum(0)[0])
SPREAD = float(np.sqrt(1 + 0.3 * 0.7 * 4.4**2))
"""Standard deviation of the first coordinate: that of a mode, and that between two that are 4.4 apart."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32 and INT8 of OpenVINO. INT8 was calibrated about the origin alone, so that it saturates in the right mode."""
    return export(
        Mixture().eval(),
        torch.zeros(4, 2),
        targets=["openvino"],
        precisions=["fp32", "int8"],
        gate=None,
        sampler=SamplerConfig(steps=1, step_size=0.01),
        out=tmp_path_factory.mktemp("exact") / "mixture.ebm",
    )


def first_coordinate(bundle: Path, exact: bool) -> tuple[np.ndarray, AcceptanceMeter]:
    """At the end of chains on INT8 that cross between the modes often enough to be independent of their start: ESS = CHAINS."""
    meter = AcceptanceMeter()
    settings = {"exact": "fp32"} if exact else {}
    with load(bundle, backend="openvino", precision="int8", threads=1, **settings) as ebm:
        sampler = (
            {"block": 5} if exact else {"sampler": "mala"}
        )  # MALA has no error of its own: what is left is the engine's
        x = ebm.sample(CHAINS, seed=0, steps=500, step_size=0.4, warmup=60, callback=meter, **sampler)
    return x[:, 0], meter


def test_the_plain_int8_chain_is_visibly_biased(bundle: Path) -> None:
    x, meter = first_coordinate(bundle, exact=False)
    assert (x < BETWEEN).mean() - LEFT > 4 * np.sqrt(LEFT * (1 - LEFT) / CHAINS)
    assert MEAN - x.mean() > 8 * SPREAD / np.sqrt(CHAINS)
    assert meter.acceptance is not None and meter.block_acceptance is None


def test_corrected_by_fp32_it_has_the_right_mode_weights(bundle: Path) -> None:
    x, meter = first_coordinate(bundle, exact=True)
    assert abs((x < BETWEEN).mean() - LEFT) < 3 * np.sqrt(LEFT * (1 - LEFT) / CHAINS)
    assert abs(x.mean() - MEAN) < 3 * SPREAD / np.sqrt(CHAINS)
    assert meter.acceptance is not None and meter.block_acceptance is not None
    assert 0.4 < meter.acceptance < 0.9
    assert 0.8 < meter.block_acceptance < 0.97  # what is rejected is what the bias would have been
