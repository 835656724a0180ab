"""Sample sets, drawn through the runtime and kept, so that a comparison that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from ..runtime.device import PROCESSOR, describe_device, own_threads
from ..runtime.ebm import Ebm
from ..runtime.progress import Progress
from ..runtime.replaced_file import replacing, write_npy
from .candidate import Candidate

__all__ = ["SampleStore"]

_ROUNDING = (*PROCESSOR, "board", "GPUs")
"""What of a device decides how an engine rounds: INT8 and BF16 are other samples on another processor, not the same with other last bits."""


@dataclass(frozen=True)
class SampleStore:
    """Draws sample sets and keeps each in a folder.

    A set's file is named after a hash of all that decides it: the engine's files, the library and its version, the processor, GPUs and
    threads that it runs on, the sampler's settings, the conditioning inputs, the seed and the number of chains. What is there is not
    drawn again.

    Attributes:
        folder: where the sets are kept, made when the first is written; None keeps nothing.
        threads: threads that one engine call may use; None leaves it to the library.
    """

    folder: Path | None
    threads: int | None = None

    def draw(
        self,
        candidate: Candidate,
        ebm: Callable[[], Ebm],
        n: int,
        *,
        seed: int,
        cond: Mapping[str, np.ndarray],
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Returns n samples of a candidate, drawn with its bundle's own sampler settings.

        Args:
            candidate: what is drawn from.
            ebm: gives the candidate, opened; asked only if the set is not there.
            n: number of chains.
            seed: of start and noise.
            cond: conditioning inputs [n, ...] by name.
            progress: called with (chain steps done, in all).

        Returns:
            [n, *S] float32.

        Raises:
            DivergenceError: a chain left the numbers that a float can hold.
        """
        path = None if self.folder is None else self.folder / f"{_key(candidate, self.threads, n, seed, cond)}.npy"
        kept = None if path is None else _read(path, (n, *candidate.bundle.model.x.shape))
        if kept is not None:
            return kept

        def told(now: Progress) -> None:
            if progress is not None:
                progress(*now.part)

        samples = ebm().sample(n, seed=seed, cond=dict(cond), callback=told)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:  # a set is there as a whole or not at all
                write_npy(file, samples)
        return samples


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A set that was kept; None if there is none or it is damaged, since drawing it again mends that."""
    if not path.is_file():
        return None
    try:
        samples = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
    return samples if samples.shape == shape and samples.dtype == np.float32 else None


def _key(candidate: Candidate, threads: int | None, n: int, seed: int, cond: Mapping[str, np.ndarray]) -> str:
    data = candidate.bundle.data()
    said = {
        "files": candidate.fingerprint,
        "backend": candidate.backend,
        "version": _version(candidate.backend),
        "device": {what: said for what, said in describe_device().items() if what in _ROUNDING},
        "threads": threads or own_threads(candidate.backend),
        "precision": candidate.precision,
        "sampler": candidate.bundle.sampler.to_dict(),
        "numpy": np.__version__,  # the noise is numpy's
        "runtime": metadata.version("ebm-export"),
        "cond": {name: _digest(array) for name, array in sorted(cond.items())},
        "data": None if data is None else _digest(data),
        "seed": seed,
        "n": n,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _version(backend: str) -> str:
    """The installed version of a backend's library; empty where it came with the system, as on JetPack."""
    for package in (backend, f"{backend}_rtx", f"{backend}-gpu"):
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return ""
