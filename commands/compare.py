"""ebm-compare: engines side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Classes, CondFiles, JsonOption, Seed, Threads
from ..runtime.array_file import read_given_array
from ..runtime.errors import QualityGateError
from ..terminal import LOG, print_json, progress, table
from .option_texts import conditions_of

__all__ = ["compare_command"]


def compare_command(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...",
            help="Folders that ebm-export wrote; the first holds the reference.",
            show_default=False,
        ),
    ],
    precision: Annotated[
        list[str] | None,
        typer.Option(help="As ebm-run info lists them, or by steps: int8:0-200,bf16:200-; repeat; all if left out."),
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Repeat for several; all if left out.")] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE.onnx, a graph quantized elsewhere, with grad_scale or without; NAME=openvino:FILE.onnx; NAME=FILE.xml."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and the samples.")] = Path("report"),
    chains: Annotated[
        int | None, typer.Option(help="Chains of each engine; follows from --smallest-difference if left out.", min=1)
    ] = None,
    smallest_difference: Annotated[
        float, typer.Option(help="Shift that should be seen, in standard deviations of the energy.")
    ] = 0.1,
    gate: Annotated[float, typer.Option(help="Largest ratio to the seed noise floor that passes.")] = 1.25,
    require_pass: Annotated[
        bool, typer.Option("--require-pass", help="Exit code 6 unless every candidate passes.")
    ] = False,
    features: Annotated[
        str, typer.Option(help="What samples are compared by: pixels, model, or FILE.onnx from x to features.")
    ] = "pixels",
    classes: Classes = None,
    data: Annotated[
        Path | None, typer.Option(help="FILE.npy [M, *S], real data; with --ood for the AUROC, and for --likelihood.")
    ] = None,
    ood: Annotated[Path | None, typer.Option(help="FILE.npy [M, *S], other data.")] = None,
    likelihood: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Bounds of the log-likelihood, in nats, of each engine's samples, and of --data, under FP32's model: annealed "
            "importance sampling over K temperatures, forth and back. 200 is a good start; more narrow the bounds. Takes about 900 K "
            "evaluations of FP32, as 1800 chains of K/2 steps do, and one condition, where the model takes any. Judges nothing.",
            min=2,
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Run 64 chains of each candidate that FP32 corrects, as ebm-run sample --exact does, and say how many blocks are accepted. "
            "Judges nothing.",
        ),
    ] = False,
    cond: CondFiles = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch to time; repeat; 1 and 8 if left out.", min=1)] = None,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: JsonOption = False,
) -> None:
    """Put engines side by side: how well they draw, how fast, at what size and energy. Needs ebm-export[calibration].

    ebm-compare model.ebm

    compares every engine in the bundle with its FP32 engine. The samples decide: an engine passes the gate when its
    samples, drawn with another seed, are as close to FP32's as FP32's own are from one seed to the next. All engines
    draw with the bundle's own sampler settings. Other people's engines, and other models with the same x:

    ebm-compare model.ebm --precision int8 --candidate nncf=openvino:quantized.onnx --out report

    ebm-compare old.ebm new.ebm

    How many chains that takes follows from --smallest-difference: 1800 for 0.1, 450 for 0.2; with --chains 200 or so for a
    first look. Samples are kept in the folder that is written, under a name made of all that decides them, so a comparison
    that was stopped goes on where it was when it is started again. Open report.html in any browser; it needs no network.
    """
    from ..calibration.command import run_compare
    from ..calibration.compare_options import CompareOptions

    options = CompareOptions(
        bundles=bundles,
        backends=backend or [],
        precisions=precision or [],
        candidates=candidate or [],
        gate=gate,
        smallest_difference=smallest_difference,
        chains=chains,
        features=features,
        classes=classes,
        data=None if data is None else read_given_array(data),
        ood=None if ood is None else read_given_array(ood),
        likelihood=likelihood,
        exact=exact,
        cond=conditions_of(cond),
        seed=seed,
        threads=threads,
        batches=batch or [1, 8],
    )
    with progress() as tell:
        report, rows = run_compare(options, out, tell)
    if as_json:
        print_json(report)
    else:
        table(str(out / "report.html"), rows)
        LOG.print(report["power"], markup=False, soft_wrap=True)  # or why the table has no energy per sample
        for entry in report["not_run"]:
            LOG.print(f"not run: {entry['name']}: {entry['reason']}", markup=False, soft_wrap=True)
        for line in report["not_timed"]:
            LOG.print(f"no time of a step: {line}", markup=False, soft_wrap=True)
        for line in report["not_exact"]:
            LOG.print(f"no acceptance of exact sampling: {line}", markup=False, soft_wrap=True)
        for line in report["failures"]:
            print(line)
    if require_pass and report["failures"]:
        raise QualityGateError(
            f"{len(report['failures'])} of {len(rows) - 1} candidates fail: {'; '.join(report['failures'])}"
        )
