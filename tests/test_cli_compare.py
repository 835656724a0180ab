"""The command ebm-compare, run as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.calibration.test_compare import bent, two_engines
from tests.runtime.tiny_bundle import quadratic_graph
from tests.test_cli import command

QUICK = ("--chains", 200, "--batch", 4, "--threads", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and two score graphs made elsewhere, of which one is bent."""
    made = tmp_path_factory.mktemp("cli-compare")
    two_engines(made / "model.ebm")
    onnx.save(quadratic_graph(), made / "same.onnx")
    bent(made / "bent.onnx", 2.0)
    np.save(made / "data.npy", np.zeros((4, 3), np.float32))
    return made


def test_writes_a_report_and_prints_a_table(folder: Path) -> None:
    run = command(
        "ebm-compare", "model.ebm", *QUICK, "--candidate", "same=same.onnx", "--out", "ok", "--require-pass", cwd=folder
    )
    assert run.returncode == 0, run.stderr
    for said in ("ok/report.html", "fp32 onnxruntime", "reference", "same", "passes", "ms per step (batch 4)"):
        assert said in run.stdout
    assert "samples of FP32" in run.stderr
    lines = run.stderr.splitlines()
    report = json.loads((folder / "ok/report.json").read_text())
    assert report["schema_version"] == 1
    assert lines.count(report["power"]) == 1  # where the energy is from, or why there is none
    assert report["power"].startswith(("no electric energy was measured: ", "energy from "))
    assert [engine["name"] for engine in report["engines"]] == ["fp32 onnxruntime", "fp16 onnxruntime", "same"]
    assert (folder / "ok/report.html").read_text().startswith("<!doctype html>")
    kept = sorted(path.suffix for path in (folder / "ok/samples").iterdir())
    assert kept and set(kept) == {".npy"}
    assert not list((folder / "ok").glob("*.part*"))


def test_a_candidate_that_fails(folder: Path) -> None:
    arguments = ("ebm-compare", "model.ebm", *QUICK, "--candidate", "bent=bent.onnx", "--out", "bad")
    run = command(*arguments, "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report == json.loads((folder / "bad/report.json").read_text())
    assert [line.partition(":")[0] for line in report["failures"]] == ["bent"]
    run = command(*arguments, "--require-pass", cwd=folder)
    assert run.returncode == 6
    assert "error: 1 of 2 candidates fail: bent: " in run.stderr
    assert "bent: " in run.stdout and "FAILS" in run.stdout


def test_bounds_of_the_log_likelihood(folder: Path) -> None:
    run = command(
        "ebm-compare", "model.ebm", *QUICK, "--likelihood", 30, "--data", "data.npy", "--out", "likely", cwd=folder
    )
    assert run.returncode == 0, run.stderr
    assert "bounds of the log-likelihood" in run.stderr
    found = json.loads((folder / "likely/report.json").read_text())["likelihood"]
    highest = -1.5 * np.log(2 * np.pi)  # the density at the middle, where all of the data are
    low, high = found["data"]
    assert low - 0.3 < highest < high + 0.3
    assert list(found["engines"]) == ["fp32 onnxruntime", "fp16 onnxruntime"]
    for name in found["engines"]:
        assert found["engines"][name][1] < high - 1
    assert "Log-likelihood" in (folder / "likely/report.html").read_text()


def test_acceptance_of_exact_sampling(folder: Path) -> None:
    schedule = "fp16:0-20,fp32:20-30"
    asked = ("--precision", "fp16", "--precision", schedule, "--exact", "--out", "exact")
    run = command("ebm-compare", "model.ebm", *QUICK, *asked, cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "blocks accepted" in run.stdout
    assert (
        f"no acceptance of exact sampling: {schedule} onnxruntime: exact sampling corrects one precision" in run.stderr
    )
    found = json.loads((folder / "exact/report.json").read_text())["engines"][1]["exact"]
    assert found["block_acceptance"] == pytest.approx(1, abs=1e-5)
    assert 0.999 < found["low"] <= found["high"] <= 1
    assert '<th class="number">blocks accepted</th>' in (folder / "exact/report.html").read_text()


@pytest.mark.parametrize(
    "arguments,code,said",
    [
        (("gone.ebm",), 3, "there is no bundle gone.ebm"),
        (("model.ebm", "--precision", "int8"), 3, "--precision int8: nothing here runs it"),
        (("model.ebm", "--candidate", "a=gone.onnx"), 3, "--candidate a: there is no file gone.onnx"),
        (("model.ebm", "--gate", 1), 2, "error: --gate: expected a number above 1"),
        (("model.ebm", "--smallest-difference", 0), 2, "--smallest-difference: expected a number above 0"),
        (("model.ebm", "--data", "data.npy"), 2, "--data alone is for --likelihood"),
        (("model.ebm", "--ood", "data.npy", "--likelihood", 20), 2, "--data and --ood are needed together"),
        (("model.ebm", "--likelihood", 1), 2, "--likelihood"),
        (("model.ebm", "--cond", "obs=data.npy"), 2, "--cond obs: the model quadratic takes no conditioning input"),
        (("model.ebm", "--features", "gone.onnx"), 3, "there is no feature network gone.onnx"),
        (("model.ebm", "--classes", "gone.onnx"), 3, "there is no classifier gone.onnx; expected FILE.onnx"),
        (("model.ebm", "--features", "pixel"), 3, "network pixel; expected pixels, model or FILE.onnx"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[object, ...], code: int, said: str, folder: Path) -> None:
    run = command("ebm-compare", *arguments, "--out", "none", cwd=folder)
    assert run.returncode == code, run.stderr
    assert said in run.stderr
    assert not (folder / "none").exists()
