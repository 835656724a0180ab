"""First answers of engines, asked for before they count: libraries compile, reserve memory and start threads for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import numpy as np

from .config import SamplerConfig
from .engine import Engine
from .errors import DivergenceError
from .fused_steps import Fused
from .gradient_scale import ScaledScore
from .manifest import ModelSpec
from .noise import normal
from .progress import on_the_host
from .run import run_chains
from .shared_rows import RowsApart

__all__ = ["blank_conditions", "warm_block", "warm_steps"]


def blank_conditions(model: ModelSpec, rows: int) -> dict[str, np.ndarray]:
    """Returns conditioning inputs of zeros by graph name, [rows, ...]; all rows share one row's memory."""
    return {spec.name: np.broadcast_to(np.zeros(spec.shape, spec.dtype), (rows, *spec.shape)) for spec in model.cond}


def warm_steps(engines: Iterable[Engine], model: ModelSpec, rows: int) -> None:
    """Asks open engines for one answer to this many samples, with one condition for all of them and with one for each."""
    cond = {name: array.copy() for name, array in blank_conditions(model, rows).items()}
    for engine in engines:
        engine.ready(cond)
        for one in _in_both_forms(engine, cond):
            ScaledScore(one, cond)(normal(0, 0, range(rows), model.x.shape))


def warm_block(engine: Engine, fused: Fused, model: ModelSpec, config: SamplerConfig, n: int) -> None:
    """Takes one block of fused steps of n chains; `engine` is that of single steps, and both are open."""
    settings, cond = config.replace(steps=fused.count, warmup=0), blank_conditions(model, n)
    for one in _in_both_forms(engine, cond):
        with contextlib.suppress(DivergenceError):  # of noise, which is no start of this model's chains
            run_chains(
                one,
                settings,
                lambda chains: normal(0, 0, chains, model.x.shape),
                n,
                cond=cond,
                callback=on_the_host,
                fused=fused,
            )


def _in_both_forms(engine: Engine, cond: Mapping[str, np.ndarray]) -> list[Engine]:
    """An engine as it takes a condition that all samples share and, where it takes others in another way, as it takes these."""
    rows = max(map(len, cond.values()), default=0)
    shares = any(len(array) < rows for array in engine.prepare(cond).values()) if cond else False
    return [engine, RowsApart(engine)] if shares else [engine]
