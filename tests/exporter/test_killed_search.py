"""A search in a process of its own that is killed, again and again, and goes on from its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ebm_export.exporter import save_energy
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.bundle import Bundle

_LIMIT = 600.0
"""Seconds after which a process that says nothing is taken for stuck."""


class Sharp(nn.Module):
    """A perceptron with one layer that INT8 ruins, as what it reads spans orders of magnitude, and two that it does not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.coarse = nn.Linear(8, 32), nn.Linear(32, 32)
        self.fine, self.last = nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.coarse(torch.exp(2.5 * self.first(x))))
        return 4 * self.last(torch.tanh(self.fine(h))).square().sum(1) + 0.5 * x.square().sum(1)


def command(model: Path, out: Path) -> list[str]:
    """The real one. For TensorRT, of which nothing is timed here: a choice by measured times need not come out the same twice."""
    main = "from ebm_export.cli import ebm_export; ebm_export()"
    more = ["--target", "onnx", "--precision", "mixed", "--smallest-difference", "0.5", "--out", str(out)]
    return [sys.executable, "-c", main, str(model), *more]


def killed(model: Path, out: Path, log: Path, lines: int) -> list[dict[str, Any]]:
    """Kills an export as soon as its log has so many lines, in the middle of the trial after them; returns those."""
    begun = time.monotonic()
    with subprocess.Popen(command(model, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < begun + _LIMIT
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_it_ends_with_the_choice_of_one_that_was_left_alone(tmp_path: Path) -> None:
    model = tmp_path / "net.pt2"
    config = SamplerConfig(steps=16, step_size=0.1, temperature=0.5)
    save_energy(Sharp().eval(), model, torch.randn(4, 8), sampler=config)
    whole, out = tmp_path / "whole.ebm", tmp_path / "killed.ebm"
    told = subprocess.run(command(model, whole), check=True, capture_output=True, timeout=_LIMIT, text=True).stderr

    log, seen = tmp_path / "killed.ebm.search.onnx.jsonl", []
    layers = 2
    for more in (
        1,
        3,
        6,
        9,
    ):  # while layers are measured, before anything is tried, in the trial that is hoped for, and in others
        now = killed(model, out, log, layers + more)
        layers = len(now[0]["subject"]["layers"])
        assert now[: len(seen)] == seen
        assert not out.exists()
        seen = now
    refused = [line for line in seen if line.get("passed") is False]
    assert refused, "the search is not over with its first trial"
    again = subprocess.run(command(model, out), check=True, capture_output=True, timeout=_LIMIT, text=True).stderr
    measured = [line["layer"] for line in seen if line.get("key", "").startswith("layer ")]
    assert sorted(measured) == seen[0]["subject"]["layers"], "each once"
    assert "measuring what each layer does" in told and "measuring what each layer does" not in again
    judged = [line["key"] for line in seen if line.get("key", "").startswith("gate ")]
    assert all(f"searching: {key}\n" in told for key in judged)
    assert not any(f"searching: {key}\n" in again for key in judged), "what was tried is not tried again"

    assert sorted(file.name for file in tmp_path.iterdir() if ".search" in file.name) == [], "it needs its log no more"
    choice, wanted = (
        {a.path: (a.precision, a.schedule, a.note, a.files) for a in Bundle(b).artifacts} for b in (out, whole)
    )
    assert choice == wanted
    assert (out / "calibration.json").read_text() == (whole / "calibration.json").read_text()
    gates, others = ([entry.get("gate") for entry in Bundle(b).manifest.verification] for b in (out, whole))
    assert gates == others and any(gates)
    assert (out / "score.mixed.onnx").read_bytes() == (whole / "score.mixed.onnx").read_bytes()
