"""The engine of one artifact of a bundle; a TensorRT plan that does not fit this machine is built again."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable
from typing import Any

from .backends import open_engine
from .build import build_plans
from .bundle import Bundle
from .config import SamplerConfig
from .engine import Engine
from .errors import LoadError
from .fused_steps import LEAVE_OUT, Fused
from .manifest import Artifact
from .split_engine import SplitEngine
from .tensorrt_library import build_plan

__all__ = ["engine_of", "fingerprint_of", "fused_of"]

_LOG = logging.getLogger("ebm_export")
_BATCH = (1, 8, 64)
"""Batches of a plan whose entry in the manifest does not say which: what an export builds for unless it is told."""

_IN_THE_BUNDLE = (
    "; the new one is not verified: from the next load on, another backend is taken where none is named, until `ebm-run verify` has "
    "compared it with PyTorch"
)
_FOR_THIS_PROCESS = ", for this process alone, as the bundle cannot be written to; `ebm-run build` on a copy that can be makes one that stays"


def engine_of(bundle: Bundle, artifact: Artifact, backend: str, *, threads: int | None = None) -> Engine:
    """Checks an artifact's files and picks the backend's engine for it; `with` (or `Engine.open`) loads it.

    Args:
        bundle: the bundle.
        artifact: one of its score graphs; its prologue, if any, becomes part of the engine.
        backend: the library that runs it.
        threads: threads that one call may use; None leaves it to the library.

    Raises:
        LoadError: the file is missing or damaged; on entering the engine, where the library cannot load it.
        MissingBackend: on entering the engine, where the library is not installed.
    """
    engine = _engine_of_file(bundle, artifact, backend, threads)
    prologue = bundle.prologue_of(artifact)
    if prologue is None:
        return engine
    first = _engine_of_file(bundle, prologue, backend, threads)
    return SplitEngine(first, engine, prologue.reads, artifact.reads, artifact.shared)


def fused_of(
    bundle: Bundle, artifact: Artifact, backend: str, *, threads: int | None = None, each: bool = False
) -> Fused | None:
    """Returns what takes several steps of an artifact in one call, its engine not open yet; None where there is none.

    Arguments and errors are those of `engine_of`, but for `each`: whether it is to tell of each step.
    """
    sampler = bundle.sampler_of(artifact)
    if sampler is None:
        return None
    if each:  # which the file can where its backend is told to leave that out
        if LEAVE_OUT not in sampler.options:
            return None
        options = {name: value for name, value in sampler.options.items() if name != LEAVE_OUT}
        sampler = dataclasses.replace(sampler, options=options)
    engine = _engine_of_file(bundle, sampler, backend, threads)
    settings = SamplerConfig.from_dict(dict(sampler.settings))
    return Fused(
        engine,
        sampler.steps,
        settings,
        lambda: bundle.file_of(bundle.now(sampler)),
        lambda: fingerprint_of(bundle, sampler),
        each=each,
    )


def fingerprint_of(bundle: Bundle, artifact: Artifact) -> str:
    """Of all files that decide what an engine answers: an OpenVINO .xml of other weights is the same, and so is its prologue's."""
    now = bundle.now(artifact)
    sums = [
        value
        for part in (now, bundle.prologue_of(now))
        if part is not None
        for value in (bundle.built_here.get(part.path, part.sha256), *part.files.values())
    ]
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()[:16]


def _engine_of_file(bundle: Bundle, artifact: Artifact, backend: str, threads: int | None) -> Engine:
    options: dict[str, Any] = dict(artifact.options)
    if backend == "tensorrt":
        options["rebuild"] = _rebuild(bundle, artifact)
    path, scales = bundle.file_of(artifact), bundle.model.scales
    return open_engine(backend, path, precision=artifact.precision, threads=threads, options=options, scales=scales)


def _rebuild(bundle: Bundle, artifact: Artifact) -> Callable[[LoadError], bytes]:
    """What makes a plan for this machine, when the library refuses the one in the bundle.

    The new plan takes the old one's place in the bundle, as one that is not verified, so that this happens once. Where
    the bundle cannot be written to, it is built for this process alone.
    """

    def rebuild(cause: LoadError) -> bytes:
        wanted = ("onnx", artifact.precision, artifact.role)
        source = next((a for a in bundle.artifacts if (a.target, a.precision, a.role) == wanted), None)
        if source is None:
            raise LoadError(
                f"{artifact.path} does not fit this machine, and the bundle has no ONNX file in {artifact.precision} "
                f"to build it again from: export the model again with --target tensorrt ({cause})"
            ) from cause
        batch = tuple(artifact.options.get("batch", _BATCH))
        keeps = os.access(bundle.path, os.W_OK)
        _LOG.warning(
            "%s does not fit this machine: building it again from %s, which can take minutes%s",
            artifact.path,
            source.path,
            _IN_THE_BUNDLE if keeps else _FOR_THIS_PROCESS,
        )
        if not keeps:
            data = build_plan(bundle.file_of(source), batch=batch).data
            bundle.built_here[artifact.path] = hashlib.sha256(data).hexdigest()
            return data
        build_plans(bundle.path, precisions=[artifact.precision], batch=batch)
        # Before the file is: what is read then is what this names, or a later one, which nobody takes for it.
        bundle.read_again()
        return (bundle.path / f"{artifact.role}.{artifact.precision}.tensorrt.plan").read_bytes()

    return rebuild
