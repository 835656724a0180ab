"""What `ebm-export` does with its options."""

from __future__ import annotations

from typing import Any

from ..runtime.array_file import read_given_array
from ..runtime.batch_range import parse_batch_range
from ..runtime.errors import UsageError
from .closing_table import closing_table
from .export import ExportReport, export_energy
from .export_options import ExportOptions
from .factory import parse_model_args
from .gating import gating_for
from .input_spec import parse_cond, parse_shape
from .load import load_model
from .targets import Progress
from .usable_options import check_options

__all__ = ["run_export"]

_GATE, _SMALLEST_DIFFERENCE = 1.25, 0.15


def run_export(options: ExportOptions, progress: Progress) -> tuple[ExportReport, list[dict[str, Any]]]:
    """Loads, exports and times.

    Returns:
        The report and the rows of the closing table: file, precision, size of the score graph and its prologue, what
        `--fuse` added, worst error, time of one step, and the manifest's note.
    """
    if options.gate is not None and options.no_gate:
        raise UsageError("--gate and --no-gate: leave one of them out")
    batch = parse_batch_range(options.batch or "1:8:64")
    targets, precisions = options.targets or ["onnxruntime"], options.precisions or ["fp32"]
    out = options.out or options.model.parent / f"{options.model.stem}.ebm"
    gating = gating_for(
        precisions,
        None if options.no_gate else _GATE if options.gate is None else options.gate,
        smallest_difference=_SMALLEST_DIFFERENCE
        if options.smallest_difference is None
        else options.smallest_difference,
        out=out,
        seconds=options.search_seconds,
        all_low=options.gate is not None or (options.smallest_difference is not None and not options.no_gate),
        features=options.features or "pixels",
        classes=options.classes,
    )
    _check_gate_options(options, gating.judges(precisions))
    check_options(
        targets,
        precisions,
        batch,
        out=out,
        force=options.force,
        gating=gating,
        weight_bits=options.weight_bits,
        ranges=options.ranges,
    )
    given = options.calibration_data
    data = None if given is None else read_given_array(given, "--calibration-data", mapped=True)
    progress(f"loading {options.model.name or options.model}", 0, 0)
    energy = load_model(
        options.model,
        factory=options.factory,
        factory_args=parse_model_args(options.model_args),
        shape=None if options.shape is None else parse_shape(options.shape),
        cond=parse_cond(options.cond) if options.cond else None,
        wrt=options.wrt,
        energy=options.energy,
        state_key=options.state_key,
        strip_prefix=options.strip_prefix,
        trust_pickle=options.trust_pickle,
    )
    energy.sampler = options.sampler_over(energy.sampler)
    report = export_energy(
        energy,
        out=out,
        targets=targets,
        precisions=precisions,
        batch=batch,
        gating=gating,
        data=data,
        weight_bits=options.weight_bits,
        ranges=options.ranges,
        splits=not options.no_split,
        fuse=options.fuse,
        verify=options.verify is not False,
        force=options.force,
        progress=progress,
    )
    rows = closing_table(
        report, fused=options.fuse is not None, gated=not options.no_gate, batch=batch[1], progress=progress
    )
    return report, rows


def _check_gate_options(options: ExportOptions, judges: bool) -> None:
    """Refuses what says how samples are judged where none are."""
    for option, value in (("--gate", options.gate), ("--smallest-difference", options.smallest_difference)):
        if value is not None and not judges:
            raise UsageError(
                f"{option} says how the quality gate judges samples, and nothing goes through it here: ask for int8 or mixed without "
                "--no-gate, or for fp16 or bf16, or leave it out"
            )
