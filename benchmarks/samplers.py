"""Langevin steps side by side: this runtime, PyTorch eager and compiled, torchebm, ebmkit, and onnxruntime called from Python.

    python benchmarks/samplers.py --out samplers.json --docs docs/benchmarks.md
    python benchmarks/samplers.py --net mlp --net policy          # some of the networks

One run measures everything. Contestants take turns, round after round, so that a machine that is busy for a while is busy for all;
the figure is the median over the rounds, and a ratio is the median of the ratios within a round. Everybody takes the same number of
steps of the same sampler from the same kind of start, with as many threads. Weights are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ebm as ebmkit
import numpy as np
import onnxruntime
import torch
import torchebm.core
import torchebm.samplers
from igebm import Igebm
from resnet import Resnet18
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from wide_resnet import WideResNet

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.device import describe_device, toolchain
from ebm_export.runtime.noise import NoiseSource

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))

Run = Callable[[int], object]
"""Takes so many steps."""


class Mlp(nn.Module):
    """Two hidden layers of 128 on two numbers."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).squeeze(1)


class Policy(nn.Module):
    """An encoder of a 96x96 image, and a perceptron over its features and 14 numbers of an action."""

    def __init__(self, encoder: nn.Module | None = None, features: int = 256) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 256)):
            convolutions += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
        self.encoder = encoder or nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        layers = [nn.Linear(features + 14, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 1)]
        self.judge = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        features = self.encoder(image).expand(len(x), -1)  # one image may be that of all candidates
        return self.judge(torch.cat([features, x], 1)).squeeze(1)


def digits() -> nn.Module:
    """The energy of examples/digits."""
    from model import DigitEnergy

    return DigitEnergy()


