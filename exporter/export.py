"""From a model to a verified bundle."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..calibration.verdict import GateResult
from ..calibration.widest_activation import widest_activation
from ..runtime.bundle import DATA, GOLDEN
from ..runtime.bundle_writer import writing_bundle
from ..runtime.config import SamplerConfig
from ..runtime.errors import EngineMismatch, QualityGateError, UnsupportedOperation, UsageError
from ..runtime.manifest import CALIBRATED
from .artifacts import write_artifacts
from .climbing import warn_of_climbing
from .conditions import split_conditions, warn_of_few, warn_of_unpaired
from .contract import check_contract
from .energy import Energy, EnergyMode, make_energy
from .found_sampler import find_sampler
from .fusion import Fusion
from .gating import Gating, gating_for
from .golden import make_golden
from .index_limits import index_limits
from .left_out import warn_of_left_out
from .lowering import lower
from .manifest import describe_bundle, mark_verified, model_spec
from .passes import optimize
from .precision import LOW_TYPES, typed
from .tail import low_types
from .targets import Artifact, Progress
from .trace import trace
from .uncompiled import uncompiled
from .usable_options import check_options
from .verify import Verification

__all__ = ["ExportReport", "export", "export_energy"]

_ROWS = 4096
"""States that are looked at together: all may be a file that is larger than memory."""


@dataclass
class ExportReport:
    """What an export made."""

    path: Path
    artifacts: list[Artifact]
    verifications: list[Verification]
    gates: dict[str, GateResult]
    """What the quality gate found, by path."""
    sampler: SamplerConfig
    found_sampler: bool
    """True where the model came without sampler settings and some were found."""
    seconds: float
    """Wall-clock time of the whole export."""
    failure: EngineMismatch | UnsupportedOperation | QualityGateError | None = None
    """Why some engines were not written; `export` raises it."""


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
    sampler: SamplerConfig | Mapping[str, Any] | None = None,
    batch: tuple[int, int, int] = (1, 8, 64),
    data: np.ndarray | None = None,
    gate: float | None = 1.25,
    gate_all: bool = False,
    features: str = "pixels",
    classes: str | Path | None = None,
    smallest_difference: float = 0.15,
    search_seconds: float | None = None,
    weight_bits: int | None = None,
    ranges: str | None = None,
    split: bool = True,
    fuse: int | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Exports a model's energy and input gradient as a verified bundle.

    Args:
        model: any module or function E(x, *cond) -> [B] or [B, 1], on any device, in eval mode. It is copied.
        example: a batch of the refined input, [B, *S].
        cond: rows of the other parameters of forward by name, [R, ...] or [1, ...]. Give such as come in use: engines are compared
            with PyTorch there, and low precisions calibrated and judged; from 16 on they are judged at others than they were
            calibrated at.
        wrt: the parameter that `example` belongs to; the first one if left out.
        energy: how the output becomes an energy: "energy", "negative" or "logsumexp".
        name: name of the model in the manifest.
        out: folder to write, such as "policy.ebm".
        targets: of onnx, onnxruntime, openvino, tensorrt.
        precisions: of fp32, fp16, bf16, int8, mixed.
        sampler: settings the bundle carries, or a dictionary of them, along whose chains engines are verified; found if left
            out.
        batch: smallest, most frequent and largest batch, for engines that are built for a range.
        data: states [M, *S] that chains start from with init="data"; kept in the bundle. INT8 is calibrated on some of them too, each
            under its own row of `cond` where there are as many rows.
        gate: largest distance of an engine's samples in low precision from FP32's, in units of the distance between FP32's own
            samples of two seeds; None turns the quality gate off. Without INT8 or mixed beside them, FP16 and BF16 go through it where
            the model came with sampler settings under which chains do not come to rest, is compared with PyTorch, what compares samples
            is installed, and drawing the first samples takes a minute at most, for all of them together.
        gate_all: FP16 and BF16 go through the gate whatever time that takes, as with --gate on the command line.
        features: what the gate compares samples by: "pixels" for x itself, "model" for what the model's own last layer sees, or an
            ONNX file from x to features.
        classes: an ONNX file from x to one number for each class: the likeliest is a sample's mode. None finds modes by clustering.
        smallest_difference: shift of the energy, in its standard deviations, that the gate should see; the number of chains
            that it draws is 18 / smallest_difference^2.
        search_seconds: time after which the search for mixed begins no new trial; None for no limit. It counts from the end of the
            calibration. After half of it no layer is measured any more, and a trial that runs is finished.
        weight_bits: 7 or 8, of INT8 weights for OpenVINO: 7 for devices whose x86 CPU has no VNNI instructions, where products of 8-bit
            numbers overflow; None for what this CPU needs. Needs int8 or mixed.
        ranges: how INT8 ranges of activations are read off the states: "mse", "min-max", "percentile" or "entropy"; "mse" if left out.
        split: False keeps what does not depend on x in the score graph, which then computes it at every step.
        fuse: writes, beside each score graph, one that takes so many steps of the sampler in one call and, with the target onnx or
            onnxruntime, once for each precision but bf16, a file with a whole chain, noise included. None writes neither.
        verify: False writes engines without running them; the manifest says so.
        force: replace an existing bundle.
        progress: called with (what is being done, steps done, steps in all or 0).

    Returns:
        The path of the bundle.

    Raises:
        ContractError: the model is no energy (one finite number per sample, and so on).
        UnsupportedOperation: an operation has no rule, or a target does not take it; other targets are written all the same.
        MissingBackend: a target's package is not installed.
        EngineMismatch: an engine disagrees with PyTorch; those that agree are written all the same.
        QualityGateError: nothing of a precision keeps the samples; the others are written all the same.
        UsageError: the arguments do not fit the model or each other.
    """
    made = make_energy(model, example, cond=cond, wrt=wrt, energy=energy, name=name, sampler=sampler)
    report = export_energy(
        made,
        out=out,
        targets=targets,
        precisions=precisions,
        batch=batch,
        data=data,
        verify=verify,
        gating=gating_for(
            precisions,
            gate,
            smallest_difference=smallest_difference,
            out=Path(out),
            seconds=search_seconds,
            all_low=gate_all,
            features=features,
            classes=classes,
        ),
        weight_bits=weight_bits,
        ranges=ranges,
        splits=split,
        fuse=fuse,
        force=force,
        progress=progress,
    )
    if report.failure is not None:
        raise report.failure
    return report.path


