"""Who takes Langevin steps in samplers.py, each as people would."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import ebm as ebmkit
import numpy as np
import onnxruntime
import torch
import torchebm.core
import torchebm.samplers
from sampler_cases import CASES, Case
from torch import nn

from ebm_export.exporter import calibrated, export
from ebm_export.exporter.conditions import ENOUGH
from ebm_export.runtime import SamplerConfig, load

__all__ = ["Contestant", "Run", "contestants"]

_FEW = 4

Run = Callable[[int], object]
"""Takes so many steps."""


class Contestant(NamedTuple):
    """One way to take steps.

    Attributes:
        run: takes them.
        precision: that it computes in.
        memory: arguments of `peak_memory.memory_of` before batch, steps and threads; None where it is not measured.
        most: steps of a run, for those that encode a condition for each chain at each step: their steps cost the same, and seconds.
    """

    run: Run
    precision: str = "fp32"
    memory: tuple[object, ...] | None = None
    most: int | None = None


class _ForTorchebm(torchebm.core.BaseModel):
    """What torchebm's sampler takes."""

    def __init__(self, energy: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.energy(x)


def torch_run(energy: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, config: SamplerConfig) -> Run:
    """The loop that people write: autograd, one update, noise."""
    update = _update(config)

    def run(steps: int) -> torch.Tensor:
        x = start.clone()
        for _ in range(steps):
            x.requires_grad_()
            (grad,) = torch.autograd.grad(energy(x).sum(), x)
            x = update(x.detach(), grad)
        return x

    return run


def compiled_run(
    energy: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, config: SamplerConfig, at_once: int = 1
) -> Run:
    """The same loop with everything that a step does in one compiled function, or in one of several steps.

    The gradient is `torch.func.grad`'s, which torch.compile looks into, as it does not into `torch.autograd.grad`.
    """
    update = _update(config)
    gradient = torch.func.grad(lambda x: energy(x).sum())

    @torch.compile
    def advance(x: torch.Tensor) -> torch.Tensor:
        for _ in range(at_once):
            x = update(x, gradient(x))
        return x

    @torch.no_grad()
    def run(steps: int) -> torch.Tensor:
        assert steps % at_once == 0
        x = start.clone()
        for _ in range(steps // at_once):
            x = advance(x)
        return x

    return run


def _update(config: SamplerConfig) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(x, gradient) -> the next x."""
    h = float(np.atleast_1d(config.step_size)[0])
    sigma = (
        config.noise
        if isinstance(config.noise, float)
        else math.sqrt(2 * h * float(np.atleast_1d(config.temperature)[0]))
    )

    def update(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        if config.grad_clip is not None:
            grad = grad.clamp(-config.grad_clip, config.grad_clip)
        x = x - h * grad + sigma * torch.randn_like(x)
        return x if config.bounds is None else x.clamp(*config.bounds)

    return update


def contestants(stack: ExitStack, name: str, batch: int, folder: Path) -> dict[str, Contestant]:
    """All who run the case of this name, warmed up."""
    case = CASES[name]
    torch.manual_seed(0)
    torch.set_num_threads(case.threads)
    module = case.build().eval().requires_grad_(False)
    start = torch.rand(batch, *case.shape)
    cond = {name: torch.rand(1, *shape) for name, shape in case.cond.items()}
    config = case.settings
    image = len(case.shape) == 3
    found: dict[str, Contestant] = {}

    def energy(net: Callable[..., torch.Tensor], low: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        def lowered(x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return net(x, *cond.values()).float()

        return lowered if low else lambda x: net(x, *cond.values())

    low_types = (False, True) if "bf16" in case.precisions else (False,)
    for low in low_types:
        said = "bf16" if low else "fp32"
        layouts = (torch.contiguous_format, torch.channels_last) if image else (torch.contiguous_format,)
        for layout in layouts:
            net = case.build().eval().requires_grad_(False)
            net.load_state_dict(module.state_dict())
            net = net.to(memory_format=layout)
            last = ", channels last" if layout is torch.channels_last else ""
            given = start.contiguous(memory_format=layout)
            eager = torch_run(energy(net, low), given, config)
            plain_one = not low and layout is layouts[0]
            found[f"PyTorch eager {said}{last}"] = Contestant(eager, said, ("torch", name) if plain_one else None)
            if layout is layouts[-1]:
                compiled = torch_run(energy(torch.compile(net), low), given, config)
                found[f"torch.compile {said}{last}"] = Contestant(compiled, said)
                whole_step = compiled_run(energy(net, low), given, config)
                found[f"torch.compile {said}{last}, whole step"] = Contestant(whole_step, said)
                if case.fuse and not case.cond:  # else the encoder is compiled as many times, for minutes
                    several = compiled_run(energy(net, low), given, config, case.fuse)
                    found[f"torch.compile {said}{last}, {case.fuse} steps at once"] = Contestant(several, said)
    if case.repeats:
        rows = {name: tensor.expand(batch, *tensor.shape[1:]).contiguous() for name, tensor in cond.items()}
        repeated = torch_run(lambda x: module(x, *rows.values()), start, config)
        found["PyTorch eager fp32, a condition for each chain"] = Contestant(repeated, most=_FEW)
    plain = energy(module, False)
    h = float(np.atleast_1d(config.step_size)[0])
    sampler = torchebm.samplers.LangevinDynamics(_ForTorchebm(plain), step_size=h, noise_scale=1.0, clamp=config.bounds)
    found["torchebm"] = Contestant(lambda steps: sampler.sample(x=start.clone(), n_steps=steps))
    kit = ebmkit.LangevinDynamics(
        step_size=h,
        noise_scale=config.noise,
        grad_clip=config.grad_clip,
        clamp=config.bounds,  # type: ignore[arg-type]
    )
    found["ebmkit"] = Contestant(lambda steps: kit.sample(plain, start.clone(), steps=steps))

    path, whole = bundles(case, module, folder)
    arrays = {name: tensor.numpy() for name, tensor in cond.items()}
    graph = whole / "score.fp32.onnx"
    called = onnxruntime_run(graph, start.numpy(), arrays, config, case)
    most = _FEW if case.cond else None
    found["onnxruntime from Python"] = Contestant(called, "fp32", ("onnxruntime", graph), most)
    for backend in ("onnxruntime", "openvino"):
        for precision in case.precisions:
            if backend == "onnxruntime" and precision != "fp32":
                continue  # computes BF16 in float32, and INT8 no faster than that
            for fuse in (False, True) if case.fuse else (False,):
                opened = stack.enter_context(
                    load(path, backend=backend, precision=precision, threads=case.threads, fuse=fuse)
                )
                found[f"ebm-export {backend} {precision}" + (f", {case.fuse} fused" if fuse else "")] = Contestant(
                    lambda steps, opened=opened: opened.refine(start.numpy(), cond=arrays, steps=steps),
                    precision,
                    ("runtime", path, backend, precision, int(fuse)),
                )
    for run in found.values():
        run.run(run.most or case.steps)
        run.run(run.most or case.steps)
    return found


def bundles(case: Case, module: nn.Module, folder: Path) -> tuple[Path, Path]:
    """Exports a case once; returns the bundle, and one with the score graph in one piece."""
    path, whole = folder / "model.ebm", folder / "whole.ebm"
    calibrated._CHAINS, calibrated._STATES = 32, (32, 32)  # the numbers of INT8 grids do not change the time
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