@dataclass
class Case:
    """A network and how it is run."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    steps: int
    threads: int
    fuse: int | None = None
    cond: dict[str, tuple[int, ...]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32", "bf16")
    rounds: int = 7
    repeats: bool = False
    """Whether PyTorch is also run with the condition repeated for each chain."""


IMAGE = {"step_size": 10.0, "noise": 0.005, "bounds": (0.0, 1.0), "grad_clip": 0.01, "init": "uniform"}
CASES = {
    "mlp": Case(Mlp, (2,), (1, 64, 1024), 512, 1, fuse=32, precisions=("fp32",), rounds=5),
    "policy": Case(
        Policy,
        (14,),
        (512,),
        16,
        2,
        fuse=16,
        cond={"image": (3, 96, 96)},
        config={"bounds": (-1.0, 1.0)},
        repeats=True,
    ),
    "policy_resnet18": Case(
        lambda: Policy(Resnet18(), 512),
        (14,),
        (512,),
        16,
        2,
        fuse=16,
        cond={"image": (3, 96, 96)},
        config={"bounds": (-1.0, 1.0)},
        precisions=("fp32",),
        rounds=3,
    ),
    "digits": Case(digits, (1, 8, 8), (64,), 16, 2, fuse=16, config={"step_size": 0.05, "temperature": 0.05}),
    "igebm_cifar": Case(Igebm, (3, 32, 32), (8,), 4, 2, config=IMAGE, rounds=5),
    "jem_wrn_28_10": Case(WideResNet, (3, 32, 32), (2,), 2, 2, config=IMAGE, rounds=3),
    "igebm_128": Case(Igebm, (3, 128, 128), (1,), 2, 2, config=IMAGE, rounds=3),
}


class _ForTorchebm(torchebm.core.BaseModel):
    """What torchebm's sampler takes."""

    def __init__(self, energy: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.energy(x)


def torch_run(energy: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, config: SamplerConfig) -> Run:
    """The loop that people write: autograd, one update, noise."""
    h = float(np.atleast_1d(config.step_size)[0])
    sigma = (
        config.noise
        if isinstance(config.noise, float)
        else math.sqrt(2 * h * float(np.atleast_1d(config.temperature)[0]))
    )

    def run(steps: int) -> torch.Tensor:
        x = start.clone()
        for _ in range(steps):
            x.requires_grad_()
            (grad,) = torch.autograd.grad(energy(x).sum(), x)
            if config.grad_clip is not None:
                grad = grad.clamp(-config.grad_clip, config.grad_clip)
            x = x.detach() - h * grad + sigma * torch.randn_like(x)
            if config.bounds is not None:
                x = x.clamp(*config.bounds)
        return x

    return run


def contestants(stack: ExitStack, case: Case, batch: int, folder: Path) -> dict[str, Run]:
    """All who run a case, warmed up."""
    torch.manual_seed(0)
    torch.set_num_threads(case.threads)
    module = case.build().eval().requires_grad_(False)
    start = torch.rand(batch, *case.shape)
    cond = {name: torch.rand(1, *shape) for name, shape in case.cond.items()}
    # This order asks the engine once per step, as the others' loops do, and nothing before the first.
    config = SamplerConfig(**({"steps": case.steps, "step_size": 0.01, "order": "noise-drift"} | case.config))
    image = len(case.shape) == 3
    found: dict[str, Run] = {}

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
            found[f"PyTorch eager {said}{last}"] = torch_run(energy(net, low), given, config)
            if layout is layouts[-1]:
                found[f"torch.compile {said}{last}"] = torch_run(energy(torch.compile(net), low), given, config)
    if case.repeats:
        rows = {name: tensor.expand(batch, *tensor.shape[1:]).contiguous() for name, tensor in cond.items()}
        found["PyTorch eager fp32, a condition for each chain"] = torch_run(
            lambda x: module(x, *rows.values()), start, config
        )
    plain = energy(module, False)
    h = float(np.atleast_1d(config.step_size)[0])
    sampler = torchebm.samplers.LangevinDynamics(_ForTorchebm(plain), step_size=h, noise_scale=1.0, clamp=config.bounds)
    found["torchebm"] = lambda steps: sampler.sample(x=start.clone(), n_steps=steps)
    kit = ebmkit.LangevinDynamics(
        step_size=h,
        noise_scale=config.noise,
        grad_clip=config.grad_clip,
        clamp=config.bounds,  # type: ignore[arg-type]
    )
    found["ebmkit"] = lambda steps: kit.sample(plain, start.clone(), steps=steps)

    path = folder / "model.ebm"
    if not path.exists():
        export(
            module,
            torch.rand(2, *case.shape),
            cond={name: torch.rand(2, *shape) for name, shape in case.cond.items()},
            out=path,
            targets=["onnx", "onnxruntime", "openvino"],
            precisions=list(case.precisions),
            sampler=config,
            fuse=case.fuse,
            verify=False,
        )
        export(
            module,
            torch.rand(2, *case.shape),
            cond={name: torch.rand(2, *shape) for name, shape in case.cond.items()},
            out=folder / "whole.ebm",
            targets=["onnx"],
            sampler=config,
            split=False,
            verify=False,
        )
    arrays = {name: tensor.numpy() for name, tensor in cond.items()}
    found["onnxruntime from Python"] = onnxruntime_run(
        folder / "whole.ebm" / "score.fp32.onnx", start.numpy(), arrays, config, case
    )
    for backend in ("onnxruntime", "openvino"):
        for precision in case.precisions:
            if (backend, precision) == ("onnxruntime", "bf16"):
                continue  # computes in float32
            for fuse in (False, True) if case.fuse else (False,):
                opened = stack.enter_context(
                    load(path, backend=backend, precision=precision, threads=case.threads, fuse=fuse)
                )
                name = f"ebm-export {backend} {precision}" + (f", {case.fuse} fused" if fuse else "")
                found[name] = lambda steps, opened=opened: opened.refine(start.numpy(), cond=arrays, steps=steps)
    for run in found.values():
        run(case.steps)
        run(case.steps)
    return found


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


def measure(case: Case, batch: int, folder: Path) -> dict[str, Any]:
    """Milliseconds of a step of every contestant, round by round."""
    with ExitStack() as stack:
        runs = contestants(stack, case, batch, folder)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(case.rounds):
            for name, run in runs.items():
                begun = time.perf_counter()
                run(case.steps)
                times[name].append(1e3 * (time.perf_counter() - begun) / case.steps)
        shares = _shares(case, batch, folder)
    flops = _flops(case, batch)
    rows = {
        name: {
            "median ms": statistics.median(each),
            "p10 ms": float(np.percentile(each, 10)),
            "p90 ms": float(np.percentile(each, 90)),
            "gflops": flops / statistics.median(each) / 1e6,
        }
        for name, each in times.items()
    }
    bests = {}
    for low in ("fp32", "bf16"):
        rivals = [
            name
            for name in times
            if low in name and name.startswith(("PyTorch", "torch.compile")) and not name.endswith("for each chain")
        ]
        ours = [name for name in times if low in name and name.startswith("ebm-export")]
        if not rivals or not ours:
            continue
        best = min(ours, key=lambda name: statistics.median(times[name]))
        for kind, names in (
            ("eager", [name for name in rivals if name.startswith("PyTorch")]),
            ("compile", [name for name in rivals if name.startswith("torch.compile")]),
            ("best PyTorch", rivals),
            ("eager with a condition for each chain,", [n for n in times if n.endswith("for each chain") and low in n]),
        ):
            if not names:
                continue
            ratios = [min(times[name][r] for name in names) / times[best][r] for r in range(case.rounds)]
            bests[f"{kind} {low}"] = {"ours": best, "ratio": statistics.median(ratios)}
    return {
        "batch": batch,
        "steps": case.steps,
        "threads": case.threads,
        "rows": rows,
        "ratios": bests,
        "shares": shares,
    }


def _shares(case: Case, batch: int, folder: Path) -> dict[str, float]:
    """What a step on OpenVINO in FP32 consists of, taken one by one: the engine, and the noise if it were drawn alone."""
    with load(folder / "model.ebm", backend="openvino", precision="fp32", threads=case.threads, fuse=False) as opened:
        generator = np.random.default_rng(0)
        x = generator.random((batch, *case.shape), dtype=np.float32)
        cond = {
            name: np.broadcast_to(generator.random((1, *s), dtype=np.float32), (batch, *s))
            for name, s in case.cond.items()
        }
        engine = opened.engine
        inputs = {"x": x, "grad_scale": np.ones(batch, np.float32), **engine.prepare(cond)}
        source, noise = NoiseSource(0), np.empty_like(x)
        refine = {name: array[:1] for name, array in cond.items()}
        parts: dict[str, list[float]] = {"step": [], "engine": [], "noise": []}
        steps = max(case.steps, 8) if batch * math.prod(case.shape) < 1e5 else case.steps
        for _ in range(case.rounds + 1):
            begun = time.perf_counter()
            opened.refine(x, cond=refine, steps=steps)
            parts["step"].append((time.perf_counter() - begun) / steps)
            begun = time.perf_counter()
            for _ in range(steps):
                engine.run(inputs)
            parts["engine"].append((time.perf_counter() - begun) / steps)
            begun = time.perf_counter()
            for step in range(steps):
                source.normal(step, range(batch), case.shape, noise)
            parts["noise"].append((time.perf_counter() - begun) / steps)
    step = statistics.median(parts["step"][1:])
    return {name: statistics.median(each[1:]) / step for name, each in parts.items() if name != "step"}


def _flops(case: Case, batch: int) -> float:
    """Floating-point operations of one evaluation of E and dE/dx; an encoder's are counted at every step, as PyTorch does them."""
    module = case.build().eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        x = torch.rand(batch, *case.shape, requires_grad=True).clone()  # the counter cannot take a leaf
        energy = module(x, *(torch.rand(1, *shape) for shape in case.cond.values()))
        torch.autograd.grad(energy.sum(), x)
    return float(counter.get_total_flops())


def peaks(threads: int) -> dict[str, float]:
    """GFLOP/s of PyTorch's products of 2048 x 2048 matrices, the best of several."""
    torch.set_num_threads(threads)
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        times = []
        for _ in range(8):
            begun = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - begun)
        found[name] = 2 * 2048**3 / min(times) / 1e9
    return found


