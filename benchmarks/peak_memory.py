"""The largest resident memory of a process that draws samples and does nothing else.

    python benchmarks/peak_memory.py runtime BUNDLE BACKEND PRECISION FUSED BATCH STEPS THREADS
    python benchmarks/peak_memory.py onnxruntime FILE.onnx BATCH STEPS THREADS
    python benchmarks/peak_memory.py torch CASE "PyTorch eager fp32" BATCH STEPS THREADS

Prints megabytes. `samplers.py` asks it for each contestant; what PyTorch compiles is compiled in the process that is measured.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["memory_of"]


def memory_of(*arguments: object) -> float:
    """Returns the peak in megabytes of a fresh process with these arguments."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _runtime(path: str, backend: str, precision: str, fused: str, batch: str, steps: str, threads: str) -> None:
    import numpy as np

    from ebm_export.runtime import load

    with load(path, backend=backend, precision=precision, threads=int(threads), fuse=fused == "1") as ebm:
        cond = {spec.called: np.zeros((1, *spec.shape), spec.dtype) for spec in ebm.model.cond}
        ebm.sample(int(batch), 0, steps=int(steps), cond=cond)


def _onnxruntime(path: str, batch: str, steps: str, threads: str) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {
        port.name: np.zeros([int(batch), *port.shape[1:]], np.float32) for port in session.get_inputs()
    }
    for _ in range(int(steps)):
        (grad,) = session.run(["grad"], feeds)
        feeds["x"] = feeds["x"] - np.float32(0.01) * grad


def _torch(case: str, way: str, batch: str, steps: str, threads: str) -> None:
    from sampler_cases import CASES
    from torch_contestants import with_torch

    own = CASES[case]
    assert own.threads == int(threads)
    _, made = with_torch(own, int(batch))[way]
    made()(int(steps))


def main() -> None:
    """Draws, and prints the peak."""
    if len(sys.argv) < 2 or sys.argv[1] not in _KINDS:
        sys.exit(__doc__)
    _KINDS[sys.argv[1]](*sys.argv[2:])
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000)


_KINDS = {"runtime": _runtime, "onnxruntime": _onnxruntime, "torch": _torch}

if __name__ == "__main__":
    main()
