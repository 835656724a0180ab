"""The engine of an artifact that was just written and is in no manifest yet."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..runtime.backends import backend_of, open_engine
from ..runtime.engine import Engine
from ..runtime.known_scales import NOTHING_KNOWN, KnownScales
from ..runtime.split_engine import SplitEngine
from .emulate import emulate
from .targets import Artifact

__all__ = ["steps_of", "written_engine"]


def written_engine(
    artifact: Artifact, folder: Path, scratch: Path, *, scales: KnownScales = NOTHING_KNOWN, as_it_is: bool = False
) -> Engine:
    """Picks the engine of an artifact and its prologue; `with` loads it.

    A file whose types no CPU library computes in is run with its roundings written out.

    Args:
        artifact: its entry, with paths relative to `folder`.
        folder: where its files are.
        scratch: a folder for files that are there until the engine is closed.
        scales: see `Engine.known_scales`.
        as_it_is: runs such a file as the library does by itself, which rounds less often.
    """
    engine = _of_file(artifact, folder, scratch, scales, as_it_is)
    if "prologue" not in artifact:
        return engine
    prologue = artifact["prologue"]
    first = _of_file(prologue, folder, scratch, scales, as_it_is)
    return SplitEngine(first, engine, prologue["reads"], artifact["reads"], artifact.get("shared", []))


def _of_file(artifact: Artifact, folder: Path, scratch: Path, scales: KnownScales, as_it_is: bool) -> Engine:
    path = folder / artifact["path"]
    if artifact["target"] == "onnx" and artifact["precision"] not in ("fp32", "int8") and not as_it_is:
        emulated = emulate(onnx.load(path))
        path = scratch / f"emulated.{path.name}"
        onnx.save(emulated, path)
    backend, precision = backend_of(artifact["target"]), artifact["precision"]
    return open_engine(backend, path, precision=precision, options=artifact["options"], scales=scales)


def steps_of(engine: Engine) -> Engine:
    """The engine of what changes from step to step."""
    return engine.score if isinstance(engine, SplitEngine) else engine
