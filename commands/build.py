"""ebm-run build: TensorRT plans for this device."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import BundleArgument, JsonOption
from ..runtime.batch_range import parse_batch_range
from ..terminal import print_json, progress, table

__all__ = ["build"]


def build(
    bundle: BundleArgument,
    precision: Annotated[list[str] | None, typer.Option(help="Repeat for several; all if left out.")] = None,
    batch: Annotated[str, typer.Option(help="MIN:OPT:MAX batch of the plan.")] = "1:8:64",
    as_json: JsonOption = False,
) -> None:
    """Build TensorRT plans for this device from the ONNX files in the bundle."""
    from ..runtime.build import build_plans

    with progress() as tell:
        rows = build_plans(bundle, precisions=precision, batch=parse_batch_range(batch), progress=tell)
    if as_json:
        print_json(rows)
    else:
        table(str(bundle), rows, notes="note")
