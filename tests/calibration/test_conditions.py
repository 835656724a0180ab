from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ebm_export.calibration.conditions import conditions_for
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import UsageError
from tests.runtime.tiny_bundle import golden_data, write_bundle


def test_golden_rows_are_cycled(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm", cond=True))
    rows = conditions_for(bundle, 20)["centre"]
    golden = golden_data(cond=True)["cond.centre"][0]
    assert rows.shape == (20, 3)
    np.testing.assert_array_equal(rows[:8], golden)
    np.testing.assert_array_equal(rows[8:16], golden)


def test_given_rows_win(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm", cond=True))
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(conditions_for(bundle, 3, {"centre": given})["centre"], given[[0, 1, 0]])


def test_a_model_without_conditions_needs_none(tmp_path: Path) -> None:
    assert conditions_for(Bundle(write_bundle(tmp_path / "a.ebm")), 5) == {}


def test_a_bundle_without_golden_data(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "a.ebm", cond=True)
    (path / "golden.npz").unlink()
    with pytest.raises(UsageError, match="exported with --no-verify.*--cond centre=FILE.npy"):
        conditions_for(Bundle(path), 5)


def test_a_name_the_model_does_not_know(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm", cond=True))
    with pytest.raises(UsageError, match="--cond obs: the model quadratic takes centre"):
        conditions_for(bundle, 5, {"obs": np.zeros((1, 3))})


def test_another_shape(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm", cond=True))
    with pytest.raises(UsageError, match=r"--cond centre: expected shape \[M, 3\], got \[2, 4\]"):
        conditions_for(bundle, 5, {"centre": np.zeros((2, 4))})
