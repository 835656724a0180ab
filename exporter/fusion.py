"""Writes and checks the graphs that take several steps in one call."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..runtime.backends import available, backend_of, needs_scale, open_engine
from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError
from ..runtime.fused_check import why_steps_differ
from ..runtime.fused_steps import BAKED, EACH, FUSABLE, LEAVE_OUT, Fused
from ..runtime.known_scales import NOTHING_KNOWN, KnownScales
from ..runtime.manifest import CALIBRATED
from ..runtime.verify import Tolerance
from .sampler_graph import sampler_graph
from .shared_rows import led_by_batch, led_by_one_row
from .split import Split, split
from .standalone_check import check_standalone
from .standalone_sampler import standalone_sampler, why_not_standalone
from .targets import Artifact, Progress, add_note, target
from .written_engine import written_engine

__all__ = ["Fusion"]


class Fusion(NamedTuple):
    """What `--fuse` asks for.

    Attributes:
        steps: K, steps in one call.
        config: the sampler's settings.
        splits: whether the score graph is split, as its artifact is.
        scales: what is known of the gradient scales of the chains.
        energies: whether the energy of each step is looked at, as nothing else shows that one is infinite
            (`passes.infinite_energy`, of the whole graph: a wall may come out of the prologue).
    """

    steps: int
    config: SamplerConfig
    splits: bool
    scales: KnownScales = NOTHING_KNOWN
    energies: bool = False

    def check(self) -> None:
        """Refuses settings that cannot be fused.

        Raises:
            UsageError: the sampler accepts and rejects, or K is no number of at least 2.
        """
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 2:
            raise UsageError(f"fuse: expected the number of steps in one call, at least 2, got {self.steps!r}")
        if self.config.sampler not in FUSABLE:
            raise UsageError(
                f"fuse: the sampler {self.config.sampler!r} accepts and rejects, which no graph of fixed steps can; it can be "
                f"done for {', '.join(FUSABLE)}"
            )

    def write(
        self, artifact: Artifact, model: ir.Model, folder: Path, batch: tuple[int, int, int], tell: Progress
    ) -> Artifact:
        """Writes the graph of K steps beside a score graph; returns its entry.

        Args:
            artifact: the score graph's entry.
            model: the score graph that it was written from, whole or its steps' part.
            folder: where its files are.
            batch: smallest, most frequent and largest batch.
            tell: progress.
        """
        halves = split(model) if self.splits else None
        score = led_by_one_row(model if halves is None else halves.score, artifact.get("shared", []))
        each = artifact["target"] in ("openvino", "onnxruntime")  # which can be told to leave an output out
        scales = self._scales(artifact)
        highest = None if scales is None else scales.highest
        graph = sampler_graph(score, self.config, self.steps, highest_scale=highest, each=each, energies=self.energies)
        made = self._written(artifact, ir.to_proto(graph), folder, batch, "sampler", tell)
        made["steps"] = self.steps
        if each:
            made["options"][LEAVE_OUT] = [EACH[0]] if self.energies else list(EACH)
        return made

    def write_standalone(
        self, artifact: Artifact, exact: ir.Model, folder: Path, batch: tuple[int, int, int], tell: Progress
    ) -> Artifact | None:
        """Writes a whole chain with noise of its own; None where there can be none, which the score graph's note then says.

        Args:
            artifact: the score graph's entry; it is made of its files, which are ONNX.
            exact: the FP32 score graph, whole: its files may lack inputs that the energy does not read.
            folder: where they are.
            batch: smallest, most frequent and largest batch.
            tell: progress.
        """
        why = why_not_standalone(self.config, artifact["precision"], artifact.get("schedule", ""))
        if why is not None:
            add_note(artifact, f"no file with a whole chain: {why}")
            return None
        graph = standalone_sampler(
            _read(artifact, folder), self.config, scales=self._scales(artifact), conditions=exact.graph.inputs
        )
        made = self._written(artifact, ir.to_proto(graph), folder, batch, "standalone", tell)
        made["role"] = "sampler"
        add_note(made, "a whole chain with noise of its own, for other programs")
        if artifact["precision"] in CALIBRATED:  # our own runtime asks for kernels that do not overflow
            add_note(made, "onnxruntime on an x86 CPU without VNNI needs session.disable_quant_qdq=1")
        return made

    def why_standalone_wrong(
        self,
        artifact: Artifact,
        made: Artifact,
        exact: ir.Model,
        folder: Path,
        golden: dict[str, np.ndarray],
        limits: Tolerance,
    ) -> str | None:
        """Runs a whole chain once, see `check_standalone`, and keeps what was found in its entry.

        Args:
            artifact: the score graph's entry.
            made: that of the whole chain.
            exact: the FP32 score graph, whole.
            folder: where the files are.
            golden: as in `verify.check_engine`.
            limits: what the score graph's energies may be off by.

        Returns:
            None where nothing is off, else what is.
        """
        with tempfile.TemporaryDirectory(dir=folder) as name:
            scratch = Path(name)
            reference = scratch / "exact.onnx"
            ir.save(exact, reference)
            with (
                open_engine("onnxruntime", reference, precision="fp32") as judge,
                written_engine(artifact, folder, scratch, scales=self.scales, as_it_is=True) as engine,
            ):
                check = check_standalone(
                    folder / made["path"],
                    scratch,
                    exact=judge,
                    engine=engine,
                    golden=golden,
                    config=self.config,
                    precision=made["precision"],
                    limits=limits,
                    steps=min(self.steps, self.config.steps),
                )
        made["check"] = check.found
        return f"{made['path']} {check.wrong}" if check.wrong else None

    def _scales(self, artifact: Artifact) -> KnownScales | None:
        """What is known of the running scale; None where the artifact's gradients need none."""
        return self.scales if needs_scale(artifact["precision"]) else None

    def why_wrong(self, artifact: Artifact, made: Artifact, folder: Path, golden: dict[str, np.ndarray]) -> str | None:
        """Takes K steps both ways, see `why_steps_differ`.

        Returns:
            None where they end in the same places, else what is off; "not run" where the backend is not there.
        """
        if available(backend_of(artifact["target"])) is not None:
            return "not run"
        forms = [made]
        if LEAVE_OUT in made["options"]:
            whole = {name: value for name, value in made["options"].items() if name != LEAVE_OUT}
            forms.append(Artifact(**{**made, "options": whole}))  # type: ignore[typeddict-item]
        with (
            tempfile.TemporaryDirectory() as scratch,
            written_engine(artifact, folder, Path(scratch), scales=self.scales) as engine,
        ):
            for form in forms:
                each = form is not made
                own = written_engine(form, folder, Path(scratch), scales=self.scales)
                fused = Fused(own, self.steps, self.config, each=each)
                with fused.engine:
                    found = why_steps_differ(engine, fused, self.config, golden, artifact["precision"])
                if found is not None:
                    return f"{made['path']} {found}"
        return None

    def _written(
        self, artifact: Artifact, proto: Any, folder: Path, batch: tuple[int, int, int], role: str, tell: Progress
    ) -> Artifact:
        made: Artifact = target(artifact["target"]).write(
            proto, folder, precision=artifact["precision"], batch=batch, role=role, progress=tell
        )
        made["options"] |= artifact["options"]
        made["settings"] = {name: value for name, value in self.config.to_dict().items() if name in BAKED}
        return made


def _read(artifact: Artifact, folder: Path) -> ir.Model | Split:
    """The graph of an artifact, in two halves where its files are: in INT8 each was quantized by itself."""
    score = ir.load(folder / artifact["path"])
    if "prologue" not in artifact:
        return score
    first, score = artifact["prologue"], led_by_batch(score, artifact.get("shared", []))
    return Split(ir.load(folder / first["path"]), score, tuple(first["reads"]), tuple(artifact["reads"]))
