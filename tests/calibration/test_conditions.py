from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.calibration.conditions import conditions_for
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import UsageError
from tests.runtime.tiny_bundle import golden_data, manifest_entries, write_bundle


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
    for shape in ((2, 4), (0, 3), (3,)):
        with pytest.raises(UsageError, match=rf"centre: expected shape \[M, 3\], got {re.escape(str(list(shape)))}"):
            conditions_for(bundle, 5, {"centre": np.zeros(shape)})


def bundle_of(path: Path, **spec: Any) -> Bundle:
    """A bundle whose conditioning input is described by `spec`; its graph is never asked."""
    entries = manifest_entries([])["model"]
    return Bundle(write_bundle(path, cond=True, model={**entries, "cond": [{"dtype": "float32", **spec}]}))


def test_values_are_typed_as_the_graph_takes_them(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm", cond=True))
    rows = conditions_for(bundle, 3, {"centre": np.ones((2, 3), np.float64)})["centre"]
    assert rows.dtype == np.float32
    number = bundle_of(tmp_path / "b.ebm", name="sigma", shape=[])
    np.testing.assert_array_equal(
        conditions_for(number, 2, {"sigma": np.array([0.2])})["sigma"], np.full(2, 0.2, np.float32), strict=True
    )
    column = bundle_of(tmp_path / "c.ebm", name="sigma", shape=[1])
    np.testing.assert_array_equal(
        conditions_for(column, 2, {"sigma": np.array([0.2])})["sigma"], np.full((2, 1), 0.2, np.float32), strict=True
    )


def test_a_name_that_is_another_in_the_graph(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "a.ebm", name="energy_", parameter="energy", shape=[3])
    centre = np.arange(3, dtype=np.float32)[None]
    for name in ("energy", "energy_"):
        np.testing.assert_array_equal(conditions_for(bundle, 2, {name: centre})["energy_"], centre[[0, 0]])
    with pytest.raises(UsageError, match="--cond other: the model quadratic takes energy$"):
        conditions_for(bundle, 2, {"other": centre})
    with pytest.raises(UsageError, match="'energy' and 'energy_' are one input, by two names"):
        conditions_for(bundle, 2, {"energy": centre, "energy_": centre})
    (bundle.path / "golden.npz").unlink()
    with pytest.raises(UsageError, match="--cond energy=FILE.npy"):
        conditions_for(Bundle(bundle.path), 2)


def test_values_that_the_model_does_not_take(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "a.ebm", cond=True))
    with pytest.raises(UsageError, match="centre: expected numbers that float32 holds, got NaN"):
        conditions_for(bundle, 5, {"centre": np.array([[0, 0, np.nan]])})
    labels = bundle_of(tmp_path / "b.ebm", name="label", shape=[], dtype="int64", limits=[0, 9])
    with pytest.raises(UsageError, match="label: expected whole numbers from 0 to 9, .* got 3 to 10"):
        conditions_for(labels, 5, {"label": np.array([3, 10])})
