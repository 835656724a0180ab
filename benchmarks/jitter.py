"""How punctual deadlines are: many calls of `refine(deadline_ms=)` on an energy of a policy's size.

    python benchmarks/jitter.py --out here.json   # beside the results of samplers.py, if it has some of this machine
    python benchmarks/jitter.py --sampler hmc --calls 500 --deadline 30

The policy of samplers.py (an encoder, and a perceptron over 512 candidate actions), a new observation at each call, and a perceptron
on two numbers with 64 chains. The time of a call is what its caller sees. Missed is a call that came back after its deadline. On
OpenVINO each is also run with several steps in one call, in turns with single steps, where the sampler can be.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from results import results_of_this_machine
from sampler_cases import CASES

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.fused_steps import FUSABLE

CHAINS = {"policy": 512, "mlp": 64}
TURN = 50
"""Calls of one contestant before it is the next one's turn."""


class Contestant:
    """A loaded bundle, and the times of its calls.

    Args:
        stack: closes it.
        path: the bundle.
        name: of the network, as in samplers.py.
        backend: that runs it.
        sampler: of its chains.
        fuse: whether several steps go into one call.
    """

    def __init__(self, stack: ExitStack, path: Path, name: str, backend: str, sampler: str, *, fuse: bool) -> None:
        case = CASES[name]
        self.name, self.backend, self.fuse = name, backend, case.fuse if fuse else 0
        self._settings = {"steps": 100_000, "sampler": sampler}
        self._ebm = stack.enter_context(load(path, backend=backend, threads=1, fuse=fuse))
        generator = np.random.default_rng(0)
        self._start = generator.uniform(-1, 1, (CHAINS[name], *case.shape)).astype(np.float32)
        self._cond = {key: generator.random((16, 1, *shape), dtype=np.float32) for key, shape in case.cond.items()}
        self._ebm.warm(CHAINS[name])
        self.times: list[float] = []
        self.steps: list[int] = []

    def turn(self, deadline_ms: float) -> None:
        """Makes some calls, of which the first is not timed."""
        for call in range(TURN + 1):
            cond = {key: rows[call % len(rows)] for key, rows in self._cond.items()}
            begun = time.perf_counter()
            best = self._ebm.refine(self._start, seed=call, deadline_ms=deadline_ms, cond=cond, **self._settings)
            if call:
                self.times.append(1e3 * (time.perf_counter() - begun))
                self.steps.append(best.steps)

    def row(self, deadline_ms: float) -> dict[str, Any]:
        """Percentiles of the time of a call in milliseconds, misses, and the steps that there was time for."""
        return {
            "network": self.name,
            "chains": CHAINS[self.name],
            "backend": self.backend,
            "sampler": self._settings["sampler"],
            "fused": self.fuse,
            "deadline ms": deadline_ms,
            "calls": len(self.times),
            **{f"p{level:g} ms": float(np.percentile(self.times, level)) for level in (50, 99, 99.9)},
            "longest ms": max(self.times),
            "missed": sum(each > deadline_ms for each in self.times),
            "median steps": float(np.median(self.steps)),
        }


def write(name: str, path: Path, sampler: str) -> Path:
    """Exports a network of samplers.py, for one of the runtime's samplers."""
    case = CASES[name]
    torch.manual_seed(0)
    return export(
        case.build().eval(),
        torch.rand(2, *case.shape),
        cond={key: torch.rand(2, *shape) for key, shape in case.cond.items()},
        out=path,
        targets=["onnxruntime", "openvino"],
        sampler=SamplerConfig.from_dict(
            {"steps": case.steps, "step_size": 0.01, "bounds": (-1, 1), "sampler": sampler}
        ),
        fuse=case.fuse if sampler in FUSABLE else None,
        verify=False,
    )


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--deadline", type=float, action="append", help="milliseconds; 5 and 10 if left out")
    parser.add_argument("--sampler", choices=get_args(get_type_hints(SamplerConfig)["sampler"]), default="langevin")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = results_of_this_machine(options.out)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in CHAINS:
            path = write(name, Path(folder) / f"{name}.ebm", options.sampler)
            gc.collect()
            gc.freeze()  # else now and then one call looks through what torch and the export left behind
            ways = (False, True) if options.sampler in FUSABLE else (False,)
            for deadline in options.deadline or (5.0, 10.0):
                with ExitStack() as stack:
                    contestants = [
                        Contestant(stack, path, name, backend, options.sampler, fuse=fuse)
                        for backend, fuse in itertools.product(("openvino", "onnxruntime"), ways)
                    ]
                    for _ in range(0, options.calls, TURN):
                        for contestant in contestants:
                            contestant.turn(deadline)
                    for contestant in contestants:
                        rows.append(contestant.row(deadline))
                        print(json.dumps(rows[-1]), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(result | {"jitter": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
