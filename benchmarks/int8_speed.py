"""Times INT8 on OpenVINO beside the best that PyTorch does, on the IGEBM network for CIFAR-10 (128 channels, batch 8).

    python benchmarks/int8_speed.py --out result.json

One run measures everything, in turns: a machine that is busy for a while is busy for all. The figure is the median
over the rounds of the ratio within a round. What is timed is one evaluation of E and dE/dx, which is a step of a chain but
for its noise (about 1 % of it). Weights are random: they do not change the time. How good the samples of
INT8 are is another question, which `ebm-export` answers for trained models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from igebm import Igebm

from ebm_export.exporter import calibrated, export
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends import open_engine
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.choice import choose

CONFIG = SamplerConfig(steps=8, step_size=10.0, noise=0.005, bounds=(0, 1), grad_clip=0.01, init="uniform")
Call = Callable[[], object]


WAYS = ("eager", "torch.compile", "torch.compile of both")
"""Of PyTorch: as it stands, with the energy compiled, and with the energy and its gradient in one compiled function."""


def torch_call(model: torch.nn.Module, x: torch.Tensor, *, low: bool, channels_last: bool, way: str) -> Call:
    """E and dE/dx in one of `WAYS`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = model.to(memory_format=layout)
    state = x.to(memory_format=layout).clone()
    if way == "torch.compile of both":

        def total(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                energy = net(x)
            return energy.sum(), energy

        both = torch.compile(torch.func.grad(total, has_aux=True))
        return torch.no_grad()(lambda: both(state))
    run = torch.compile(net) if way == "torch.compile" else net
    state.requires_grad_()

    def call() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            energy = run(state)
        return torch.autograd.grad(energy.sum(), state)

    return call


def engine_call(
    stack: ExitStack,
    bundle: Bundle,
    precision: str,
    inputs: dict[str, np.ndarray],
    threads: int,
    library: str = "openvino",
) -> Call:
    """E and dE/dx by an engine of the bundle."""
    artifact, backend, *_ = choose(bundle, library, precision)
    engine = stack.enter_context(
        open_engine(
            backend,
            bundle.file_of(artifact),
            precision=precision,
            threads=threads,
            options=dict(artifact.options),
        )
    )
    return lambda: engine.run(inputs)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = Igebm(options.width).eval().requires_grad_(False)
    x = torch.rand(options.batch, 3, 32, 32)
    inputs = {"x": x.numpy(), "grad_scale": np.full(options.batch, 50, np.float32)}
    calls: dict[str, Call] = {}
    # The numbers of the grids do not change the time, so few states serve.
    calibrated._CHAINS, calibrated._STATES = 32, (32, 32)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = export(
            model, x, out=Path(folder) / "igebm.ebm", targets=["openvino"], precisions=["fp32", "bf16", "int8"],
            sampler=CONFIG, batch=(1, options.batch, options.batch), gate=None, verify=False,
        )  # fmt: skip
        for way in WAYS:
            for low in (False, True):
                for channels_last in (False, True):
                    words = [way, "BF16" if low else "FP32"]
                    words += ["channels last"] * channels_last
                    calls[f"PyTorch {' '.join(words)}"] = torch_call(
                        Igebm(options.width).eval().requires_grad_(False) if channels_last else model,
                        x, low=low, channels_last=channels_last, way=way,
                    )  # fmt: skip
        for precision in ("fp32", "bf16", "int8"):
            calls[f"OpenVINO {precision.upper()}"] = engine_call(
                stack, Bundle(path), precision, inputs, options.threads
            )
        times = measure(calls, options.rounds)
    report(times, options)


def measure(calls: dict[str, Call], rounds: int, *, pause: float = 0.0, together: int = 1) -> dict[str, np.ndarray]:
    """Milliseconds of every call in every round.

    Args:
        calls: take turns; the order is turned round from round to round, and two rounds before the first are not counted.
        rounds: how many are counted.
        pause: seconds before each, for what lasts a few milliseconds: threads of the one before sleep then. It is called three times
            after that, which do not count either.
        together: so many calls are timed as one.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name in calls if number % 2 else reversed(calls):
            if pause:
                time.sleep(pause)
                for _ in range(3):
                    calls[name]()
            begun = time.perf_counter()
            for _ in range(together):
                calls[name]()
            if number >= 2:  # compiled and warm
                times[name].append(1e3 * (time.perf_counter() - begun) / together)
        print(f"round {number + 1} of {rounds + 2}", file=sys.stderr)
    return {name: np.array(values) for name, values in times.items()}


def report(times: dict[str, np.ndarray], options: argparse.Namespace) -> None:
    """Prints a table and writes the JSON file."""
    theirs = {name: values for name, values in times.items() if name.startswith("PyTorch")}
    best = min(theirs, key=lambda name: float(np.median(theirs[name])))
    rows = [
        {
            "what": name,
            "median ms": float(np.median(values)),
            "p10 ms": float(np.percentile(values, 10)),
            "p90 ms": float(np.percentile(values, 90)),
            "times as fast as the best of PyTorch": float(np.median(theirs[best] / values)),
        }
        for name, values in times.items()
    ]
    print(f"| | median ms | 10 % to 90 % | times as fast as {best} |\n| --- | --- | --- | --- |")
    for row in rows:
        spread = f"{row['p10 ms']:.1f} to {row['p90 ms']:.1f}"
        ratio = row["times as fast as the best of PyTorch"]
        print(f"| {row['what']} | {row['median ms']:.1f} | {spread} | {ratio:.2f} |")
    if options.out is not None:
        machine = {"machine": platform.platform(), "threads": options.threads, "torch": torch.__version__}
        found = {**machine, "width": options.width, "batch": options.batch, "rounds": options.rounds, "rows": rows}
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
