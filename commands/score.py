"""ebm-run score: energies and gradients of given samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..options import (
    Added,
    Backend,
    BundleArgument,
    CondFiles,
    Cpus,
    JsonOption,
    MemoryLimit,
    Mixture,
    OodKind,
    PrecisionName,
    Threads,
    Weight,
)
from ..runtime.array_file import read_given_array
from ..runtime.errors import UsageError
from ..terminal import print_json
from .option_texts import composition_of, conditions_of, limit_process

__all__ = ["score"]


def score(
    bundle: BundleArgument,
    x: Annotated[Path, typer.Argument(help="FILE.npy [B, *S].", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="FILE.npz to write energy and grad to, and score where --kind asks for another.")
    ] = None,
    cond: CondFiles = None,
    add: Added = None,
    weight: Weight = None,
    mixture: Mixture = False,
    kind: Annotated[
        OodKind,
        typer.Option(
            help="What is printed: the energy; the length of its gradient; or, with --reference, how far the energy is from that of "
            "known data. Of all three more is further out of the distribution."
        ),
    ] = OodKind.energy,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="FILE.npz that this command's --out wrote of data in the distribution, for --kind typicality."
        ),
    ] = None,
    backend: Backend = None,
    precision: PrecisionName = None,
    threads: Threads = None,
    cpus: Cpus = None,
    memory_limit: MemoryLimit = None,
    as_json: JsonOption = False,
) -> None:
    """Print the energy of each sample, lower is more likely, or another score of how far it is out of the distribution."""
    limit_process(cpus, memory_limit)
    from ..runtime import load
    from ..runtime.arguments import check_writable
    from ..runtime.array_file import read_given_energies
    from ..runtime.composed_bundles import load_composition
    from ..runtime.ood import check_reference, scores_of
    from ..runtime.replaced_file import replacing

    if out is not None:
        check_writable("--out", out)
    if kind is OodKind.typicality and reference is None:
        raise UsageError(
            "--kind typicality needs --reference FILE.npz: what this command's --out wrote of data in the distribution"
        )
    known = None if reference is None else read_given_energies(reference, "--reference")
    check_reference(kind.value, known)
    composition, given = composition_of(add, weight, mixture), conditions_of(cond)
    how: dict[str, Any] = {"backend": backend, "precision": precision, "threads": threads}
    with (
        load(bundle, **how)
        if composition is None
        else load_composition(bundle, composition, {}, given, **how)[0] as ebm
    ):
        energy, grad = ebm.score(read_given_array(x), cond=given)
    found = {"energy": energy, "grad": grad}
    if kind is not OodKind.energy:
        found["score"] = scores_of(kind.value, energy, grad, known)
    if out is not None:
        with replacing(out) as file:  # a name alone would get the ending .npz, whatever it has
            np.savez(file, **found)  # type: ignore[arg-type]
    if as_json:
        print_json({name: array.tolist() for name, array in found.items() if name != "grad"})
        return
    for value in found.get("score", energy):
        print(f"{value:.6g}")
