from __future__ import annotations

from pathlib import Path

import numpy as np

from ebm_export.calibration.model_identity import holds_model
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.bundle import Bundle
from tests.runtime.tiny_bundle import write_bundle


def steep(factor: float) -> FunctionEngine:
    def energy(x: np.ndarray, centre: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        apart = x if centre is None else x - centre
        return factor * 0.5 * np.square(apart).sum(1), factor * apart

    return FunctionEngine(energy)


def test_the_same_energy_is_the_same_model(tmp_path: Path) -> None:
    for cond in (False, True):
        bundle = Bundle(write_bundle(tmp_path / f"{cond}.ebm", cond=cond))
        assert holds_model(steep(1.0), bundle.model, bundle)
        assert holds_model(steep(1.001), bundle.model, bundle)


def test_another_energy_is_another_model(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm"))
    assert not holds_model(steep(1.1), bundle.model, bundle)


def test_other_inputs_are_another_model(tmp_path: Path) -> None:
    plain = Bundle(write_bundle(tmp_path / "a.ebm"))
    conditioned = Bundle(write_bundle(tmp_path / "b.ebm", cond=True))
    assert not holds_model(steep(1.0), plain.model, conditioned)


def test_without_answers_nothing_is_known(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm"))
    (bundle.path / "golden.npz").unlink()
    assert not holds_model(steep(1.0), bundle.model, bundle)
