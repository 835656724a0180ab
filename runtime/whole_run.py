"""A request's chains run to their end, in as few engine calls as are known to be faster."""

from __future__ import annotations

import numpy as np

from .checkpoint import Checkpoint
from .divergence import Divergence
from .errors import DivergenceError
from .fused_choice import FusedChoice
from .fused_steps import Fused
from .progress import Callback, ProgressOnly
from .request import Request
from .run import run_chains
from .sample_file import SampleFile

__all__ = ["fused_for", "run_whole"]


def fused_for(
    request: Request,
    plain: FusedChoice,
    telling: FusedChoice,
    *,
    callback: Callback | None,
    energy_range: tuple[float, float] | None,
    every: int | None,
    earlier: bool | None,
) -> Fused | None:
    """Returns what takes several steps of these chains in one call, open; None where they are taken one by one.

    Args:
        request: the chains.
        plain: whether steps are fused.
        telling: likewise, by a graph that tells of each step, which an `energy_range` needs.
        callback: as in `run.run_chains`.
        energy_range: energies of a chain that is well.
        every: number of steps of which no call goes beyond a multiple; None for no such place.
        earlier: whether they were fused where this run goes on with an earlier one, whose blocks are those of this one; None where it
            begins.
    """
    choice = plain if energy_range is None or not telling.there else telling
    asked = choice.asked if earlier is None or choice.asked is not None else earlier
    # Whoever asked for every step gets every step, unless asked for blocks.
    if not asked and not isinstance(callback, ProgressOnly | None):
        return None
    batch = request.batch
    why = request.why_one_by_one(energy_range if choice is plain else None)
    calls = request.config.steps * request.n // batch
    return choice.open_for(request.config, batch, calls=calls, why=why, every=every, asked=asked)


def run_whole(
    request: Request,
    fused: Fused | None,
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
        fused: what takes several steps in one call, see `fused_for`.
        callback: as in `run.run_chains`, like all that follow, what is returned and what is raised.
        diverged: what happens to a chain whose numbers are not finite.
        energy_range: energies of a chain that is well.
        checkpoint: where the run is saved.
        samples: takes states on the way.
    """
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
