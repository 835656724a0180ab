"""How punctual deadlines are: many calls of `refine(deadline_ms=)` on an energy of a policy's size.

    python benchmarks/jitter.py --out jitter.json

The policy of samplers.py (an encoder, and a perceptron over 512 candidate actions), a new observation at each call. The time of a
call is what its caller sees. Missed is a call that came back after its deadline.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from samplers import CASES

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.device import describe_device, toolchain

CHAINS = 512


def measure(path: Path, backend: str, deadline_ms: float, calls: int) -> dict[str, Any]:
    """Percentiles of the time of a call in milliseconds, misses, and the steps that there was time for."""
    case = CASES["policy"]
    generator = np.random.default_rng(0)
    start = generator.uniform(-1, 1, (CHAINS, *case.shape)).astype(np.float32)
    images = generator.random((16, 1, *case.cond["image"]), dtype=np.float32)
    with load(path, backend=backend, threads=1, fuse=False) as ebm:
        ebm.warm(CHAINS)
        times, steps = np.empty(calls), np.empty(calls)
        for call in range(calls + 20):
            image = images[call % len(images)]
            begun = time.perf_counter()
            best = ebm.refine(start, seed=call, image=image, deadline_ms=deadline_ms, steps=10_000)
            if call >= 20:
                times[call - 20], steps[call - 20] = 1e3 * (time.perf_counter() - begun), best.steps
    return {
        "backend": backend,
        "deadline ms": deadline_ms,
        "calls": calls,
        **{f"p{level:g} ms": float(np.percentile(times, level)) for level in (50, 99, 99.9)},
        "longest ms": float(times.max()),
        "missed": int((times > deadline_ms).sum()),
        "median steps": float(np.median(steps)),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--deadline", type=float, action="append", help="milliseconds; 5 and 10 if left out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    case = CASES["policy"]
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = export(
            case.build().eval(),
            torch.rand(2, *case.shape),
            cond={name: torch.rand(2, *shape) for name, shape in case.cond.items()},
            out=Path(folder) / "policy.ebm",
            targets=["onnxruntime", "openvino"],
            sampler=SamplerConfig(steps=16, step_size=0.01, bounds=(-1, 1)),
            verify=False,
        )
        for backend in ("openvino", "onnxruntime"):
            for deadline in options.deadline or (5.0, 10.0):
                rows.append(measure(path, backend, deadline, options.calls))
                print(json.dumps(rows[-1]), flush=True)
    if options.out is not None:
        result = {"device": describe_device(), "toolchain": toolchain(), "rows": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
