"""ebm-run verify: this device's engines beside PyTorch's answers."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import BundleArgument, JsonOption, Threads
from ..terminal import LOG, print_json, progress, table

__all__ = ["verify"]


def verify(
    bundle: BundleArgument,
    backend: Annotated[str | None, typer.Option(help="Only this backend; every one if left out.")] = None,
    precision: Annotated[str | None, typer.Option(help="Only this precision; every one if left out.")] = None,
    threads: Threads = None,
    as_json: JsonOption = False,
) -> None:
    """Compare this device's engines with PyTorch's answers, which the bundle carries."""
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
