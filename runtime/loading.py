"""From a bundle to a loaded model."""

from __future__ import annotations

import logging
from pathlib import Path

from .arguments import check_count
from .artifact_engine import engine_of, fingerprint_of, fused_of
from .bundle import Bundle
from .choice import choose
from .device import usable_cores
from .ebm import Ebm
from .engine import Engine
from .errors import UsageError
from .fitting_batch import fitting_batch
from .fused_steps import Fused
from .manifest import CALIBRATED, Artifact
from .precision_schedule import is_schedule, parse_precision_schedule

__all__ = ["load"]

_LOG = logging.getLogger("ebm_export")


def load(
    path: str | Path,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
    max_batch: int | None = None,
    exact: str | None = None,
    fuse: bool | None = None,
) -> Ebm:
    """Loads a bundle and opens its engines.

    What is left out is chosen: fp32, and on it the backend, the number of threads and fused steps that `ebm-run bench` measured to be
    the fastest on this device; where nothing was measured, the first backend that can be used here with a verified artifact, TensorRT
    before OpenVINO before onnxruntime. The choice and its reason are logged (logger "ebm_export") and kept as `Ebm.choice`.
    A TensorRT plan that does not fit this machine is built again from the ONNX file in the bundle, with a line that
    says so.

    Args:
        path: the bundle's folder.
        backend: onnxruntime, openvino or tensorrt.
        precision: as in the manifest: fp32, fp16, bf16, int8 ... "fastest" is the fastest that was measured of those that were
            verified. Or precisions by steps, such as
            "int8:0-200,bf16:200-256" (see `precision_schedule.py`); each has one engine, opened here.
        threads: threads that one engine call may use; None takes what was measured, or leaves it to the backend.
        engine: runs the model in place of the bundle's artifacts, for tests and for engines of one's own; it is opened
            here and closed with the Ebm.
        max_batch: most samples in one engine call; None takes what the artifacts were built for, or else as many as the caches of the
            cores hold (see `fitting_batch.py`), and where all chains go into one call about 2**18 numbers of x.
        exact: a precision that samples are to follow exactly while chains move in the one that `precision` names, such as
            precision="int8", exact="fp32". Blocks of `SamplerConfig.block` steps are accepted or rejected.
        fuse: whether several steps go into one engine call, where the bundle was exported with --fuse. None lets measurement
            say: `Ebm.warm` times both ways, and so does a run that is long enough to be worth it, or one of some length after others.

    Raises:
        LoadError: the bundle cannot be read, is damaged, or has no artifact that fits.
        MissingBackend: the backend given cannot be used here.
        UsageError: an argument cannot be right.
    """
    if threads is not None:
        check_count("threads", threads)
    bundle = Bundle(path)
    if engine is not None:
        given = {"backend": backend, "precision": precision, "threads": threads, "exact": exact, "fuse": fuse}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name}={value!r} has no effect on the engine that was given: leave one of them out")
        choice = f"{engine.backend}: the engine that was given"
        opened: list[Engine | Fused] = [engine]
        artifacts: list[Artifact] = []
        ebm = Ebm(engine, bundle.model, bundle.sampler, data=bundle.data(), max_batch=max_batch, choice=choice)
    else:
        ebm, opened, artifacts = _on_artifacts(bundle, backend, precision, threads, max_batch, exact, fuse)
    _LOG.info("%s: %s", bundle.path.name, ebm.choice)
    try:
        for each in opened:
            each.open()
    except BaseException:
        ebm.close()  # what was opened before the one that failed
        raise
    # Only now: a plan that does not fit this machine is built again where it is opened.
    ebm.fingerprint = " ".join(fingerprint_of(bundle, artifact) for artifact in artifacts)
    return ebm


def _on_artifacts(
    bundle: Bundle,
    backend: str | None,
    precision: str | None,
    threads: int | None,
    max_batch: int | None,
    exact: str | None,
    fuse: bool | None,
) -> tuple[Ebm, list[Engine | Fused], list[Artifact]]:
    """Makes an Ebm of a bundle's artifacts; arguments as in `load`. Returns it, what is to be opened of it now, and the artifacts."""
    if precision is None or not is_schedule(precision):
        alone = choose(bundle, backend, precision, threads, False if exact is not None else fuse)
        # The export may have found that this precision is best left before the end.
        if alone.artifact.schedule and exact is None:
            backend, precision = alone.backend, alone.artifact.schedule
    spans = parse_precision_schedule(precision) if precision is not None and is_schedule(precision) else ()
    if spans and exact is not None:
        raise UsageError(
            f"exact={exact!r} corrects one precision, and {precision} is several: leave exact (--exact) out, or name one"
        )
    names: list[str | None] = [*dict.fromkeys(span.precision for span in spans)] or [precision]
    # Where engines take turns, each step is taken by itself.
    fusing = fuse if len(names) == 1 and exact is None else False
    choices = [choose(bundle, backend, name, threads, fusing) for name in names]
    if exact is not None:
        choices.append(choose(bundle, backend, exact, threads, False))
        if choices[0].artifact.precision == choices[1].artifact.precision:
            raise UsageError(
                f"exact={exact!r} corrects a chain that moves in another precision, and it moves in "
                f"{choices[0].artifact.precision}: set precision to the low one (--precision int8), or leave exact out and "
                'set sampler="mala" (--sampler mala, without --exact)'
            )
    engines: list[Engine] = []
    for artifact, picked, _, measured, _ in choices:
        engines.append(engine_of(bundle, artifact, picked, threads=threads or measured))
        if "batch" in artifact.options:  # (smallest, most frequent, largest)
            largest = int(artifact.options["batch"][-1])
            max_batch = min(max_batch or largest, largest)
    # Of a plan for a GPU, and of a caller who says how many, there is nothing to guess.
    cores = threads or choices[0].threads or usable_cores()
    fitting = fitting_batch(bundle.model, cores) if max_batch is None else None
    fused = telling = None
    if len(choices) == 1:
        only = choices[0]
        fused, telling = (
            fused_of(bundle, only.artifact, only.backend, threads=threads or only.threads, each=each)
            for each in (False, True)
        )
    if fuse and fused is None:
        raise UsageError(
            "fuse: there is no graph of several steps for this choice (a schedule, exact sampling, or a bundle without one): "
            "export the model with --fuse K, or leave fuse (--fuse) out"
        )
    by_name = dict(zip(names, zip(engines, choices, strict=False), strict=False))
    if spans:
        choice = "; then ".join(
            f"{span.first}-{span.stop or ''} on {by_name[span.precision][1].reason}" for span in spans
        )
    else:
        choice = "; corrected by ".join(choice.reason for choice in choices)
    ebm = Ebm(
        by_name[spans[-1].precision][0] if spans else engines[0],
        bundle.model,
        bundle.sampler,
        data=bundle.data(),
        max_batch=max_batch,
        fitting=fitting,
        choice=choice,
        schedule=[(span, by_name[span.precision][0]) for span in spans],
        exact=engines[1] if exact is not None else None,
        fused=fused,
        telling=telling,
        fuse=fuse,
        fused_is_faster=choices[0].fuse,
        judged=choices[0].artifact.precision if exact is None and choices[0].artifact.precision in CALIBRATED else "",
        energy_rounding=choices[0].artifact.energy_rounding,
    )
    opened: list[Engine | Fused] = [*engines, *([fused] if fuse and fused is not None else [])]
    return ebm, opened, [choice.artifact for choice in choices]
