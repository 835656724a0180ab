"""A request's chains run to their end, in as few engine calls as are known to be faster."""

from __future__ import annotations

import numpy as np

from .checkpoint import Checkpoint
from .divergence import Divergence
from .errors import DivergenceError
from .fused_choice import FusedChoice
from .progress import Callback, ProgressOnly
from .request import Request
from .run import run_chains
from .sample_file import SampleFile

__all__ = ["run_whole"]

_LONG_RUN = 4096
"""Engine calls of a run from which it is worth timing fused steps for it: that takes a hundred, and compiling an engine."""


def run_whole(
    request: Request,
    choice: FusedChoice,
    *,
    callback: Callback | None,
    diverged: Divergence,
    energy_range: tuple[float, float] | None,
    checkpoint: Checkpoint | None,
    samples: SampleFile | None,
) -> np.ndarray:
    """Runs the chains to their end.

    Args:
        request: the chains.
        choice: whether steps are fused.
        callback: as in `run.run_chains`, like all that follow, what is returned and what is raised.
        diverged: what happens to a chain whose numbers are not finite.
        energy_range: energies of a chain that is well.
        checkpoint: where the run is saved.
        samples: takes states on the way.
    """
    batch = request.batch
    # What is measured may come out otherwise when a run is gone on with, and its blocks would be other ones.
    worth = checkpoint is None and request.config.steps * request.n // batch >= _LONG_RUN
    fused = None
    # Whoever asked for every step gets every step, unless asked for blocks.
    watched = not isinstance(callback, ProgressOnly | None)
    if choice.asked or (checkpoint is None and not watched):
        every = None if samples is None else samples.every
        fused = choice.open_for(
            request.config, batch, worth=worth, why=request.why_one_by_one(energy_range), every=every
        )
    try:
        return run_chains(
            request.engine,
            request.config,
            request.start,
            request.n,
            max_batch=request.max_batch,
            callback=callback,
            diverged=diverged,
            restart=request.start,
            fused=fused,
            energy_range=energy_range,
            checkpoint=checkpoint,
            samples=samples,
            **request.options,
        )
    except DivergenceError as error:
        if diverged != "stop":
            raise
        # Only whoever makes a request can ask for another end; the exporter's own chains have none.
        goes_on = (
            ""
            if checkpoint is None or not checkpoint.path.exists()
            else f", with which {checkpoint.path} is gone on with"
        )
        raise DivergenceError(
            f'{error}; or pass diverged="restart" or "drop" (--diverged restart, --diverged drop){goes_on}'
        ) from error
