"""One seed's samples of a real network: in other batches, calls and numbers of steps at once, by every sampler on both CPU engines.

The bits are the same where the work is the same: batches of one size, and fused steps on onnxruntime. In batches of other sizes a
library may sum up in another order, as the other engine's does, which is a rounding. How far roundings grow along a chain is measured
by starts that differ by two or three last bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.runtime import Ebm, SamplerConfig, load
from ebm_export.runtime.fused_steps import FUSABLE
from ebm_export.runtime.method import replicas

FUSED = 4
CHAINS = 8
CONFIG = SamplerConfig(steps=24, step_size=0.05, temperature=0.5)
SAMPLERS: dict[str, dict[str, Any]] = {
    "langevin": {},
    "noise first": {"order": "noise-drift", "noise": 0.1},
    "annealed": {"anneal": 10.0, "step_size": [0.1, 0.01]},
    "reflecting": {"bounds": (-0.5, 0.8), "bounds_mode": "reflect"},
    "preconditioned": {"sampler": "preconditioned"},
    "underdamped": {"sampler": "underdamped"},
    "optimize": {"sampler": "optimize"},
    "mala": {"sampler": "mala"},
    "annealed mala": {"sampler": "mala", "anneal": 10.0, "warmup": 6},
    "hmc": {"sampler": "hmc", "leapfrog": 3, "target_accept": 0.9},
    "tempering": {"sampler": "tempering", "ladder": (1.0, 2.0, 4.0)},
    "exact": {"block": 4},
}
REJECTS_NONE = [
    name for name, changes in SAMPLERS.items() if changes.get("sampler", "langevin") in FUSABLE and name != "exact"
]
FUSES = ("langevin", "annealed")  # the graph of fused steps is that of the bundle's sampler and bounds
backends = pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])


class Policy(nn.Module):
    """Energy of an action, given an observation that is encoded once."""

    def __init__(self, coarse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Sequential(nn.Linear(19, 48), nn.SiLU(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))
        if coarse:  # as a low precision has it, and computed in float32
            for weights in self.parameters():
                weights.data = torch.round(weights.data * 16) / 16

    def forward(self, x: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        return 4 * self.head(torch.cat([x, self.encode(obs)], 1)).squeeze(1) + x.square().sum(1)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The policy, and its coarse stand-in."""
    folder = tmp_path_factory.mktemp("same")
    torch.manual_seed(1)
    options: dict[str, Any] = {
        "cond": {"obs": torch.randn(16, 5)},
        "targets": ["onnxruntime", "openvino"],
        "sampler": CONFIG,
    }
    fine = export(Policy().eval(), torch.randn(4, 3), out=folder / "fine.ebm", fuse=FUSED, **options)
    return fine, export(Policy(coarse=True).eval(), torch.randn(4, 3), out=folder / "coarse.ebm", **options)


class Draw:
    """Draws with one sampler on one engine; every call on an Ebm of its own."""

    def __init__(self, bundles: tuple[Path, Path], backend: str, name: str) -> None:
        self.bundles, self.backend, self.name = bundles, backend, name
        self.config = CONFIG.replace(**SAMPLERS[name])
        rng = np.random.default_rng(2)
        self.start = np.clip(rng.standard_normal((CHAINS, 3)), -0.5, 0.8).astype(np.float32)
        self.obs = rng.standard_normal((CHAINS, 5)).astype(np.float32)

    def __call__(
        self, batch: int, first: int = 0, stop: int = CHAINS, *, fuse: bool = False, nudge: float = 0.0
    ) -> np.ndarray:
        rows = slice(first, stop)
        start = self.start[rows] * np.float32(1 + nudge)
        given: dict[str, Any] = {"first": first, "obs": self.obs[rows], "max_batch": batch * replicas(self.config)}
        with load(self.bundles[0], self.backend, threads=1, fuse=fuse or None) as fine:
            if self.name != "exact":
                return fine.refine(start, 7, config=self.config, **given)
            with load(self.bundles[1], self.backend, threads=1) as coarse:
                both = Ebm(coarse.engine, fine.model, self.config, exact=fine.engine)
                return both.refine(start, 7, **given)


def allowed(draw: Draw, whole: np.ndarray) -> float:
    """How far roundings of other sums may bring samples from these, which are those of all chains in one batch."""
    # Two or three last bits of each number of x.
    grown = float(np.abs(draw(CHAINS, nudge=2.0**-22) - whole).max())
    # Each step rounds x and the gradient anew, and a rounding of a later step has less time to grow.
    allowed = draw.config.steps * (grown + 2.0**-22 * float(np.abs(whole).max()))
    assert allowed < 1e-2  # far less than the chains move, and than what another noise would do
    return allowed


@backends
@pytest.mark.parametrize("name", SAMPLERS)
def test_same_bits_in_batches_of_one_size(bundles: tuple[Path, Path], backend: str, name: str) -> None:
    draw = Draw(bundles, backend, name)
    whole = draw(4)
    np.testing.assert_array_equal(draw(4), whole)
    halves = [draw(4, first, first + 4) for first in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    assert len(np.unique(whole, axis=0)) == CHAINS and np.abs(whole - draw.start).max() > 0.05


@backends
@pytest.mark.parametrize("name", SAMPLERS)
def test_other_batches_differ_by_rounding(bundles: tuple[Path, Path], backend: str, name: str) -> None:
    draw = Draw(bundles, backend, name)
    whole = draw(CHAINS)
    for batch in (1, 3):
        assert np.abs(draw(batch) - whole).max() <= allowed(draw, whole)


@pytest.mark.parametrize("name", REJECTS_NONE)
def test_the_engines_differ_by_rounding(bundles: tuple[Path, Path], name: str) -> None:
    """Those that reject may decide otherwise by a rounding, and from there on are other chains."""
    one, other = (Draw(bundles, backend, name) for backend in ("onnxruntime", "openvino"))
    samples = one(CHAINS)
    assert np.abs(other(CHAINS) - samples).max() <= allowed(one, samples)


@backends
@pytest.mark.parametrize("name", FUSES)
def test_steps_in_one_call(bundles: tuple[Path, Path], backend: str, name: str) -> None:
    draw = Draw(bundles, backend, name)
    for batch in (CHAINS, 3):
        many, one = draw(batch, fuse=True), draw(batch)
        if backend == "onnxruntime":
            np.testing.assert_array_equal(many, one)
        else:  # which may compile the same operations otherwise in another graph
            np.testing.assert_allclose(many, one, rtol=0, atol=draw.config.steps * 2.0**-20)
    np.testing.assert_array_equal(
        np.concatenate([draw(4, first, first + 4, fuse=True) for first in (0, 4)]), draw(4, fuse=True)
    )
