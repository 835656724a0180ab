"""How the time of a step grows with chains, steps and resolution."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from igebm import Igebm
from sampler_cases import CASES, IMAGE
from torch_contestants import torch_run
from turn import seconds_of

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig, load

__all__ = ["growth"]

_ROUNDS = 5
_THREADS = 2


def growth(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Measures milliseconds of a step, medians of five rounds, in which those of one row take turns.

    Args:
        folder: for bundles.

    Returns:
        Rows for "chains" and "steps", of the digits on OpenVINO, and for "resolution", of one chain of the network for CIFAR-10
        beside PyTorch's loop.
    """
    torch.set_num_threads(_THREADS)
    return {**_of_digits(folder / "digits.ebm"), "resolution": [_at(size, folder) for size in (16, 32, 64, 128)]}


def _of_digits(path: Path) -> dict[str, list[dict[str, float]]]:
    case = CASES["digits"]
    export(case.build().eval(), torch.rand(2, *case.shape), out=path, targets=["openvino"], sampler=case.settings)
    rows: dict[str, list[dict[str, float]]] = {"chains": [], "steps": []}
    with load(path, backend="openvino", precision="fp32", threads=_THREADS, fuse=False) as opened:
        for chains in (1, 4, 16, 64, 256, 1024):
            found = _in_turns({"OpenVINO FP32": lambda chains=chains: opened.sample(chains, steps=16)}, 16)
            rows["chains"].append({"chains": chains, **found})
        for steps in (16, 256, 4096):
            found = _in_turns({"OpenVINO FP32": lambda steps=steps: opened.sample(8, steps=steps)}, steps)
            rows["steps"].append({"steps": steps, **found})
    return rows


def _at(size: int, folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    module = Igebm().eval().requires_grad_(False)
    steps = max(2, 256 // size)
    config = SamplerConfig(steps=steps, order="noise-drift", **IMAGE)
    precisions = ["fp32", "bf16"]
    path = export(
        module,
        torch.rand(2, 3, size, size),
        out=folder / f"{size}.ebm",
        targets=["openvino"],
        precisions=precisions,
        sampler=config,
        gate=None,
        verify=False,
    )
    start = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last)
    eager = torch_run(module.to(memory_format=torch.channels_last), start, config)
    runs: dict[str, Callable[[], Any]] = {"PyTorch eager FP32": lambda: eager(steps)}
    with ExitStack() as stack:
        for precision in precisions:
            opened = stack.enter_context(
                load(path, backend="openvino", precision=precision, threads=_THREADS, fuse=False)
            )
            runs[f"OpenVINO {precision.upper()}"] = lambda opened=opened: opened.refine(start.numpy(), steps=steps)
        return {"pixels": size, **_in_turns(runs, steps)}


def _in_turns(runs: dict[str, Callable[[], Any]], steps: int) -> dict[str, float]:
    """Median milliseconds of a step of each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            times[name].append(1e3 * seconds_of(run) / steps)
    return {f"{name}, ms": statistics.median(each) for name, each in times.items()}
