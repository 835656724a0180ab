"""The chains of one seed shared out among calls: the parts are the whole, bit for bit, where batches have one size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.chain_random import ChainRandom
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.noise import chains_in_block
from ebm_export.runtime.noise_in_bulk import NoiseInBulk

SETTINGS: dict[str, dict[str, Any]] = {
    "langevin": {},
    "noise first": {"order": "noise-drift", "noise": 0.1},
    "annealed": {"anneal": 10.0, "step_size": [0.2, 0.05]},
    "preconditioned": {"sampler": "preconditioned"},
    "underdamped": {"sampler": "underdamped"},
    "mala": {"sampler": "mala"},
    "hmc": {"sampler": "hmc", "leapfrog": 3},
    "tempering": {"sampler": "tempering", "ladder": (1.0, 2.0, 4.0)},
    "optimize": {"sampler": "optimize"},
    "exact": {"block": 4},
    "uniform": {"init": "uniform", "bounds": (-2.0, 1.0)},
    "data": {"init": "data"},
}
DATA = np.random.default_rng(4).standard_normal((7, 3)).astype(np.float32)


def wavy(x: np.ndarray, centre: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    y = x - centre
    return (0.5 * y**2 + np.cos(3 * y)).reshape(len(x), -1).sum(axis=1), y - 3 * np.sin(3 * y)


def ebm(name: str = "langevin", size: int = 3, cond: bool = False, **changes: Any) -> Ebm:
    inputs = (TensorSpec("centre", (size,), "float32"),) if cond else ()
    model = ModelSpec("wavy", TensorSpec("x", (size,), "float32"), cond=inputs)
    config = SamplerConfig(**({"steps": 24, "step_size": 0.1} | SETTINGS[name] | changes))
    engine = FunctionEngine(lambda x, **given: tuple(1.1 * part for part in wavy(x, **given)))
    exact = FunctionEngine(wavy) if name == "exact" else None
    return Ebm(engine, model, config, data=DATA if name == "data" else None, exact=exact)


def parts(make: Any, size: int, n: int, **options: Any) -> np.ndarray:
    """The chains of as many calls, each on an Ebm of its own."""
    return np.concatenate([make().sample(size, 7, first=first, **options) for first in range(0, n, size)])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_sampler(name: str) -> None:
    whole = ebm(name).sample(12, 7, max_batch=12 if name == "tempering" else 4)  # of which 3 replicas make a chain
    np.testing.assert_array_equal(parts(lambda: ebm(name), 4, 12), whole)
    assert len(np.unique(whole, axis=0)) > 1


@pytest.mark.parametrize("name", ["langevin", "mala", "tempering"])
def test_parts_that_begin_within_a_block_of_noise(name: str) -> None:
    size = 700  # 5 chains in a block, or one where each has three replicas
    assert chains_in_block(size) == 5
    make = lambda: ebm(name, size, steps=5)  # noqa: E731
    whole = make().sample(12, 7, max_batch=12 if name == "tempering" else 4)
    np.testing.assert_array_equal(parts(make, 4, 12), whole)


@pytest.mark.parametrize("first", [0, 2048, 2049])
def test_noise_in_bulk(first: int) -> None:
    """That of few numbers, of which each part that begins with a block draws a thousand steps at once, and others do not."""
    seen = []

    def watched(self: ChainRandom, *arguments: Any, **keywords: Any) -> None:
        drew(self, *arguments, **keywords)
        seen.append(isinstance(self._ahead, NoiseInBulk))

    drew = ChainRandom.draw_ahead
    whole = ebm(size=2, steps=600).sample(first + 2, 7, max_batch=first + 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChainRandom, "draw_ahead", watched)
        part = ebm(size=2, steps=600).sample(2, 7, first=first)
    assert seen == [first % chains_in_block(2) == 0]
    np.testing.assert_array_equal(part, whole[first:])


@pytest.mark.parametrize("name", ["langevin", "hmc", "tempering", "exact"])
def test_starts_conditions_and_kept_numbers_are_the_rows_of_their_call(name: str) -> None:
    rng = np.random.default_rng(1)
    given = {key: rng.standard_normal((8, 3)).astype(np.float32) for key in ("x0", "centre")}
    given["keep"] = rng.uniform(size=(8, 3)) < 0.3
    given["keep"][:, 0] = False
    whole = ebm(name, cond=True).sample(8, 7, max_batch=12 if name == "tempering" else 4, **given)
    halves = [
        ebm(name, cond=True).refine(x0=given["x0"][rows], seed=7, first=rows.start, centre=given["centre"][rows], keep=given["keep"][rows])
        for rows in (slice(0, 4), slice(4, 8))
    ]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_chains_that_are_started_anew() -> None:
    def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energy, grad = wavy(x)
        return np.where(np.abs(x).max(axis=1) > 1.5, np.nan, energy), grad

    def make() -> Ebm:
        config = SamplerConfig(steps=24, step_size=0.02, temperature=0.3, init="uniform", bounds=(-1.6, 1.6))
        return Ebm(FunctionEngine(cliff), ModelSpec("cliff", TensorSpec("x", (3,), "float32")), config)

    dropped = make().sample(12, 7, max_batch=4, diverged="drop")
    assert 0 < len(dropped) < 12
    np.testing.assert_array_equal(parts(make, 4, 12, diverged="drop"), dropped)
    whole = make().sample(12, 7, max_batch=4, diverged="restart")
    np.testing.assert_array_equal(parts(make, 4, 12, diverged="restart"), whole)


def test_deadlines_streams_and_callbacks() -> None:
    last = [best.x for best in ebm().stream(4, 7, first=4)][-1]
    whole = [best.x for best in ebm().stream(8, 7)][-1]
    np.testing.assert_allclose(last, whole[4:], rtol=1e-6)  # in batches of two sizes
    np.testing.assert_array_equal(ebm().sample(4, 7, first=4, deadline_ms=1e5).x, last)
    told = []
    ebm().sample(4, 7, first=4, callback=lambda now: told.append((now.chains, now.n)))
    assert set(told) == {(range(4), 4)}


@pytest.mark.parametrize("name", ["langevin", "mala", "tempering"])
def test_two_processes(tmp_path: Path, name: str) -> None:
    halves = []
    for first in (0, 4):
        file = tmp_path / f"{first}.npy"
        source = Path(__file__).read_text(encoding="utf-8").partition("\n@pytest")[0]
        program = f"{source}\nnp.save(sys.argv[1], ebm(sys.argv[2]).sample(4, 7, first=int(sys.argv[3])))\n"
        subprocess.run([sys.executable, "-c", program, str(file), name, str(first)], check=True)
        halves.append(np.load(file))
    whole = ebm(name).sample(8, 7, max_batch=12 if name == "tempering" else 4)
    np.testing.assert_array_equal(np.concatenate(halves), whole)


@pytest.mark.parametrize("first", [-1, 1.0, True, "2", 2**63 - 4100])
def test_what_is_no_number_of_a_chain(first: Any) -> None:
    with pytest.raises(
        UsageError, match="first: expected a whole number of at least 0 and below 9223372036854771708, got "
    ):
        ebm().sample(4, first=first)


def test_the_last_numbers_there_are() -> None:
    assert np.isfinite(ebm().sample(4, first=2**63 - 4101)).all()


def test_a_checkpoint_is_of_these_chains(tmp_path: Path) -> None:
    part = ebm().sample(4, 7, first=4, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(ebm().sample(4, 7, first=4, checkpoint=tmp_path / "run"), part)
    with pytest.raises(UsageError, match="is of another run: first was 4 and is 0; start was"):
        ebm().sample(4, 7, checkpoint=tmp_path / "run")
