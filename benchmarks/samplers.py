"""Langevin steps side by side: this runtime, PyTorch eager and compiled, torchebm, ebmkit, and onnxruntime called from Python.

    python benchmarks/samplers.py --out benchmarks/results/here.json --docs here.md
    python benchmarks/samplers.py --part mlp --part policy ...    # some of it; what --out has of the rest stays

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth import growth
from peak_memory import memory_of
from results import results_of_this_machine
from sampler_cases import CASES, Case
from sampler_contestants import contestants
from sampler_page import document
from step_parts import parts_of
from torch.utils.flop_counter import FlopCounterMode
from turn import seconds_of

_AT_ONCE = "steps at once"


def measure(name: str, batch: int, folder: Path, peak: dict[str, float]) -> dict[str, Any]:
    """Milliseconds of a step of every contestant, round by round, and what each takes of the machine."""
    case = CASES[name]
    with ExitStack() as stack:
        entries = contestants(stack, name, batch, folder)
        times: dict[str, list[float]] = {who: [] for who in entries}
        for _ in range(case.rounds):
            for who, entry in entries.items():
                steps = entry.most or case.steps
                times[who].append(1e3 * seconds_of(partial(entry.run, steps)) / steps)
        parts = {
            who: parts_of(entry.run, case.steps, case.rounds)
            for who, entry in entries.items()
            if who.startswith("ebm-export")
        }
    chains, condition = _work(case, batch)
    rows = {}
    for who, each in times.items():
        entry = entries[who]
        steps = entry.most or case.steps
        operations = chains + condition * (entry.encoded or 1 / steps)
        speed = operations / statistics.median(each) / 1e6
        rows[who] = {
            "median ms": statistics.median(each),
            "p10 ms": float(np.percentile(each, 10)),
            "p90 ms": float(np.percentile(each, 90)),
            "gflops": speed,
            "share of peak": speed / peak[entry.precision],
            "peak MB": memory_of(*entry.memory, batch, steps, case.threads),
            "parts": parts.get(who),
        }
    return {
        "batch": batch,
        "steps": case.steps,
        "threads": case.threads,
        "rows": rows,
        "ratios": _ratios(times, case.rounds),
    }


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


def _work(case: Case, batch: int) -> tuple[float, float]:
    """Floating-point operations of E and dE/dx of a batch, and of encoding one condition before."""
    module = case.build().eval().requires_grad_(False)

    def counted(rows: int) -> float:
        with FlopCounterMode(display=False) as counter:
            x = torch.rand(rows, *case.shape, requires_grad=True).clone()  # the counter cannot take a leaf
            energy = module(x, *(torch.rand(1, *shape) for shape in case.cond.values()))
            torch.autograd.grad(energy.sum(), x)
        return float(counter.get_total_flops())

    once = counted(batch)
    if not case.cond:
        return once, 0.0
    chains = counted(2 * batch) - once  # the encoder's are in both
    return chains, once - chains


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


def _save(result: dict[str, Any], path: Path | None) -> None:
    """Called after every part, so that a kill loses only one."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=[*CASES, "growth"], help="all if left out")
    parser.add_argument("--out", type=Path, help="results as JSON; those of other parts stay in it")
    parser.add_argument("--docs", type=Path, help="the page that is made of --out")
    options = parser.parse_args()
    parts = options.part or [*CASES, "growth"]
    result = results_of_this_machine(options.out)
    if "peaks" not in result:
        result["peaks"] = {str(threads): peaks(threads) for threads in (1, 2)}
    result.setdefault("nets", {})
    for net in (part for part in parts if part in CASES):
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
            _save(result, options.out)
    if "growth" in parts:
        with tempfile.TemporaryDirectory() as folder:
            result["growth"] = growth(Path(folder))
        _save(result, options.out)
    if options.docs is not None:
        # In their own order, whenever each was measured.
        result["nets"] = {net: result["nets"][net] for net in CASES if net in result["nets"]}
        options.docs.write_text(document(result), encoding="utf-8")


if __name__ == "__main__":
    main()
