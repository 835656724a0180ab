"""A loaded energy-based model: scores and samples."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .arguments import check_conditions, check_count, check_states, split_keywords
from .artifact_engine import engine_of
from .bundle import Bundle
from .chain import Callback, run_chains
from .choice import choose
from .config import SamplerConfig
from .engine import Engine
from .errors import UsageError
from .gradient_scale import ScaledScore
from .manifest import ModelSpec
from .start import start_states

__all__ = ["Ebm", "load"]

_LOG = logging.getLogger("ebm_export")

_BATCH_NUMBERS = 2**18
"""Numbers of x in one engine call, where nothing else limits the batch: 1 MiB of float32. A network of 64
channels then holds 64 MiB for each activation that it keeps for the gradient."""


class Ebm:
    """An energy-based model on an engine. A context manager; `close` frees the engine.

    `load` makes one from a bundle. Made directly, it runs any engine, such as a `FunctionEngine`.

    Args:
        engine: open by the time of the first call; closed with the Ebm.
        model: what the energy takes.
        sampler: settings that calls start from.
        data: [M, *S] float32 states for init="data", where a call gives none.
        max_batch: most samples in one engine call; None picks about 2**18 numbers of x.
        choice: one line that says which engine this is and why.

    Attributes:
        model: what the energy takes.
        sampler: settings that calls start from.
        choice: one line that says which engine this is and why.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModelSpec,
        sampler: SamplerConfig | None = None,
        *,
        data: np.ndarray | None = None,
        max_batch: int | None = None,
        choice: str = "",
    ) -> None:
        self.model = model
        self.sampler = sampler or SamplerConfig()
        self.choice = choice
        self._engine = engine
        self._data = None if data is None else check_states("data", data, model.x.shape)
        if max_batch is not None:
            check_count("max_batch", max_batch)
        self._max_batch = max_batch or max(1, _BATCH_NUMBERS // math.prod(model.x.shape))

    def score(self, x: Any, /, **cond: Any) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the energy and its gradient.

        There is no running gradient scale here, so the engine is asked twice: once to find the scale, once to answer.

        Args:
            x: [B, *S], any real type; computed in float32.
            **cond: conditioning arrays by name, each with B rows, or 1 that all samples share.

        Returns:
            energy [B] float32 and dE/dx [B, *S] float32, both new arrays.

        Raises:
            UsageError: an argument has a wrong name, type or shape.
        """
        states = check_states("x", x, self.model.x.shape)
        conditions = check_conditions(cond, self.model.cond, len(states))
        energies = np.empty(len(states), dtype=np.float32)
        grads = np.empty_like(states)
        for first in range(0, len(states), self._max_batch):
            rows = slice(first, first + self._max_batch)
            batch = states[rows]
            shared = {
                name: np.ascontiguousarray(np.broadcast_to(array, (len(batch), *array.shape[1:])))
                if len(array) == 1
                else array[rows]
                for name, array in conditions.items()
            }
            energies[rows], grads[rows] = ScaledScore(self._engine, shared)(batch)
        return energies, grads

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        x0: Any = None,
        data: Any = None,
        config: SamplerConfig | None = None,
        cond: Mapping[str, Any] | None = None,
        max_batch: int | None = None,
        callback: Callback | None = None,
        **keywords: Any,
    ) -> np.ndarray:
        """Runs n chains and returns where they end.

        Chain i's start and noise depend on the seed and on i alone, not on n or on how chains are batched.

        Args:
            n: number of chains, at least 1.
            seed: whole number, at least 0 and below 2**64.
            x0: [n, *S] or [1, *S] states to start from, in place of what `init` says.
            data: [M, *S] states that init="data" picks from; left out, the bundle's own.
            config: settings to start from in place of the bundle's.
            cond: conditioning arrays by name, for a name that is taken by one of these parameters.
            max_batch: most chains in one engine call; never more than the engine takes.
            callback: told about the start and every step, see `chain.Progress`.
            **keywords: any field of `SamplerConfig`, and conditioning arrays by name, each with n rows or 1. A name
                that is both is the conditioning array; that setting can be changed through `config`.

        Returns:
            [n, *S] float32.

        Raises:
            UsageError: an argument has a wrong name, type, shape or value.
            DivergenceError: an energy or gradient is no longer finite.
        """
        check_count("n", n)
        if max_batch is not None:
            check_count("max_batch", max_batch)
        overrides, values = split_keywords(
            keywords, (name for spec in self.model.cond for name in dict.fromkeys((spec.called, spec.name)))
        )
        settings = (config or self.sampler).replace(**overrides)
        conditions = check_conditions({**values, **(cond or {})}, self.model.cond, n)
        shape = self.model.x.shape
        states = None if x0 is None else check_states("x0", x0, shape, n)
        pool = self._data if data is None else check_states("data", data, shape)

        def start(chains: range) -> np.ndarray:
            if states is not None:
                return states[chains.start : chains.stop]
            return start_states(settings, shape, chains, seed, pool)

        return run_chains(
            self._engine,
            settings,
            start,
            n,
            seed=seed,
            cond=conditions,
            max_batch=min(max_batch or self._max_batch, self._max_batch),
            callback=callback,
        )

    def refine(
        self,
        x0: Any,
        seed: int = 0,
        *,
        config: SamplerConfig | None = None,
        cond: Mapping[str, Any] | None = None,
        max_batch: int | None = None,
        callback: Callback | None = None,
        **keywords: Any,
    ) -> np.ndarray:
        """Runs one chain from each given state.

        Args:
            x0: [B, *S], any real type; left as it is.
            seed: of the noise.
            config: as in `sample`, like all that follow.
            cond: conditioning arrays by name.
            max_batch: most chains in one engine call.
            callback: told about the start and every step.
            **keywords: settings and conditioning arrays.

        Returns:
            [B, *S] float32.

        Raises:
            UsageError: an argument has a wrong name, type, shape or value.
            DivergenceError: an energy or gradient is no longer finite.
        """
        states = check_states("x0", x0, self.model.x.shape)
        return self.sample(
            len(states), seed, x0=states, config=config, cond=cond, max_batch=max_batch, callback=callback, **keywords
        )

    def close(self) -> None:
        """Frees the engine; safe to call twice."""
        self._engine.close()

    def __enter__(self) -> Ebm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: str | Path,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
    max_batch: int | None = None,
) -> Ebm:
    """Loads a bundle and opens an engine.

    What is left out is chosen: a backend that can be used here with a verified artifact, TensorRT before OpenVINO
    before onnxruntime, and fp32. The choice and its reason are logged (logger "ebm_export") and kept as `Ebm.choice`.
    A TensorRT plan that does not fit this machine is built again from the ONNX file in the bundle, with a line that
    says so.

    Args:
        path: the bundle's folder.
        backend: onnxruntime, openvino or tensorrt.
        precision: as in the manifest: fp32, fp16, bf16 ...
        threads: threads that one engine call may use; None leaves it to the backend.
        engine: runs the model in place of the bundle's artifacts, for tests and for engines of one's own; it is opened
            here and closed with the Ebm.
        max_batch: most samples in one engine call; None takes what the artifact was built for, or else
            about 2**18 numbers of x.

    Raises:
        LoadError: the bundle cannot be read, is damaged, or has no artifact that fits.
        MissingBackend: the backend given cannot be used here.
        UsageError: an argument cannot be right.
    """
    if threads is not None:
        check_count("threads", threads)
    bundle = Bundle(path)
    if engine is None:
        artifact, picked, choice = choose(bundle, backend, precision)
        engine = engine_of(bundle, artifact, picked, threads=threads)
        if "batch" in artifact.options:  # (smallest, most frequent, largest)
            largest = int(artifact.options["batch"][-1])
            max_batch = min(max_batch or largest, largest)
    else:
        given = {"backend": backend, "precision": precision, "threads": threads}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name}={value!r} has no effect on the engine that was given: leave one of them out")
        choice = f"{engine.backend}: the engine that was given"
    _LOG.info("%s: %s", bundle.path.name, choice)
    ebm = Ebm(engine, bundle.model, bundle.sampler, data=bundle.data(), max_batch=max_batch, choice=choice)
    engine.open()  # last, so that no error leaves an open engine behind
    return ebm
