"""Whose proposals the acceptance that is told of is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig
from ebm_export.runtime.acceptance import AcceptanceMeter
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.progress import Progress

N = 40


def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beyond 1 there is no energy, and a chain that begins there moves nowhere."""
    return np.where(abs(x).max(axis=1) > 1, np.nan, 5 * (x * x).sum(axis=1)).astype(np.float32), 10 * x


def ebm(exact: bool, sampler: str = "mala") -> Ebm:
    config = SamplerConfig(
        sampler="langevin" if exact else sampler, steps=30, step_size=0.05, temperature=0.5, warmup=6, init="uniform",
        bounds=(-1.3, 1.3), block=4, **({"ladder": (1.0, 2.0)} if sampler == "tempering" else {}),
    )  # fmt: skip
    other = FunctionEngine(cliff) if exact else None
    return Ebm(FunctionEngine(cliff), ModelSpec("cliff", TensorSpec("x", (2,), "float32")), config, exact=other)


class Beside:
    """A meter, and the acceptance of every chain's last run."""

    def __init__(self) -> None:
        self.meter = AcceptanceMeter()
        self.rows: dict[int, list[dict[str, np.ndarray]]] = {}
        self.lost: set[int] = set()

    def __call__(self, now: Progress) -> None:
        self.meter(now)
        names = [name for name in ("acceptance", "block_acceptance") if hasattr(now.info, name)]
        told = {name: getattr(now.info, name).reshape(len(now.chains), -1).copy() for name in names}
        for row, chain in enumerate(now.chains):
            if now.info is None:
                self.rows[chain] = []
            elif not now.warming_up:
                self.rows[chain].append({name: told[name][row] for name in names})
        if now.done == now.steps and now.diverged is not None:
            self.lost |= {chain for chain, gone in zip(now.chains, now.diverged, strict=True) if gone}

    def mean(self, name: str, without: set[int]) -> float:
        rows = [each[name] for chain, steps in self.rows.items() if chain not in without for each in steps]
        return float(np.mean(rows))


@pytest.mark.parametrize("max_batch", [None, 14])
@pytest.mark.parametrize("diverged", ["restart", "drop"])
@pytest.mark.parametrize("kind", ["mala", "hmc", "tempering", "exact"])
def test_it_is_of_the_chains_that_become_samples(kind: str, diverged: Any, max_batch: int | None) -> None:
    beside = Beside()
    made = ebm(kind == "exact", "mala" if kind == "exact" else kind)
    made.sample(N, 3, diverged=diverged, max_batch=max_batch, callback=beside)
    assert 5 < len(beside.lost) < 30
    gone = beside.lost if diverged == "drop" else set()
    assert beside.meter.acceptance == pytest.approx(beside.mean("acceptance", gone), rel=1e-9)
    if kind == "exact":
        assert beside.meter.block_acceptance == pytest.approx(beside.mean("block_acceptance", gone), rel=1e-9)
    else:
        assert beside.meter.block_acceptance is None


def test_it_can_be_read_on_the_way_and_goes_on_with_another_call() -> None:
    beside, read = Beside(), []

    def watch(now: Progress) -> None:
        beside(now)
        read.append(beside.meter.acceptance)

    made = ebm(False)
    start = np.zeros((3, 2), np.float32)
    made.refine(start, 1, callback=watch)
    first = beside.mean("acceptance", set())
    assert read[:7] == [None] * 7 and None not in read[7:] and read[-1] == pytest.approx(first)
    made.refine(start, 2, callback=watch)
    assert beside.meter.acceptance == pytest.approx((first + beside.mean("acceptance", set())) / 2)
