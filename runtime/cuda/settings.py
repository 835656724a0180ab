"""What the kernels read from device memory: the `Loop` of loop.cuh, field by field."""

from __future__ import annotations

import ctypes
import math

from ..config import SamplerConfig
from ..method import warm_up_steps
from ..noise import BLOCK_NUMBERS

__all__ = ["THREADS", "Loop", "loop_settings"]

THREADS = 256
"""Threads in a thread block of every kernel, as in loop.cuh."""

_WORK = 8  # numbers of a row for each thread of `measure`, where the row is long enough

_CLIP = {"value": 1, "norm": 2}
_BOUNDS = {"project": 1, "reflect": 2}


class Loop(ctypes.Structure):
    """The struct of the same name in loop.cuh, which says what the fields mean; pointers are device addresses."""

    _fields_ = [
        *(
            (name, ctypes.c_uint64)
            for name in (
                *("position", "grad", "energy", "scale", "answer_scale", "factor", "noise", "velocity"),
                *("squares", "precondition", "free"),
                *("best", "best_energy", "lost", "lost_count", "told", "step_size", "sigma", "kept", "tables"),
                *("seed", "stream"),
            )
        ),
        ("first_chain", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("low", "high", "limit", "lowest", "highest", "highest_scale")),
        *((name, ctypes.c_int32) for name in ("step", "steps", "scheduled", "learn_from", "learn_to")),
        *((name, ctypes.c_uint32) for name in ("rows", "size", "block_chains", "lanes")),
        *((name, ctypes.c_int32) for name in ("clip", "bounds")),
    ]


def loop_settings(config: SamplerConfig, rows: int, size: int) -> Loop:
    """Returns a `Loop` with everything set that follows from the settings and the shape.

    Args:
        config: the sampler's settings.
        rows: number of chains.
        size: numbers in one chain.
    """
    low, high = config.bounds or (0.0, 0.0)
    lanes = 1
    while lanes < THREADS and lanes * _WORK < size:
        lanes *= 2
    warm_up = warm_up_steps(config) if config.sampler == "preconditioned" else 0
    return Loop(
        low=low,
        high=high,
        limit=config.grad_clip or 0.0,
        lowest=-math.inf,
        highest=math.inf,
        steps=config.steps,
        scheduled=config.steps,
        learn_from=warm_up // 2,  # in the first half a chain still comes from its start
        learn_to=warm_up,
        rows=rows,
        size=size,
        block_chains=max(1, BLOCK_NUMBERS // size),
        lanes=lanes,
        clip=0 if config.grad_clip is None else _CLIP[config.grad_clip_mode],
        bounds=0 if config.bounds is None else _BOUNDS[config.bounds_mode],
    )
