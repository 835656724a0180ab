"""INT8 of the digits, exported by the command of docs/calibration.md and judged by the example's classifiers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"
SEEDS, SAMPLES = 3, 1000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The bundle, and what the export says of it."""
    path = tmp_path_factory.mktemp("digits") / "digits.ebm"
    main = "from ebm_export.cli import ebm_export; ebm_export()"
    options = ["--target", "openvino", "--precision", "fp32", "--precision", "int8", "--out", str(path), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", main, str(EXAMPLE / "model.pt"), *options], check=True, stdout=subprocess.PIPE, text=True
    )
    return path, json.loads(done.stdout)


@pytest.fixture(scope="module")
def judged(exported: tuple[Path, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What the classifiers say, by precision and seed."""
    options = ["--seeds", str(SEEDS), "--samples", str(SAMPLES), "--json"]
    done = subprocess.run(
        [sys.executable, EXAMPLE / "seed_by_seed.py", exported[0], *options],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def test_int8_passes_the_gate_on_every_metric(exported: tuple[Path, dict[str, Any]]) -> None:
    manifest = json.loads((exported[0] / "manifest.json").read_text())
    (gate,) = [entry["gate"] for entry in manifest["verification"] if "gate" in entry]
    assert gate["passed"]
    assert {"energy", "mmd", "frechet", "modes", "rare modes", "score gain", "score bias"} <= {
        one["metric"] for one in gate["verdicts"]
    }
    assert [one["metric"] for one in gate["verdicts"] if one["ratio"] > one["limit"]] == []


def test_all_ten_digits_stay_with_their_shares(judged: dict[str, list[dict[str, Any]]]) -> None:
    counts = {
        precision: sum(
            np.round(np.array(one["digits"]) * one["confident"]["judge"] * SAMPLES).astype(int) for one in each
        )
        for precision, each in judged.items()
    }
    assert all(min(one["digits"]) > 0.015 for each in judged.values() for one in each)  # eights: 3 to 4 %
    assert chi2_contingency(list(counts.values())).pvalue > 0.001, counts


@pytest.mark.parametrize("classifier", ["judge", "machine", "forest"])
def test_classifiers_are_as_sure_of_int8_as_of_other_seeds(
    judged: dict[str, list[dict[str, Any]]], classifier: str
) -> None:
    shares = {precision: np.array([one["confident"][classifier] for one in each]) for precision, each in judged.items()}
    share = shares["fp32"].mean()
    spread = np.sqrt(share * (1 - share) / SAMPLES)  # of one seed's figure
    assert abs(shares["int8"].mean() - share) < 3 * spread * np.sqrt(2 / SEEDS), shares
