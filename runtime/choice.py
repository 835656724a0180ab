"""Which of a bundle's artifacts to run on this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from .arguments import check_choice
from .backends import BACKENDS, LOADABLE, available
from .bundle import Bundle
from .errors import LoadError, MissingBackend, UsageError
from .manifest import CALIBRATED, NOT_JUDGED, VERIFIED, Artifact
from .measured import kept_measurements, measured_on_other_cores
from .runnable import why_not

__all__ = ["FASTEST", "Choice", "choose"]

_DEFAULT_PRECISION = "fp32"
_EXPORTED = ("fp32", "fp16", "bf16", *CALIBRATED)
"""The precisions that an export can be asked for."""
FASTEST = "fastest"
"""In the place of a precision: the one that was measured to be the fastest, of those that were verified or judged."""


class Choice(NamedTuple):
    """What to run, and one line that says why.

    Attributes:
        artifact: the score graph.
        backend: the library to run it.
        reason: why.
        threads: that were the fastest here; None where nothing was measured, or the library's own number was.
        fuse: whether several steps in one call were faster here, by the batch sizes at which both ways were measured.
    """

    artifact: Artifact
    backend: str
    reason: str
    threads: int | None = None
    fuse: Mapping[int, bool] = MappingProxyType({})


def choose(
    bundle: Bundle,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    fuse: bool | None = None,
) -> Choice:
    """Picks an artifact and a backend.

    1. A precision that is left out is fp32 if an artifact of it can be picked, else that of the first that can. A precision is
       never changed for the sake of speed unless it is asked for as "fastest".
    2. A backend that is left out is the one that `ebm-run bench` measured to be the fastest here, where it did; else the
       first of `BACKENDS` that is usable here and has a verified artifact.
    3. A backend that is given is taken even where its artifact is not verified; the reason then says so.
    4. Threads and fused steps that are left out are those that were measured to be the fastest with what is given.

    Args:
        bundle: the bundle.
        backend: one of `BACKENDS`, or None.
        precision: as in the manifest, "fastest", or None.
        threads: CPU threads, where the caller says; measurements with other numbers then do not count, but for those of TensorRT,
            which has none.
        fuse: whether several steps go into one call, where the caller says; measurements of the other way then do not count.

    Raises:
        UsageError: there is no such backend.
        MissingBackend: the backend given cannot be used here.
        LoadError: no artifact fits; the message goes through all of them.
        UsageError: "fastest" is asked for and nothing was measured.
    """
    fastest = precision == FASTEST
    precision = None if fastest else precision
    if backend is not None:
        check_choice("backend", backend, BACKENDS)
        if (missing := available(backend)) is not None:
            raise MissingBackend(f"backend {backend!r} cannot be used here: {missing}")
    fitting, passed_over = _candidates(bundle, backend, precision)
    if not fitting:
        raise LoadError(_nothing_fits(bundle, backend, precision, passed_over))
    artifact, picked = next((pair for pair in fitting if pair[0].precision == _DEFAULT_PRECISION), fitting[0])
    if not fastest:
        fitting = [pair for pair in fitting if pair[0].precision == artifact.precision]
    kept = kept_measurements(bundle)
    elsewhere = measured_on_other_cores(bundle) if kept is None else ""
    # Of a backend that is given the artifact is settled, and among what fits are such as are not verified.
    files = {artifact.path}
    if backend is None or fastest:
        files = {one.path for one, _ in fitting if one.status == VERIFIED}
    rows = [] if kept is None else [row for row in kept.rows if row["file"] in files]
    # A plan has no threads on the CPU, and is measured without a number of them.
    plans = {one.path for one, name in fitting if name == "tensorrt"}
    asked = [row for row in rows if threads in (None, row["threads"]) or row["file"] in plans]
    best = _fastest([row for row in asked if fuse in (None, row["fused"] > 0)])
    if fastest and best is None:
        if rows:
            raise UsageError(
                f"precision {FASTEST!r}: nothing of {bundle.path} was measured with these threads, or this way of fused steps: run "
                f"ebm-run bench {bundle.path} --threads N, leave them out (--threads, --fuse), or name a precision"
            )
        raise UsageError(
            f"precision {FASTEST!r}: nothing of {bundle.path} that is verified was measured on this device: run ebm-run bench "
            f"{bundle.path}, or name a precision{elsewhere and f' ({elsewhere})'}"
        )
    why = []
    measured: tuple[int | None, Mapping[int, bool]] = (None, MappingProxyType({}))
    if kept is not None and best is not None:
        artifact, picked = next(pair for pair in fitting if pair[0].path == best["file"])
        measured = best["threads"], _fused_is_faster(kept.rows, best)
        batches = ", ".join(map(str, sorted({row["batch"] for row in kept.rows})))
        said = f"the fastest here at a batch of {batches}, measured by ebm-run bench on {kept.date}"
        if backend is None or fastest:
            text = f"{picked} {artifact.precision} ({artifact.path}): {'; '.join([said, *passed_over])}"
            return Choice(artifact, picked, text, *measured)
        why.append(f"as asked for, with the threads and the steps in one call that were {said}")
    if backend is None:
        why.append(f"backend left out: the first of {', '.join(BACKENDS)} with a verified artifact that runs here")
    if precision is None:
        default = artifact.precision == _DEFAULT_PRECISION
        why.append(f"precision left out: {'the default' if default else f'no {_DEFAULT_PRECISION} fits'}")
    if artifact.status != VERIFIED:
        why.append(f"NOT verified ({artifact.status}): {_how_to_verify(bundle, artifact)}")
    if elsewhere:
        why.append(elsewhere)
    why.extend(passed_over)
    text = f"{picked} {artifact.precision} ({artifact.path}): {'; '.join(why) or 'as asked for'}"
    return Choice(artifact, picked, text, *measured)


def _fastest(usable: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of the way to run that is the fastest over all batch sizes: least mean time in units of the best at each."""
    ways: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in usable:
        ways.setdefault((row["file"], row["threads"], row["fused"]), []).append(row)
    least: dict[int, float] = {}
    for row in usable:
        least[row["batch"]] = min(row["median ms"], least.get(row["batch"], math.inf))
    if not ways:
        return None
    return min(ways.values(), key=lambda way: sum(row["median ms"] / least[row["batch"]] for row in way) / len(way))[0]


