"""Energies without gradients."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, load
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.command import DrawOptions, run_draw
from ebm_export.runtime.energies import energies_of
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

from .tiny_bundle import write_bundle

X = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)


def bowl(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * np.square(x - centre).sum(axis=1), x - centre


def ebm(max_batch: int | None = None, numbers: int = 3) -> tuple[Ebm, list[int]]:
    sizes = []

    def counted(x: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(x))
        return bowl(x, centre)

    model = ModelSpec(
        "bowl", TensorSpec("x", (numbers,), "float32"), cond=(TensorSpec("centre", (numbers,), "float32"),)
    )
    return Ebm(FunctionEngine(counted), model, max_batch=max_batch), sizes


class TestEnergiesOf:
    @pytest.mark.parametrize("max_batch", [None, 2])
    @pytest.mark.parametrize("rows", [1, 7])
    def test_are_those_of_score(self, rows: int, max_batch: int | None) -> None:
        centre = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
        found = energies_of(ebm()[0], X, {"centre": centre}, max_batch=max_batch)
        np.testing.assert_array_equal(found, bowl(X, centre)[0])

    def test_engine_calls_are_those_of_score(self) -> None:
        x = np.zeros((9, 2**16), np.float32)  # four of which are asked for together
        own, sizes = ebm(max_batch=3, numbers=2**16)
        energies_of(own, x, {"centre": x[:1]})
        parts, sizes[:] = list(sizes), []
        own.score(x, cond={"centre": x[:1]})
        assert set(parts) == set(sizes) == {3}

    def test_take_less_memory_than_the_states(self) -> None:
        x = np.zeros((40_000, 64), np.float32)
        own, _ = ebm(max_batch=1000, numbers=64)
        tracemalloc.start()
        energies_of(own, x, {"centre": x[:1]})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < x.nbytes / 2

    def test_so_does_the_best_of_several(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, score = [], Ebm.score
        monkeypatch.setattr(Ebm, "score", lambda self, x, **given: asked.append(len(x)) or score(self, x, **given))
        own, _ = ebm(max_batch=1, numbers=2**17)
        best_of(own, 1, 5, step_size=0.1, steps=1, centre=np.zeros((1, 2**17)))
        assert asked == [2, 2, 1]


class TestCommand:
    def test_samples_are_written_before_anything_else_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What takes days to draw is not to be lost for a line that tells of it."""
        write_bundle(tmp_path / "m.ebm")
        options = DrawOptions(tmp_path / "m.ebm", tmp_path / "samples.npy", 3, {}, {}, n=5)

        def fail(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(Ebm, "score", fail)
        with pytest.raises(MemoryError):
            run_draw(options, lambda what, done, total: None)
        monkeypatch.undo()
        with load(tmp_path / "m.ebm") as own:
            np.testing.assert_array_equal(np.load(options.out), own.sample(5, 3))
