"""INT8 artifacts: every layer that gains from it, but for those that the quality gate wants kept in float32."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..calibration.int8_graphs import Int8Graphs
from ..calibration.quantization.calibrate import Scheme
from ..calibration.search_log import SearchLog
from ..runtime.errors import QualityGateError
from .calibrated import Calibrated, CalibratedArtifacts
from .hardly_faster import warn_before_samples
from .search_subject import search_log
from .target_scheme import LEAST_SHARE
from .targets import Artifact
from .targets.score import files_of
from .written_engine import steps_of

__all__ = ["write_int8"]


def write_int8(artifacts: CalibratedArtifacts, name: str, folder: Path, log: Path | None = None) -> Calibrated:
    """Writes the INT8 artifact of a target.

    All layers that gain from it run in INT8 at first. Where the gate refuses that, the layers that do the most harm
    for the work they do are kept in float32, twice as many each time.

    Args:
        artifacts: of this export.
        name: of the target; one whose files run here.
        folder: where the artifact goes.
        log: of the search for mixed, where that is asked for too: what each layer does is read from it, or else kept in it.

    Raises:
        QualityGateError: nothing passes with at least 30 % of the work in INT8.
    """
    scheme = artifacts.scheme(name)
    default = artifacts.graphs.quantizer(scheme).default
    if not default:
        raise QualityGateError(
            f"int8 for {name}: this energy has no layer that would gain from INT8, as convolutions and products with "
            "weights do where they are a good part of the work; export it in fp32, fp16 or bf16"
        )
    kept: dict[str, str] = {}
    while True:
        int8 = [layer for layer in default if layer not in kept]
        artifact = artifacts.write(name, folder, int8, "int8", "fp32")
        if artifacts.rules is not None and not kept:
            _warn_if_slow(artifacts, artifact, folder)
        known = None if kept else artifacts.fidelity_of_all(name)
        if artifacts.rules is not None and known is None:
            artifacts.tell(f"judging the score of {artifact['path']}", 0, 0)
        refused, result = artifacts.verdict(artifact, folder, known)
        if not refused:
            layers = artifacts.graphs.describe(scheme, int8, kept)
            artifacts.note_int8(artifact, folder, layers)
            return Calibrated(artifact, layers, result)
        records = None if kept or log is None else search_log(artifacts, name, log)  # known, the second time
        more = _most_harmful(artifacts.graphs, scheme, kept, records)
        if more is None:
            for file in files_of(artifact):
                (folder / file).unlink()
            raise QualityGateError(
                f"int8 for {name} fails the quality gate: {refused}. That is with {len(kept)} of {len(default)} "
                f"layers kept in float32; with more, less than {LEAST_SHARE:.0%} of the work would be in INT8. Export "
                "mixed, bf16 or fp16, or add --no-gate to have it written as it is"
            )
        kept |= {layer: f"{why}; with it in INT8: {refused}" for layer, why in more.items()}
        artifacts.tell(f"{refused}: keeping {len(kept)} of {len(default)} layers in float32", 0, 0)


def _warn_if_slow(artifacts: CalibratedArtifacts, artifact: Artifact, folder: Path) -> None:
    """Of an engine with all layers in INT8 that gain from it; with fewer it is no faster."""
    artifacts.tell(f"timing {artifact['path']}", 0, 0)
    inputs = artifacts.states.inputs(slice(0, artifacts.batch[1]))
    with artifacts.open(artifact, folder) as engine:
        warn_before_samples(artifact["path"], "int8", steps_of(engine), steps_of(artifacts.fp32), inputs)


def _most_harmful(
    graphs: Int8Graphs, scheme: Scheme, kept: Collection[str], log: SearchLog | None
) -> dict[str, str] | None:
    """The layers to keep next, as many as are kept already, with what each does; None where too little is left."""
    quantizer = graphs.quantizer(scheme)
    order = graphs.sensitivities(scheme, log)
    chosen = [name for name in order if name not in kept][: max(1, len(kept))]
    out = {*kept, *chosen}
    left = sum(layer.macs for layer in quantizer.layers if layer.name in quantizer.default and layer.name not in out)
    if not chosen or left < LEAST_SHARE * quantizer.work:
        return None
    return {name: order[name].said for name in chosen}