def export_energy(
    energy: Energy,
    *,
    out: str | Path,
    targets: Sequence[str],
    precisions: Sequence[str],
    batch: tuple[int, int, int] = (1, 8, 64),
    data: np.ndarray | None = None,
    verify: bool = True,
    gating: Gating | None = None,
    weight_bits: int | None = None,
    ranges: str | None = None,
    splits: bool = True,
    fuse: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """As `export`, for an `Energy` that `load_model` or `make_energy` gave; returns the whole report.

    Where some engines were written and others failed, the report says so and nothing is raised.
    `gating` says what is judged by its samples; left out, nothing is.
    """
    begun = time.perf_counter()
    tell = progress or (lambda what, done, total: None)
    gating = gating or Gating()
    if energy.sampler is None and gating.if_quick:
        # Samples of settings that are found to verify with say nothing of the model's own.
        gating = dataclasses.replace(gating, low_seconds=0.0, why_not="the model came without sampler settings")
    plan = check_options(
        targets, precisions, batch, out=out, force=force, gating=gating, weight_bits=weight_bits, ranges=ranges
    )
    _check_sampler(energy.sampler or SamplerConfig(), data is not None, fuse, splits)
    judges = gating.may_judge(precisions)
    # Whatever the caller runs in: here gradients are taken, and tensors computed with in their own types.
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        uncompiled(),
        writing_bundle(out, force=force) as folder,
    ):
        data = _check_data(data, energy)
        if gating.judges(precisions):
            warn_of_few(energy)
        tell("checking the energy", 0, 0)
        starts_there = data is not None and energy.sampler is not None and energy.sampler.init == "data"
        check_contract(energy, torch.as_tensor(data) if starts_there else None)
        config, trajectory = energy.sampler, None
        if config is None:
            config, trajectory = find_sampler(
                energy, progress=lambda done, total: tell("finding a step size", done, total)
            )
        tell("tracing", 0, 0)
        traced = trace(energy)
        limits = index_limits(traced)
        models = {"fp32": lower(traced, energy.name)}
        optimize(models["fp32"])
        widest = widest_activation(models["fp32"].graph)
        for precision in precisions:
            if precision in LOW_TYPES:
                models[precision] = typed(models["fp32"], precision)
        conditions = split_conditions(energy, data)
        if any(precision in CALIBRATED for precision in precisions):
            warn_of_unpaired(energy, conditions)
        networks = None
        if judges:
            networks = gating.networks(models["fp32"], conditions, model_spec(energy, limits=limits), folder)
        golden = None
        ends = [low for name in targets for low in low_types(name)] if "mixed" in precisions else []
        if verify:
            golden = make_golden(
                energy,
                config,
                data=data,
                trajectory=trajectory,
                precisions=[*precisions, *ends],
                jumps=traced.jumps,
                progress=lambda done, total: tell("running PyTorch's chains", done, total),
            )
            np.savez(folder / GOLDEN, allow_pickle=False, **golden)
            warn_of_climbing(golden, config)
            warn_of_left_out(golden)
        if data is not None:
            np.save(folder / DATA, data, allow_pickle=False)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # gone with the folder if we are killed
            written = write_artifacts(
                plan,
                models,
                traced,
                golden,
                spec=model_spec(energy, golden, limits, widest),
                config=config,
                conditions=conditions,
                data=data,
                batch=batch,
                gating=gating,
                networks=networks,
                weight_bits=weight_bits,
                ranges=ranges or "mse",
                splits=splits,
                fuse=fuse,
                folder=folder,
                scratch=Path(scratch),
                tell=tell,
            )
        if written.gates and not gating.judges(precisions):
            warn_of_few(energy)
        failures = [*written.mismatches, *written.unsupported, *written.refusals]
        refused = UnsupportedOperation if written.unsupported else QualityGateError
        kind = EngineMismatch if written.mismatches else refused
        if not written.artifacts:
            raise kind("; ".join(failures) + "; no engine is left, so no bundle was written")
        mark_verified(written.artifacts, written.verifications, written.gates)
        describe_bundle(
            folder,
            energy,
            config,
            golden,
            written.artifacts,
            written.verifications,
            written.gates,
            limits,
            widest,
            "x itself" if networks is None else networks.said,
        )
    path, failure = Path(out), None
    if failures:
        kept = ", ".join(artifact["path"] for artifact in written.artifacts)
        failure = kind("; ".join(failures) + f"; the others were written to {path}: {kept}")
    else:
        gating.remove_logs()
    seconds = time.perf_counter() - begun
    found = energy.sampler is None
    return ExportReport(path, written.artifacts, written.verifications, written.gates, config, found, seconds, failure)


