"""What ebm-run sample and ebm-run refine have in common: they draw, and show what came of it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..terminal import LOG, print_json, progress

if TYPE_CHECKING:
    from ..runtime.command import DrawOptions

__all__ = ["draw"]


def draw(options: DrawOptions, as_json: bool) -> None:
    """Draws, and prints what came of it."""
    from ..runtime.command import run_draw

    if options.stream is None:
        with progress() as tell:
            drawn = run_draw(options, tell)
    else:  # whose lines say how far it is; a bar would have them on stderr, where that is a terminal
        drawn = run_draw(options, lambda what, done, total: None, lambda line: _is_heard(line, as_json))
    result = drawn.result
    if as_json:
        print_json(result)
        return
    LOG.print(result["engine"], markup=False, soft_wrap=True)
    count, *shape = result["shape"]
    print(
        f"{result['out']}: {count} samples {shape}, energy {result['energy_mean']:.4g} on average, seed {result['seed']}"
    )
    if "steps" in result:
        print(f"{result['steps']} of {drawn.steps} steps")
        lost = result["without_energy"]
        for chains, said in (
            (set(result["diverged"]) - set(lost), "diverged, and are what they were at their lowest energy before"),
            (lost, "never had a finite energy, and are what they began as"),
        ):
            if chains:
                LOG.print(f"{len(chains)} of {count} {said}", style="yellow", markup=False, soft_wrap=True)
    if "buffer" in result:
        buffer = result["buffer"]
        print(f"{buffer['file']}: {buffer['states']} states; {buffer['fresh']} of {count} chains started anew")
    if "acceptance" in result:
        blocks = f", and {result['block_acceptance']:.3f} of blocks" if "block_acceptance" in result else ""
        print(f"temperature {result['temperature']:.4g}; accepted {result['acceptance']:.3f} of steps{blocks}")


def _is_heard(line: Mapping[str, Any], as_json: bool) -> bool:
    """Prints a line of a stream, and says whether somebody reads it: who has enough closes the pipe."""
    try:
        if as_json:
            print_json(line)
        else:
            energies = f"energy {line['energy_mean']:.4g} on average, {line['energy_min']:.4g} the lowest"
            print(f"step {line['steps']}, {line['seconds']:.3f} s: {energies}")
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # the second is what Windows says of a closed pipe
            raise
        # Where Python itself would write what is left when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
