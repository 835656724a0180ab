"""ebm-run score: energies and gradients of given samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..options import Backend, BundleArgument, CondFiles, JsonOption, PrecisionName, Threads, array_of, conditions_of
from ..terminal import print_json

__all__ = ["score"]


def score(
    bundle: BundleArgument,
    x: Annotated[Path, typer.Argument(help="FILE.npy [B, *S].", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="FILE.npz to write energy and grad to.")] = None,
    cond: CondFiles = None,
    backend: Backend = None,
    precision: PrecisionName = None,
    threads: Threads = None,
    as_json: JsonOption = False,
) -> None:
    """Print the energy of each sample; lower is more likely."""
    from ..runtime import load
    from ..runtime.arguments import check_writable
    from ..runtime.replaced_file import replacing

    if out is not None:
        check_writable("--out", out)
    with load(bundle, backend=backend, precision=precision, threads=threads) as ebm:
        energy, grad = ebm.score(array_of(x), cond=conditions_of(cond))
    if out is not None:
        with replacing(out) as file:  # a name alone would get the ending .npz, whatever it has
            np.savez(file, energy=energy, grad=grad)
    if as_json:
        print_json({"energy": energy.tolist()})
        return
    for value in energy:
        print(f"{value:.6g}")
