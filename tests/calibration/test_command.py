from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from ebm_export.calibration.command import run_compare
from ebm_export.calibration.compare_options import CompareOptions
from ebm_export.runtime.errors import MissingBackend, UsageError


@pytest.mark.parametrize("module,package", [("sklearn", "scikit-learn"), ("jinja2", "jinja2"), ("PIL", "pillow")])
def test_a_missing_package_is_named_with_its_extra(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(
        MissingBackend, match=rf"not installed \({package}\): pip install 'ebm-export\[calibration\]'"
    ) as raised:
        run_compare(CompareOptions(bundles=[tmp_path / "a.ebm"]), tmp_path / "report")
    assert raised.value.exit_code == 7


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UsageError, match="--out: .*report is a file; give a folder"):
        run_compare(CompareOptions(bundles=[tmp_path / "a.ebm"]), tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"
    with pytest.raises(UsageError, match="--out: .*report is a file; give a folder"):
        run_compare(CompareOptions(bundles=[tmp_path / "a.ebm"]), tmp_path / "report" / "in it")


@pytest.mark.parametrize("shut", ["", "report", "report/samples"])
def test_out_may_not_be_written_to(shut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before any chain is drawn, and so before the bundle is looked for."""
    (tmp_path / shut).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / shut)
    with pytest.raises(UsageError, match=f"--out: {tmp_path / shut} may not be written to"):
        run_compare(CompareOptions(bundles=[tmp_path / "a.ebm"]), tmp_path / "report")
