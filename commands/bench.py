"""ebm-run bench: the time of a step on this device."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import BundleArgument, Cpus, JsonOption, MemoryLimit
from ..terminal import LOG, print_json, progress, table
from .option_texts import limit_process

__all__ = ["bench"]


def bench(
    bundle: BundleArgument,
    batch: Annotated[
        list[int] | None, typer.Option(help="Batch size; repeat for several. 1 and 8 if left out.", min=1)
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            help="CPU threads of the engine; repeat for several. The library's own, 1 and half of the cores if left out.",
            min=1,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Time for each engine and batch, and for each of --threads.", min=0.05)
    ] = 0.5,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep/--no-keep", help="Keep the result for this device, for load and the other commands to choose by."
        ),
    ] = True,
    cpus: Cpus = None,
    memory_limit: MemoryLimit = None,
    as_json: JsonOption = False,
) -> None:
    """Time a step of every engine that runs on this device: backends, precisions, batch sizes, threads, fused steps.

    The result is kept in the user's cache folder; from then on `load`, sample, refine and score take the fastest backend, number of
    threads and fused steps for fp32, or for the precision that they are asked for.
    """
    limit_process(cpus, memory_limit)
    from ..runtime.bench import numbers_of_threads, time_bundle
    from ..runtime.bundle import Bundle
    from ..runtime.measured import keep_measurements
    from ..runtime.runnable import check_runnable

    check_runnable(Bundle(bundle))
    with progress() as tell:
        counts = threads or numbers_of_threads()
        share = seconds if threads else seconds / len(counts)
        rows = time_bundle(bundle, batches=batch or [1, 8], threads=counts, seconds=share, progress=tell)
    kept = keep_measurements(Bundle(bundle), rows) if keep else None
    if as_json:
        print_json(rows)
    else:
        table(str(bundle), [{**row, "threads": row["threads"] or "-", "fused": row["fused"] or "-"} for row in rows])
    if kept is not None:
        LOG.print(f"kept for this device: {kept}", markup=False, soft_wrap=True)
    elif keep:
        LOG.print(
            "not kept for this device: there is no cache folder that can be written to; set XDG_CACHE_HOME to one",
            soft_wrap=True,
        )