def _check_sampler(config: SamplerConfig, has_data: bool, fuse: int | None, splits: bool) -> None:
    """Refuses settings that the other arguments do not go with; those that are found pass as the default ones do."""
    if config.init == "data" and not has_data:
        raise UsageError(
            'the sampler starts from data (init="data") and none was given: pass data= states [M, *S] '
            "(--calibration-data FILE.npy), or another init"
        )
    if fuse is not None:
        Fusion(fuse, config, splits).check()


def _check_data(data: Any, energy: Energy) -> np.ndarray | None:
    """The given states as float32 [M, *S], or None where there are none."""
    if data is None:
        return None
    wanted = tuple(energy.x.shape[1:])
    try:
        states = np.asarray(data, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"data (--calibration-data): expected numbers [M, {', '.join(map(str, wanted))}]: {error}"
        ) from error
    if states.shape[1:] != wanted or not len(states):
        raise UsageError(
            f"data (--calibration-data): expected at least one state [M, {', '.join(map(str, wanted))}], got {list(states.shape)}"
        )
    rows = states.reshape(len(states), -1)
    lost = sum(
        int((~np.isfinite(rows[first : first + _ROWS]).all(axis=1)).sum()) for first in range(0, len(rows), _ROWS)
    )
    if lost:
        raise UsageError(
            f"data (--calibration-data): expected finite numbers, got NaN or infinity in {lost} of {len(states)} states; leave these out"
        )
    return states
