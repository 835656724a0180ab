"""A batch of chains for kernels that are launched one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_export.runtime.cuda.settings import THREADS

from .emulator import Emulator, Memory

SETTINGS: list[dict[str, Any]] = [
    {},
    {"grad_clip": 1.5},
    {"grad_clip": 3.0, "grad_clip_mode": "norm"},
    {"bounds": (-0.7, 0.9)},
    {"bounds": (-0.3, 0.2), "bounds_mode": "reflect", "grad_clip": 2.0},
]
"""What a step does with gradients and bounds."""


def batch(rows: int, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of a `Loop` with the answer of an engine in them."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.uniform(-5, 5, rows)).astype(np.float32)
    return {
        "position": rng.standard_normal((rows, size)).astype(np.float32),
        "noise": rng.standard_normal((rows, size)).astype(np.float32),
        "grad": (rng.standard_normal((rows, size)) * scale[:, None] * 2).astype(np.float32),
        "answer_scale": scale,
        "energy": rng.standard_normal(rows).astype(np.float32),
    }


def mask(rows: int, size: int) -> np.ndarray:
    """`Loop::free` of chains some of whose numbers stay."""
    return (np.random.default_rng(1).uniform(size=(rows, size)) < 0.7).astype(np.float32)


def measured(emulator: Emulator, memory: Memory, ahead: int = 0) -> None:
    """Runs `measure` on all rows."""
    emulator.launch("measure", _blocks(memory), memory.address, ahead)


def settled(emulator: Emulator, memory: Memory) -> None:
    """Runs `settle` on all rows."""
    emulator.launch("settle", _blocks(memory), memory.address)


def _blocks(memory: Memory) -> int:
    rows_of_a_block = THREADS // memory.loop.lanes
    return -(-memory.loop.rows // rows_of_a_block)
