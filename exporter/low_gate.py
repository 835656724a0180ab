"""The gate for FP16 and BF16 engines: in any case where somebody asked for it, else where it is quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..calibration.temperature import comes_to_rest
from ..calibration.verdict import GateResult
from ..runtime.errors import DivergenceError, EngineMismatch, UsageError
from .calibrated import CalibratedArtifacts
from .gating import Gating
from .targets import Artifact, Progress, add_note
from .time_to_judge import seconds_to_draw

__all__ = ["LowGate"]


class LowGate:
    """Judges such engines of one export one after another, and notes of each that it does not judge why.

    Args:
        gating: whether, and for how long.
        calibrated: opens engines, and has the gate with FP32's side.
        golden: states to time engines at; None where nothing is compared with PyTorch.
        folder: the bundle's.
        tell: progress.
    """

    def __init__(
        self,
        gating: Gating,
        calibrated: CalibratedArtifacts,
        golden: Mapping[str, np.ndarray] | None,
        folder: Path,
        tell: Progress,
    ) -> None:
        self._gating, self._calibrated, self._golden = gating, calibrated, golden
        self._folder, self._tell = folder, tell
        self._drawing = 0.0  # seconds that samples nobody asked for were expected to take so far
        self._no_reference = ""  # why FP32 has none that these could be compared with, once that is known

    def judge(self, artifact: Artifact, *, ran: bool) -> tuple[str, GateResult | None]:
        """Why the gate refuses an artifact, or "", and what it found; nothing where it is not asked.

        Args:
            artifact: its entry; one that is not judged gets a note.
            ran: whether its engine was compared with PyTorch.
        """
        unasked = self._gating.if_quick
        why_not = self._why_not(artifact, ran) if unasked else self._gating.why_not
        if why_not:
            add_note(artifact, f"its samples were not judged: {why_not}")
        if why_not or self._gating.low_seconds == 0:
            return "", None
        self._tell(f"judging the score of {artifact['path']}", 0, 0)
        try:
            return self._calibrated.verdict(artifact, self._folder)
        except (DivergenceError, EngineMismatch, UsageError) as error:  # of FP32, or of its chains
            if not unasked:
                raise
            self._no_reference = str(error)
            add_note(artifact, f"its samples were not judged: {error}")
            return "", None

    def _why_not(self, artifact: Artifact, ran: bool) -> str:
        """Why nobody who did not ask for it should wait, or "" where it is quick."""
        if self._golden is None or not ran:
            return "it was not run"
        if self._no_reference:
            return self._no_reference
        config = self._calibrated.config
        if comes_to_rest(config):
            return "its chains come to rest, maybe all at one point, where there is no spread to compare with"
        self._tell(f"timing {artifact['path']}", 0, 0)
        with self._calibrated.open(artifact, self._folder) as engine:
            seconds = seconds_to_draw(
                engine, self._golden, config, chains=self._gating.chains, rows=self._calibrated.rows
            )
        if self._drawing + seconds > self._gating.low_seconds:
            more = " more" if self._drawing else ""
            return (
                f"that takes about {_minutes(seconds)}{more} here; --gate 1.25 (gate_all=True) has it done all the same"
            )
        self._drawing += seconds
        return ""


def _minutes(seconds: float) -> str:
    """A time to draw samples, roughly."""
    return "1 minute" if seconds < 90 else f"{round(seconds / 60)} minutes"