def _fused_is_faster(rows: list[dict[str, Any]], way: dict[str, Any]) -> dict[int, bool]:
    """Whether fused steps were faster with the file and the threads of a row, by the batch sizes at which both ways were measured."""
    single, fused = (
        {
            row["batch"]: row["median ms"]
            for row in rows
            if (row["file"], row["threads"], row["fused"] > 0) == (way["file"], way["threads"], several)
        }
        for several in (False, True)
    )
    return {batch: fused[batch] < single[batch] for batch in single.keys() & fused.keys()}


def _candidates(
    bundle: Bundle, backend: str | None, precision: str | None
) -> tuple[list[tuple[Artifact, str]], list[str]]:
    """Returns what can be picked, best first, and for each artifact that was considered and cannot a line why."""
    fitting, passed_over = [], []
    for name in BACKENDS if backend is None else (backend,):
        for target in LOADABLE[name]:
            for artifact in bundle.artifacts:
                if artifact.role != "score" or artifact.target != target:
                    continue
                if precision is not None and artifact.precision != precision:
                    continue
                cannot = why_not(artifact)
                if cannot is not None:
                    passed_over.append(f"not {artifact.path} on {name}: {cannot}")
                elif backend is None and artifact.status != VERIFIED:
                    passed_over.append(
                        f"not {artifact.path} on {name}: {artifact.status} (--backend {name}, in Python backend={name!r}, takes it "
                        "all the same)"
                    )
                else:
                    fitting.append((artifact, name))
    return fitting, passed_over


def _how_to_verify(bundle: Bundle, artifact: Artifact) -> str:
    """What to do about an artifact that is not verified: what it can be compared with depends on what the bundle holds."""
    if artifact.status == NOT_JUDGED:
        return "ebm-compare judges it by its samples"
    if bundle.has_golden:
        return "ebm-run verify compares it with PyTorch's answers"
    return "the bundle holds no answers of PyTorch to compare it with, as it was exported with --no-verify"


def _nothing_fits(bundle: Bundle, backend: str | None, precision: str | None, passed_over: list[str]) -> str:
    wish = " ".join(word for word in (precision, f"for backend {backend!r}" if backend else None) if word)
    scores = [artifact for artifact in bundle.artifacts if artifact.role == "score"]
    holds = ", ".join(f"{artifact.target} {artifact.precision}" for artifact in scores) or "no artifact"
    held = [artifact for artifact in scores if precision in (None, artifact.precision)]
    if backend is None and held:
        unverified = any(artifact.status != VERIFIED and why_not(artifact) is None for artifact in held)
        words = ("verified" if unverified else None, f"in {precision}" if precision else None, "that can run here")
        wish = " ".join(word for word in words if word)
    text = f"the bundle {bundle.path} has nothing {wish or 'that can run here'}; it holds {holds}"
    if precision in _EXPORTED and not held:
        text += f"; export the model with --precision {precision} too"
    return f"{text}; {'; '.join(passed_over)}" if passed_over else text
