"""From a model to a verified bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ..runtime.batch_range import parse_batch_range
from ..runtime.bundle import DATA, GOLDEN
from ..runtime.bundle_writer import writing_bundle
from ..runtime.config import SamplerConfig
from ..runtime.errors import EngineMismatch, MissingBackend, UsageError
from .contract import check_contract
from .energy import Energy, EnergyMode, make_energy
from .found_sampler import find_sampler
from .golden import make_golden
from .lowering import lower
from .manifest import describe_bundle
from .passes import optimize
from .precision import LOW_TYPES, typed
from .score_graph import ScoreGraph
from .targets import Artifact, Progress, target
from .trace import trace
from .uncompiled import uncompiled
from .verify import Verification, describe_failure, verify_artifact

__all__ = ["PRECISIONS", "ExportReport", "export", "export_energy"]

PRECISIONS = ("fp32", *LOW_TYPES)
"""The precisions that can be exported."""


@dataclass
class ExportReport:
    """What an export made."""

    path: Path
    artifacts: list[Artifact]
    verifications: list[Verification]
    sampler: SamplerConfig
    found_sampler: bool
    """True where the model came without sampler settings and some were found."""
    seconds: float
    """Wall-clock time of the whole export."""


def export(
    model: torch.nn.Module | Callable[..., torch.Tensor],
    example: torch.Tensor,
    *,
    cond: Mapping[str, torch.Tensor] | None = None,
    wrt: str | None = None,
    energy: EnergyMode = "energy",
    name: str | None = None,
    out: str | Path,
    targets: Sequence[str] = ("onnxruntime",),
    precisions: Sequence[str] = ("fp32",),
    sampler: SamplerConfig | None = None,
    batch: tuple[int, int, int] = (1, 8, 64),
    data: np.ndarray | None = None,
    gate: float | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Exports a model's energy and input gradient as a verified bundle.

    Args:
        model: any module or function E(x, *cond) -> [B] or [B, 1], on any device, in eval mode. It is copied.
        example: a batch of the refined input, [B, *S].
        cond: example batches of the other parameters of forward by name, [B, ...] or [1, ...].
        wrt: the parameter that `example` belongs to; the first one if left out.
        energy: how the output becomes an energy: "energy", "negative" or "logsumexp".
        name: name of the model in the manifest.
        out: folder to write, such as "policy.ebm".
        targets: of onnx, onnxruntime, openvino, tensorrt.
        precisions: of fp32, fp16, bf16.
        sampler: settings the bundle carries, and along whose chains engines are verified; found if left out.
        batch: smallest, most frequent and largest batch, for engines that are built for a range.
        data: states [M, *S] that chains start from with init="data"; kept in the bundle.
        gate: the quality gate on samples, which is not available yet: only None is taken. Every precision here is
            verified gradient by gradient instead.
        verify: False writes engines without running them; the manifest says so.
        force: replace an existing bundle.
        progress: called with (what is being done, steps done, steps in all or 0).

    Returns:
        The path of the bundle.

    Raises:
        ContractError: the model is no energy (one finite number per sample, and so on).
        UnsupportedOperation: an operation has no rule.
        MissingBackend: a target's package is not installed.
        EngineMismatch: an engine disagrees with PyTorch; those that agree are written all the same.
        UsageError: the arguments do not fit the model or each other.
    """
    if gate is not None:
        raise UsageError("gate: the quality gate is not available yet; leave it out, or pass gate=None")
    made = make_energy(model, example, cond=cond, wrt=wrt, energy=energy, name=name, sampler=sampler)
    return export_energy(
        made,
        out=out,
        targets=targets,
        precisions=precisions,
        batch=batch,
        data=data,
        verify=verify,
        force=force,
        progress=progress,
    ).path


