"""The file that a call of `Ebm.sample` has its states on the way written to."""

from __future__ import annotations

from pathlib import Path

from .arguments import check_room
from .checkpoint import Checkpoint
from .errors import UsageError
from .request import Request
from .sample_file import SampleFile

__all__ = ["sample_file_of"]


def sample_file_of(
    request: Request, every: int | None, out: str | Path | None, checkpoint: Checkpoint | None
) -> SampleFile | None:
    """Makes the file of `every` and `out`, which go together, or goes on with the one that a checkpoint's run writes to.

    Args:
        request: the chains.
        every: steps between two rows; None writes none.
        out: the file; None writes none.
        checkpoint: of the run; from here on the states are on disk before it is saved. None where there is none.

    Raises:
        UsageError: one of the two is missing, or they do not fit the run or its checkpoint.
        LoadError: the checkpoint cannot be read, or the file that is there is another one.
    """
    resumed = False
    if checkpoint is not None:
        if out is not None and Path(out).resolve() == checkpoint.path.resolve():
            raise UsageError(f"out and checkpoint: both are {out}; give each a file of its own")
        resumed = checkpoint.load() is not None
        if out is not None and not Path(out).exists() and resumed:
            raise UsageError(
                f"out (--states): {out}, which the run of {checkpoint.path} writes to, is gone: remove the checkpoint to begin anew"
            )
    if every is None and out is None:
        return None
    if every is None or out is None:
        raise UsageError("every and out: states are written to a file every so many steps, so give both or neither")
    if every > request.config.steps:
        raise UsageError(f"every: expected at most the {request.config.steps} steps of the chain, got {every}")
    request.check()  # before a file that is there makes way for this run's
    rows = request.config.steps // every
    check_room("every", rows * request.n, request.start.shape)
    samples = SampleFile(out, rows, request.n, request.start.shape, every, goes_on=resumed)
    if checkpoint is not None:
        checkpoint.before = samples.sync
    return samples
