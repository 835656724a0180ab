"""Who takes Langevin steps in PyTorch in samplers.py, each as people would."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sampler_cases import Case
from torch import nn

from ebm_export.runtime import SamplerConfig

__all__ = ["EACH", "Run", "with_torch"]

EACH = ", a condition for each chain"
"""How the name of who encodes a condition for each chain ends."""

Run = Callable[[int], object]
"""Takes so many steps."""


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


def with_torch(case: Case, batch: int) -> dict[str, tuple[str, Callable[[], Run]]]:
    """(precision, what makes the run) of everybody who runs a case in PyTorch; nothing is compiled before it is made."""
    torch.manual_seed(0)
    torch.set_num_threads(case.threads)
    module = case.build().eval().requires_grad_(False)
    start = torch.rand(batch, *case.shape)
    cond = {name: torch.rand(1, *shape) for name, shape in case.cond.items()}
    config = case.settings
    image = len(case.shape) == 3
    found: dict[str, tuple[str, Callable[[], Run]]] = {}

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
            own = energy(net, low)
            found[f"PyTorch eager {said}{last}"] = (said, partial(torch_run, own, given, config))
            if layout is layouts[-1]:

                def compiled(net: nn.Module = net, low: bool = low, given: torch.Tensor = given) -> Run:
                    return torch_run(energy(torch.compile(net), low), given, config)

                found[f"torch.compile {said}{last}"] = (said, compiled)
                found[f"torch.compile {said}{last}, whole step"] = (said, partial(compiled_run, own, given, config))
                if case.fuse and not case.cond:  # else the encoder is compiled as many times, for minutes
                    several = partial(compiled_run, own, given, config, case.fuse)
                    found[f"torch.compile {said}{last}, {case.fuse} steps at once"] = (said, several)
    if case.repeats:
        rows = {name: tensor.expand(batch, *tensor.shape[1:]).contiguous() for name, tensor in cond.items()}
        repeated = partial(torch_run, lambda x: module(x, *rows.values()), start, config)
        found[f"PyTorch eager fp32{EACH}"] = ("fp32", repeated)
    plain = energy(module, False)
    h = float(np.atleast_1d(config.step_size)[0])

    def with_torchebm() -> Run:
        import torchebm.core  # here, as it and ebmkit would be in the memory of those who do without
        import torchebm.samplers

        class Energy(torchebm.core.BaseModel):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return plain(x)

        sampler = torchebm.samplers.LangevinDynamics(Energy(), step_size=h, noise_scale=1.0, clamp=config.bounds)
        return lambda steps: sampler.sample(x=start.clone(), n_steps=steps)

    def with_ebmkit() -> Run:
        import ebm as ebmkit

        kit = ebmkit.LangevinDynamics(
            step_size=h,
            noise_scale=config.noise,
            grad_clip=config.grad_clip,
            clamp=config.bounds,  # type: ignore[arg-type]
        )
        return lambda steps: kit.sample(plain, start.clone(), steps=steps)

    return found | {"torchebm": ("fp32", with_torchebm), "ebmkit": ("fp32", with_ebmkit)}
