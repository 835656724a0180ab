"""The prologue of an INT8 or mixed artifact: in INT8 too, where the gate has real conditions to see what that does."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..calibration.quantization.layer_entry import layer_entry
from ..calibration.quantization.layers import Layer, find_layers
from ..calibration.quantization.prologue import PrologueQuantizer
from ..runtime.shared_rows import rows_apart
from .agreement import as_close
from .calibrated import Calibrated, CalibratedArtifacts
from .conditions import ENOUGH
from .split import Split
from .targets import Artifact, add_note
from .targets.score import files_of, write_score

__all__ = ["lower_prologue"]

_SMALL = 0.01
"""Share of the multiplications of one chain below which a prologue stays as it is: its INT8 engine would gain nothing."""
_LEAST_SHARE = 0.5
"""Share of its multiplications in INT8 below which a prologue stays as it is."""


def lower_prologue(artifacts: CalibratedArtifacts, name: str, folder: Path, made: Calibrated) -> None:
    """Tries the artifact that was written last, and passed, with its prologue in INT8, and keeps that if it passes as well.

    What a feature is off by stays for a whole chain, and differs between conditions. So it takes real conditions, enough to calibrate
    at some and to judge at others; also where no gate judges. Where the gate refuses all of it, the layers that do the
    most harm for the work they do stay in float32, twice as many each time.

    Args:
        artifacts: of this export.
        name: of the target.
        folder: where the artifact is.
        made: the artifact; its entry with its note, its layers and its verdict are changed in place.
    """
    halves = artifacts.halves
    if halves is None:
        return
    # A layer may be in both halves; the steps say what becomes of it.
    inside = {layer.name for layer in find_layers(halves.score)}
    layers = [layer for layer in find_layers(halves.prologue) if layer.name not in inside]
    why = _why_float(artifacts, layers, made.artifact) or _try(artifacts, halves, name, folder, made)
    if why is not None:
        other = "fp32" if name == "openvino" else made.other  # OpenVINO is told to lower the steps alone
        made.layers[:0] = [layer_entry(layer, other, "as all of the prologue") for layer in layers]
        made.prologue = f"{other}: {why}"
        add_note(made.artifact, f"its prologue stays in {other} ({why})")


def _why_float(artifacts: CalibratedArtifacts, layers: Sequence[Layer], artifact: Artifact) -> str | None:
    """Why a prologue is not tried in INT8; None where it is."""
    if artifact.get("schedule"):
        return "not tried where precisions change over the steps"
    work = sum(layer.macs for layer in layers)
    chain = artifacts.config.steps * artifacts.graphs.quantizer(artifacts.scheme(artifact["target"])).work
    if work <= _SMALL * chain:
        return f"{work / max(chain, 1):.2%} of the work of one chain, so nothing to gain"
    if not artifacts.conditions.stand_for_use:
        return (
            f"what it rounds would bend a whole chain the same way, and only {ENOUGH} real conditions or more, as --cond "
            "NAME=FILE.npy gives them, would show how much"
        )
    return None


def _try(artifacts: CalibratedArtifacts, halves: Split, name: str, folder: Path, made: Calibrated) -> str | None:
    """Puts a prologue in INT8 in the place of the one that is there; returns why the gate refuses that, or None."""
    quantizer = PrologueQuantizer(
        halves.prologue,
        {own: artifacts.conditions.calibration[own] for own in halves.reads},
        artifacts.scheme(name),
        batch=artifacts.batch[1],
        progress=artifacts.tell,
    )
    order, kept, why = list(quantizer.harm), 0, ""
    computes = partial(_computes, artifacts, halves, quantizer, name, made.artifact["precision"])
    wrong = [] if computes(order) else [layer for layer in order if not computes([layer])]
    if wrong:
        artifacts.tell(
            f"{name} gets {len(wrong)} of {len(order)} layers of the prologue wrong in INT8: {', '.join(wrong)}", 0, 0
        )
        order = [layer for layer in order if layer not in wrong]
        why = "its engine computes something else than its graph"
    while True:
        int8 = order[kept:]
        if sum(layer.macs for layer in quantizer.layers if layer.name in int8) < _LEAST_SHARE * quantizer.work:
            return f"with it in INT8: {why}" if why else "nothing to gain"
        refused = _put(artifacts, halves._replace(prologue=quantizer.model(int8)), name, folder, made)
        if not refused:
            inside = {entry["name"] for entry in made.layers}
            entries = quantizer.describe(int8, f"with it in INT8: {why}")
            made.layers[:0] = [entry for entry in entries if entry["name"] not in inside]
            made.prologue = f"int8: {len(int8)} of {len(entries)} layers"
            ran = artifacts.prologue_int8(made.artifact, folder, entries)
            counts = f"{len(int8)} of {len(entries)} layers" if ran is None else ran
            add_note(made.artifact, f"its prologue runs in INT8 ({counts})")
            return None
        why, kept = refused, max(1, 2 * kept)


def _computes(
    artifacts: CalibratedArtifacts,
    halves: Split,
    quantizer: PrologueQuantizer,
    name: str,
    precision: str,
    int8: Sequence[str],
) -> bool:
    """Whether a target's engine computes what a prologue with these layers in INT8 says; backends have got some wrong, by any amount."""
    assert artifacts.latest is not None
    with tempfile.TemporaryDirectory(dir=artifacts.scratch) as scratch:
        apart = Path(scratch)
        tried = halves._replace(score=artifacts.latest, prologue=quantizer.model(int8))
        whole = write_score(name, tried, apart, precision=precision, batch=artifacts.batch)
        with artifacts.open(whole, apart) as engine:
            features = rows_apart(engine.prepare(quantizer.asked), len(next(iter(quantizer.asked.values()))))
            return as_close(quantizer.error_of(features), quantizer.error(int8))


def _put(artifacts: CalibratedArtifacts, halves: Split, name: str, folder: Path, made: Calibrated) -> str:
    """Puts a prologue in the place of the one that is there if it passes; returns why it does not, or ""."""
    assert artifacts.latest is not None
    artifact = made.artifact
    with tempfile.TemporaryDirectory(dir=artifacts.scratch) as scratch:
        apart = Path(scratch)
        whole = write_score(
            name,
            halves._replace(score=artifacts.latest),
            apart,
            precision=artifact["precision"],
            batch=artifacts.batch,
            progress=artifacts.tell,
        )
        whole["options"] |= artifact["options"]
        if artifacts.rules is not None:
            artifacts.tell(f"judging the score of {artifact['path']} with its prologue in INT8", 0, 0)
        refused, result = artifacts.verdict(whole, apart)
        if refused:
            return refused
        for file in files_of(whole["prologue"]):
            (apart / file).replace(folder / file)
    artifact["prologue"] = whole["prologue"]
    made.gate = result
    return ""
