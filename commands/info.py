"""ebm-run info: what a device has, and what of a bundle it can run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..options import JsonOption
from ..terminal import print_json, table

__all__ = ["info"]


def info(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Folder that ebm-export wrote; the device alone if left out.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what this device has, or what is in a bundle and which of it this device can run."""
    if bundle is None:
        _device_info(as_json)
        return
    from ..runtime.bundle import Bundle
    from ..runtime.method import settings_of
    from ..runtime.runnable import why_not

    opened = Bundle(bundle)
    rows = []
    for artifact in opened.artifacts:
        reason = why_not(artifact)
        if reason is None and not (opened.path / artifact.path).is_file():
            reason = "the file is missing: copy the whole folder, or export again"
        rows.append(
            {
                "file": artifact.path,
                "role": artifact.role,
                "target": artifact.target,
                "precision": artifact.precision,
                "status": artifact.status,
                "runs here": "yes" if reason is None else "no",
                "note": "; ".join(filter(None, (artifact.note, reason))),
            }
        )
    model, sampler = opened.manifest.model, opened.manifest.sampler.to_dict()
    if as_json:
        print_json({"model": dataclasses.asdict(model), "sampler": sampler, "artifacts": rows})
        return
    inputs = [model.x, *model.cond]
    table(
        f"{model.name}: " + ", ".join(f"{spec.called} {list(spec.shape)} {spec.dtype}" for spec in inputs), rows, "note"
    )
    used = settings_of(opened.manifest.sampler.sampler)
    print("sampler: " + ", ".join(f"{key}={value}" for key, value in sampler.items() if key in used))


def _device_info(as_json: bool) -> None:
    from ..runtime.backends import BACKENDS, available
    from ..runtime.device import describe_device, toolchain
    from ..runtime.measured import fingerprint

    device, versions = describe_device(), toolchain()
    rows = []
    for backend in BACKENDS:
        missing = available(backend)
        rows.append({"backend": backend, "usable": "yes" if missing is None else "no", "note": missing or ""})
    if as_json:
        print_json({"device": device, "toolchain": versions, "fingerprint": fingerprint(), "backends": rows})
        return
    table("this device", [{"": name, "found": value} for name, value in device.items()])
    table("backends", rows)
    print(f"versions: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    print(f"fingerprint: {fingerprint()}")
