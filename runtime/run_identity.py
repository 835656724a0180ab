"""What tells one run from another, so that a checkpoint is gone on with by its own run alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from .device import GPU, GPUS_JOINED, PROCESSOR, describe_device, toolchain
from .engine import Engine
from .fused_steps import Fused
from .request import Request

__all__ = ["identity_of"]

_LOOKED_AT = 64
"""Starts, where they are drawn, that tell a run from another one."""


def identity_of(
    request: Request,
    *,
    model: str,
    engines: Iterable[Engine],
    files: str,
    fused: Fused | None,
    diverged: str,
    energy_range: tuple[float, float] | None,
    every: int | None,
    out: str | None,
    on_device: bool,
) -> dict[str, Any]:
    """Returns what decides the numbers of a run, as JSON values by the names that a caller knows.

    Args:
        request: the chains.
        model: name of the energy.
        engines: all that may be asked.
        files: fingerprint of what the engines were made from.
        fused: what takes several steps in one call; None where they are taken one by one.
        diverged: as in `run_chains`, like `energy_range`.
        energy_range: energies of a chain that is well.
        every: steps between two rows of the file of states; None where there is none.
        out: that file's name.
        on_device: whether the chains stay on the engine's device, where some sums are rounded otherwise.
    """
    engines = tuple(engines)
    start = request.start
    looked_at = min(request.n, _LOOKED_AT) if start.drawn else request.n
    return {
        "model": model,
        "engines": [_name(engine) for engine in engines],
        "files": files,
        **_rounding(engines),
        "fuse": fused is not None,
        "fused": None if fused is None else fused.fingerprint,
        "switches": {str(step): _name(engine) for step, engine in request.switches.items()},
        "exact": request.exact is not None,
        **request.config.to_dict(),
        "seed": int(request.seed),
        "first": request.first,
        "n": request.n,
        "max_batch": request.batch,
        "diverged": diverged,
        "energy_range": energy_range,
        "every": every,
        "start": _digest(start(range(looked_at))),
        "data": None if start.data is None else _digest(start.data),
        "cond": {name: _digest(array) for name, array in request.cond.items()},
        "keep": None if start.free is None else _digest(start.free),
        "out": out,
        "loop": "on the device" if on_device else None,
    }


def _rounding(engines: Iterable[Engine]) -> dict[str, Any]:
    """What else decides last bits: how many threads share a sum, the processor, the GPU, and the versions of the libraries that compute."""
    parts = [part for engine in engines for part in engine.parts]
    threads = [part.cpu_threads for part in parts]
    asked = ("ebm-export", "numpy", *(part.backend for part in parts))
    # Packages of one library are called alike: onnxruntime-gpu, tensorrt_rtx.
    versions = {name: version for name, version in toolchain().items() if name.startswith(asked)}
    processor = {name: value for name, value in describe_device().items() if name in PROCESSOR}
    gpus = list(dict.fromkeys(part.gpu for part in parts if part.gpu is not None))
    return {
        "threads": threads[0] if len(set(threads)) == 1 else threads,
        **processor,
        **({GPU: GPUS_JOINED.join(gpus)} if gpus else {}),
        **versions,
    }


def _name(engine: Engine) -> str:
    return f"{engine.backend} {getattr(engine, 'precision', '')}".strip()


def _digest(array: np.ndarray) -> str:
    """The beginning of an array's sha256."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
