"""Who takes Langevin steps in samplers.py, each as people would."""

from __future__ import annotations

import itertools
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from sampler_cases import CASES, Case
from torch import nn
from torch_contestants import EACH, Run, with_torch

from ebm_export.exporter import calibrated, export
from ebm_export.exporter.conditions import ENOUGH
from ebm_export.runtime import SamplerConfig, load

__all__ = ["Contestant", "contestants"]

_FEW = 4


class Contestant(NamedTuple):
    """One way to take steps.

    Attributes:
        run: takes them.
        precision: that it computes in.
        memory: arguments of `peak_memory.memory_of` before batch, steps and threads.
        encoded: conditions that go through the encoder at each step; 0 where it is one at the start.
        most: steps of a run, for those that encode a condition for each chain at each step: their steps cost the same, and seconds.
    """

    run: Run
    precision: str
    memory: tuple[object, ...]
    encoded: int = 1
    most: int | None = None


def contestants(stack: ExitStack, name: str, batch: int, folder: Path) -> dict[str, Contestant]:
    """All who run the case of this name, warmed up."""
    case = CASES[name]
    found: dict[str, Contestant] = {}
    for way, (precision, made) in with_torch(case, batch).items():
        each = way.endswith(EACH)
        found[way] = Contestant(
            made(), precision, ("torch", name, way), encoded=batch if each else 1, most=_FEW if each else None
        )
    torch.manual_seed(0)
    module = case.build().eval().requires_grad_(False)
    start = torch.rand(batch, *case.shape)
    arrays = {name: torch.rand(1, *shape).numpy() for name, shape in case.cond.items()}
    path, whole = bundles(case, module, folder)
    graph = whole / "score.fp32.onnx"
    called = onnxruntime_run(graph, start.numpy(), arrays, case.settings, case)
    most = _FEW if case.cond else None
    found["onnxruntime from Python"] = Contestant(called, "fp32", ("onnxruntime", graph), encoded=batch, most=most)
    for backend in ("onnxruntime", "openvino"):
        for precision in case.precisions:
            if backend == "onnxruntime" and precision != "fp32":
                continue  # computes BF16 in float32, and INT8 no faster than that
            for fuse in (False, True) if case.fuse else (False,):
                opened = stack.enter_context(
                    load(path, backend=backend, precision=precision, threads=case.threads, fuse=fuse)
                )
                # A new observation for each run: one that is the last one's is not encoded again.
                seen = itertools.cycle([arrays, {name: 1 - array for name, array in arrays.items()}])
                found[f"ebm-export {backend} {precision}" + (f", {case.fuse} fused" if fuse else "")] = Contestant(
                    lambda steps, opened=opened, seen=seen: opened.refine(start.numpy(), cond=next(seen), steps=steps),
                    precision,
                    ("runtime", path, backend, precision, int(fuse)),
                    encoded=0,
                )
    for run in found.values():
        run.run(run.most or case.steps)
        run.run(run.most or case.steps)
    return found


def bundles(case: Case, module: nn.Module, folder: Path) -> tuple[Path, Path]:
    """Exports a case once; returns the bundle, and one with the score graph in one piece."""
    path, whole = folder / "model.ebm", folder / "whole.ebm"
    calibrated._CHAINS, calibrated._STATES = 8, (8, 8)  # the numbers of INT8 grids do not change the time
    common: dict[str, Any] = {
        "cond": {name: torch.rand(ENOUGH, *shape) for name, shape in case.cond.items()},
        "sampler": case.settings,
        "verify": case.verify,
    }
    x = torch.rand(2, *case.shape)
    if not whole.exists():
        precisions = list(case.precisions)
        targets = ["onnxruntime", "openvino"]
        export(
            module, x, out=path, targets=targets, precisions=precisions, fuse=case.fuse, gate=None, force=True, **common
        )
        export(module, x, out=whole, targets=["onnx"], split=False, **common)
    return path, whole


def onnxruntime_run(
    path: Path, start: np.ndarray, cond: dict[str, np.ndarray], config: SamplerConfig, case: Case
) -> Run:
    """What somebody writes around an exported score graph: a session, and numpy for the rest."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    h = np.float32(np.atleast_1d(config.step_size)[0])
    sigma = np.float32(config.noise if isinstance(config.noise, float) else math.sqrt(2 * h))
    rows = {name: np.repeat(array, len(start), axis=0) for name, array in cond.items()}
    feeds = {"grad_scale": np.ones(len(start), np.float32), **rows}

    def run(steps: int) -> np.ndarray:
        x = start.copy()
        for _ in range(steps):
            (grad,) = session.run(["grad"], {"x": x, **feeds})
            if config.grad_clip is not None:
                grad = np.clip(grad, -config.grad_clip, config.grad_clip)
            x = x - h * grad + sigma * generator.standard_normal(x.shape, dtype=np.float32)
            if config.bounds is not None:
                x = np.clip(x, *config.bounds)
        return x

    return run