def growth(folder: Path) -> dict[str, list[dict[str, float]]]:
    """How the time of a step grows with chains, and of a run with steps, on OpenVINO in FP32; with resolution see the networks."""
    case = CASES["digits"]
    rows: dict[str, list[dict[str, float]]] = {"chains": [], "steps": []}
    with load(folder / "model.ebm", backend="openvino", precision="fp32", threads=case.threads, fuse=False) as opened:
        for chains in (1, 4, 16, 64, 256, 1024):
            opened.sample(chains, steps=4)
            begun = time.perf_counter()
            opened.sample(chains, steps=16)
            rows["chains"].append({"chains": chains, "ms per step": 1e3 * (time.perf_counter() - begun) / 16})
        opened.sample(8, steps=4)
        for steps in (16, 256, 4096):
            begun = time.perf_counter()
            opened.sample(8, steps=steps)
            rows["steps"].append({"steps": steps, "ms per step": 1e3 * (time.perf_counter() - begun) / steps})
    return rows


def document(result: dict[str, Any]) -> str:
    """docs/benchmarks.md."""
    device = ", ".join(f"{name} {value}" for name, value in result["device"].items())
    lines = [
        "# Benchmarks",
        "",
        "Written by `python benchmarks/samplers.py --docs docs/benchmarks.md`, each network in one run, on one machine:",
        f"{device}.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in result['toolchain'].items())}.",
        "",
        "Contestants take turns; a time is the median over the rounds, a ratio the median of the ratios within a round (above 1: this",
        "runtime is faster). All take the same steps with the same number of threads. Weights are random, which does not change the time.",
        "`PyTorch eager` is the loop that people write (autograd, an update, noise); `torch.compile` compiles its energy; `torchebm` and",
        "`ebmkit` are their own samplers; `onnxruntime from Python` calls the exported graph, whole, with numpy around it.",
        "",
    ]
    for net, batches in result["nets"].items():
        for found in batches:
            lines += [f"## {net}, {found['batch']} chains, {found['threads']} thread{'s'[: found['threads'] > 1]}", ""]
            lines += ["| | ms per step | 10 % to 90 % | GFLOP/s |", "| --- | ---: | ---: | ---: |"]
            for name, row in sorted(found["rows"].items(), key=lambda item: item[1]["median ms"]):
                lines.append(
                    f"| {name} | {row['median ms']:.4g} | {row['p10 ms']:.4g} to {row['p90 ms']:.4g} | {row['gflops']:.4g} |"
                )
            lines.append("")
            for name, entry in found["ratios"].items():
                lines.append(f"- {entry['ratio']:.2f} times as fast as {name} ({entry['ours']})")
            shares = found["shares"]
            lines += [
                f"- of a step on OpenVINO in FP32 the engine is {shares['engine']:.0%}; its noise, drawn alone, would be "
                f"{shares['noise']:.1%}",
                "",
            ]
    peak = result["peaks"]
    lines += [
        "GFLOP/s count what PyTorch does for E and dE/dx at each step, an encoder included, so a prologue that is run once shows as more "
        "than there is.",
        f"The machine's own peak in products of large matrices: {peak['fp32']:.0f} in FP32, {peak['bf16']:.0f} in BF16 (PyTorch).",
        "",
    ]
    if "growth" in result:
        for name, rows in result["growth"].items():
            lines += [
                f"## Growth with {name} (digits, OpenVINO, FP32)",
                "",
                f"| {name} | ms per step |",
                "| ---: | ---: |",
            ]
            lines += [f"| {row[name]} | {row['ms per step']:.4g} |" for row in rows]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=list(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "device": describe_device(),
        "toolchain": toolchain() | {"torch": torch.__version__, "torchebm": torchebm.__version__},
        "peaks": peaks(2),
        "nets": {},
    }
    for net in options.net or list(CASES):
        with tempfile.TemporaryDirectory() as folder:
            case = CASES[net]
            result["nets"][net] = []
            for batch in case.batches:
                found = measure(case, batch, Path(folder))
                result["nets"][net].append(found)
                print(f"{net}, {batch} chains", flush=True)
                for name, row in found["rows"].items():
                    print(f"  {name:45s} {row['median ms']:10.4g} ms", flush=True)
                for name, entry in found["ratios"].items():
                    print(f"  {entry['ratio']:6.2f} x {name} ({entry['ours']})", flush=True)
                print(f"  {found['shares']}", flush=True)
            if net == "digits":
                result["growth"] = growth(Path(folder))
        if options.out is not None:  # after every network, so that a kill loses only one
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.docs is not None:
        options.docs.write_text(document(result), encoding="utf-8")


if __name__ == "__main__":
    main()
