"""ebm-run verify: this device's engines beside PyTorch's answers."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import BundleArgument, Cpus, JsonOption, MemoryLimit, Threads
from ..terminal import LOG, print_json, progress, table
from .option_texts import limit_process

__all__ = ["verify"]


def verify(
    bundle: BundleArgument,
    backend: Annotated[str | None, typer.Option(help="Only this backend; every one if left out.")] = None,
    precision: Annotated[str | None, typer.Option(help="Only this precision; every one if left out.")] = None,
    threads: Threads = None,
    cpus: Cpus = None,
    memory_limit: MemoryLimit = None,
    as_json: JsonOption = False,
) -> None:
    """Compare this device's engines with PyTorch's answers, which the bundle carries."""
    limit_process(cpus, memory_limit)
    from ..runtime.verify_bundle import verify_bundle

    with progress() as tell:
        rows = verify_bundle(bundle, backend=backend, precision=precision, threads=threads, progress=tell)
    if as_json:
        print_json(rows)
    else:
        table(str(bundle), rows, "note")
    if all(row["result"] == "not run" for row in rows):
        LOG.print("nothing was compared: none of these engines runs here", style="yellow")
    if any(row["result"] == "failed" for row in rows):
        raise typer.Exit(5)
