"""Langevin steps side by side: this runtime, PyTorch eager and compiled, torchebm, ebmkit, and onnxruntime called from Python.

    python benchmarks/samplers.py --out samplers.json --docs docs/benchmarks.md
    python benchmarks/samplers.py --net mlp --net policy          # some of the networks; those in --out from before stay

One run measures everything. Contestants take turns, round after round, so that a machine that is busy for a while is busy for all;
the figure is the median over the rounds, and a ratio is the median of the ratios within a round. A turn begins after a pause, so that
threads of the one before sleep, and with a run that is not timed. Everybody takes the same number of
steps of the same sampler from the same kind of start, with as many threads. Weights are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchebm
from peak_memory import memory_of
from sampler_cases import CASES, Case
from sampler_contestants import Run, contestants
from sampler_page import document
from torch.utils.flop_counter import FlopCounterMode

from ebm_export.runtime import load
from ebm_export.runtime.device import describe_device, toolchain
from ebm_export.runtime.noise import NoiseSource

_AT_ONCE = "steps at once"
_PAUSE = 0.3
_LONG = 1.0
"""Seconds between two runs, and of a run that needs no other one before it."""


def measure(name: str, batch: int, folder: Path, peak: dict[str, float]) -> dict[str, Any]:
    """Milliseconds of a step of every contestant, round by round, and what each takes of the machine."""
    case = CASES[name]
    with ExitStack() as stack:
        entries = contestants(stack, name, batch, folder)
        times: dict[str, list[float]] = {who: [] for who in entries}
        for _ in range(case.rounds):
            for who, entry in entries.items():
                steps = entry.most or case.steps
                times[who].append(1e3 * _seconds(entry.run, steps) / steps)
        shares = _shares(case, batch, folder)
    flops = _flops(case, batch)
    rows = {}
    for who, each in times.items():
        entry = entries[who]
        speed = flops / statistics.median(each) / 1e6
        rows[who] = {
            "median ms": statistics.median(each),
            "p10 ms": float(np.percentile(each, 10)),
            "p90 ms": float(np.percentile(each, 90)),
            "gflops": speed,
            "share of peak": speed / peak[entry.precision],
            "peak MB": None
            if entry.memory is None
            else memory_of(*entry.memory, batch, entry.most or case.steps, case.threads),
        }
    return {
        "batch": batch,
        "steps": case.steps,
        "threads": case.threads,
        "encodes": bool(case.cond),
        "rows": rows,
        "ratios": _ratios(times, case.rounds),
        "shares": shares,
    }


def _seconds(run: Run, steps: int) -> float:
    """Seconds of a run, by itself: after the one before has let go of the cores, and with its own data in the caches.

    Threads of OpenMP wait for their next work with a loop that keeps a core busy, for up to a fifth of a second.
    """
    time.sleep(_PAUSE)
    begun = time.perf_counter()
    run(steps)
    first = time.perf_counter() - begun
    if first > _LONG:
        return first  # what is in the caches at its start makes no difference
    begun = time.perf_counter()
    run(steps)
    return time.perf_counter() - begun


def _ratios(times: dict[str, list[float]], rounds: int) -> dict[str, dict[str, Any]]:
    """How many times as fast as PyTorch the fastest of ours is in each precision: the median over the rounds."""
    repeated = [who for who in times if who.endswith("for each chain")]
    torches = [who for who in times if who.startswith(("PyTorch", "torch.compile")) and who not in repeated]
    found = {}
    for precision in ("fp32", "bf16", "int8"):
        ours = [who for who in times if who.startswith("ebm-export") and precision in who]
        if not ours:
            continue
        best = min(ours, key=lambda who: statistics.median(times[who]))
        same = (
            torches if precision == "int8" else [who for who in torches if precision in who]
        )  # PyTorch has no such INT8
        groups = {
            "best PyTorch": same,
            "eager": [who for who in same if who.startswith("PyTorch")],
            "compile": [who for who in same if who.startswith("torch.compile") and not who.endswith(_AT_ONCE)],
            "compile of several steps": [who for who in same if who.endswith(_AT_ONCE)],
            "eager with a condition for each chain": repeated if precision == "fp32" else [],
        }
        for kind, names in groups.items():
            if names and (precision != "int8" or kind == "best PyTorch"):
                said = f"{kind} in any precision" if precision == "int8" else f"{kind}, {precision}"
                ratios = [min(times[who][index] for who in names) / times[best][index] for index in range(rounds)]
                found[said] = {"ours": best, "ratio": statistics.median(ratios)}
    return found


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
    """GFLOP/s (INT8: GOP/s) of PyTorch in large products and convolutions, the most that it reached in seconds of either."""
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = "onednn"
    matrix, images = torch.randn(2048, 2048), torch.randn(8, 256, 64, 64).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False).to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        # It says that torch.ao is to go; there is no other way to INT8 with weights laid out beforehand.
        warnings.simplefilter("ignore")
        linear8, convolution8 = torch.ao.nn.quantized.Linear(2048, 2048), torch.ao.nn.quantized.Conv2d(256, 256, 3)
        linear8(torch.quantize_per_tensor(matrix, 0.05, 0, torch.quint8))
    matrix8, images8 = (torch.quantize_per_tensor(tensor, 0.05, 0, torch.quint8) for tensor in (matrix, images))
    low, low_images = matrix.bfloat16(), images.bfloat16()
    low_convolution = copy.deepcopy(convolution).bfloat16()
    products, places = 2 * 2048**3, 2 * 256 * 256 * 9 * 8
    ways: dict[str, list[tuple[float, Callable[[], object]]]] = {
        "fp32": [(products, lambda: matrix @ matrix), (places * 64**2, lambda: convolution(images))],
        "bf16": [(products, lambda: low @ low), (places * 64**2, lambda: low_convolution(low_images))],
        "int8": [(products, lambda: linear8(matrix8)), (places * 62**2, lambda: convolution8(images8))],
    }
    return {name: max(work / _best(call) for work, call in own) / 1e9 for name, own in ways.items()}


def _best(call: Callable[[], object], seconds: float = 1.5) -> float:
    """The shortest of the calls that fit into so many seconds."""
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
    return best


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
        "peaks": {str(threads): peaks(threads) for threads in (1, 2)},
        "nets": {},
    }
    if options.out is not None and options.out.exists():
        before = json.loads(options.out.read_text(encoding="utf-8"))
        if (before["device"], before["toolchain"]) == (result["device"], result["toolchain"]):
            result = before
    for net in options.net or list(CASES):
        with tempfile.TemporaryDirectory() as folder:
            case = CASES[net]
            result["nets"][net] = []
            for batch in case.batches:
                found = measure(net, batch, Path(folder), result["peaks"][str(case.threads)])
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
        # In their own order, whenever each was measured.
        result["nets"] = {net: result["nets"][net] for net in CASES if net in result["nets"]}
        options.docs.write_text(document(result, str(options.docs)), encoding="utf-8")


if __name__ == "__main__":
    main()