def export_energy(
    energy: Energy,
    *,
    out: str | Path,
    targets: Sequence[str],
    precisions: Sequence[str],
    batch: tuple[int, int, int] = (1, 8, 64),
    data: np.ndarray | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """As `export`, for an `Energy` that `load_model` or `make_energy` gave; returns the whole report."""
    begun = time.perf_counter()
    tell = progress or (lambda what, done, total: None)
    plan = _plan(targets, precisions, batch)
    # Whatever the caller runs in: here gradients are taken, and tensors computed with in their own types.
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        uncompiled(),
        writing_bundle(out, force=force) as folder,
    ):
        data = _check_data(data, energy)
        tell("checking the energy", 0, 0)
        check_contract(energy, None if data is None else torch.as_tensor(data))
        config, trajectory = energy.sampler, None
        if config is None:
            config, trajectory = find_sampler(
                energy, progress=lambda done, total: tell("finding a step size", done, total)
            )
        if config.init == "data" and data is None:
            raise UsageError(
                'the sampler starts from data (init="data") and none was given: pass data= states [M, *S] '
                "(--calibration-data FILE.npy), or another init"
            )
        tell("tracing", 0, 0)
        traced = trace(energy)
        models = {"fp32": lower(traced, energy.name)}
        optimize(models["fp32"])
        for precision in precisions:
            if precision not in models:
                models[precision] = typed(models["fp32"], precision)
        golden = None
        if verify:
            golden = make_golden(
                energy,
                config,
                data=data,
                trajectory=trajectory,
                progress=lambda done, total: tell("running PyTorch's chains", done, total),
            )
            np.savez(folder / GOLDEN, allow_pickle=False, **golden)
        if data is not None:
            np.save(folder / DATA, data, allow_pickle=False)
        artifacts, verifications, failures = _write_all(plan, models, traced, golden, batch, folder, tell)
        if not artifacts:
            raise EngineMismatch("; ".join(failures) + "; no engine is left, so no bundle was written")
        describe_bundle(folder, energy, config, golden, artifacts, verifications)
    path = Path(out)
    if failures:
        kept = ", ".join(artifact["path"] for artifact in artifacts)
        raise EngineMismatch("; ".join(failures) + f"; the others were written to {path}: {kept}")
    seconds = time.perf_counter() - begun
    return ExportReport(path, artifacts, verifications, config, energy.sampler is None, seconds)


def _plan(targets: Sequence[str], precisions: Sequence[str], batch: tuple[int, int, int]) -> list[tuple[str, str]]:
    """(target, precision) pairs in the order of work; wrong or missing ones end the export before it begins."""
    for precision in precisions:
        if precision in ("int8", "mixed"):
            raise UsageError(f"precision {precision} is not available yet; the precisions are {', '.join(PRECISIONS)}")
        if precision not in PRECISIONS:
            raise UsageError(f"the precisions are {', '.join(PRECISIONS)}; there is none called {precision!r}")
    if not targets or not precisions:
        raise UsageError("at least one target and one precision are needed")
    parse_batch_range(":".join(map(str, batch)))
    names = list(dict.fromkeys(targets))
    for name in names:
        missing = target(name).available()
        if missing is not None:
            raise MissingBackend(missing)
    if "tensorrt" in names and "onnx" not in names:
        names.insert(0, "onnx")  # a device whose TensorRT differs builds its own plan from it
    return [(name, precision) for precision in dict.fromkeys(precisions) for name in names]


def _write_all(
    plan: Sequence[tuple[str, str]],
    models: Mapping[str, ir.Model],
    traced: ScoreGraph,
    golden: dict[str, np.ndarray] | None,
    batch: tuple[int, int, int],
    folder: Path,
    tell: Progress,
) -> tuple[list[Artifact], list[Verification], list[str]]:
    artifacts: list[Artifact] = []
    verifications: list[Verification] = []
    failures: list[str] = []
    refused: set[str] = set()
    for index, (name, precision) in enumerate(plan):
        if name == "tensorrt" and precision in refused:
            failures.append(f"no tensorrt plan in {precision}: the ONNX file that it is built from failed")
            continue
        tell(f"building {name} {precision}", index, len(plan))
        proto = ir.to_proto(models[precision])
        artifact = target(name).write(proto, folder, precision=precision, batch=batch, progress=tell)
        if golden is not None:
            tell(f"verifying {name} {precision}", index, len(plan))
            found = verify_artifact(artifact, folder, golden)
            if not found.passed and not found.reason:
                failures.append(describe_failure(found, artifact, models[precision], traced, golden, tell))
                for file in (artifact["path"], *artifact["files"]):
                    (folder / file).unlink()
                if name == "onnx":
                    refused.add(precision)
                continue
            verifications.append(found)
        artifacts.append(artifact)
    return artifacts, verifications, failures


def _check_data(data: Any, energy: Energy) -> np.ndarray | None:
    """The given states as float32 [M, *S], or None where there are none."""
    if data is None:
        return None
    wanted = tuple(energy.x.shape[1:])
    try:
        states = np.asarray(data, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"data: expected numbers [M, {', '.join(map(str, wanted))}]: {error}") from error
    if states.shape[1:] != wanted or not len(states):
        raise UsageError(f"data: expected at least one state [M, {', '.join(map(str, wanted))}], got {states.shape}")
    return states
