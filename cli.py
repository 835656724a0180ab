"""The commands: ebm-export on the workstation, ebm-run on the device, ebm-compare on either; `commands/` has a file for each.

Results go to stdout, progress and messages to stderr. An error that a user can mend is one line and its exit code
(runtime/errors.py), and so is what the system refuses; anything else is a bug and keeps its traceback. Ctrl-C is the business
of entry.py.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable

import typer

from .commands.bench import bench
from .commands.build import build
from .commands.compare import compare_command
from .commands.export import export_command
from .commands.info import info
from .commands.option_texts import as_typed
from .commands.refine import refine
from .commands.sample import sample
from .commands.score import score
from .commands.verify import verify
from .runtime.errors import EbmExportError, UsageError
from .terminal import LOG

__all__ = ["ebm_compare", "ebm_export", "ebm_run"]


def ebm_export() -> None:
    """The whole of ebm-export; `entry` begins it, as the others."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None)
    app.command(name="ebm-export")(export_command)
    _main(
        app,
        "close other programs, or give a smaller --batch, or a larger --smallest-difference where samples are judged",
    )


def ebm_compare() -> None:
    """The whole of ebm-compare."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None)
    app.command(name="ebm-compare")(compare_command)
    _main(app, "give fewer --chains, or a larger --smallest-difference")


def ebm_run() -> None:
    """The whole of ebm-run."""
    app = typer.Typer(
        name="ebm-run",
        help="Sample from a bundle on the device. Needs no torch.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # it would swallow the brackets of a shape
    )
    for command in (info, verify, build, sample, refine, score, bench):
        app.command()(command)
    _main(app, "give a larger --memory-limit, or a smaller -n, --batch or --max-batch")


def _main(app: Callable[[], None], spare: str) -> None:
    """Runs a command; `spare` says which of its options it takes less memory with."""
    out_of_memory = f"error: out of memory; {spare}\n".encode()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text in this encoding
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except MemoryError:
        # With what is left, and nothing that would have to be imported.
        os.write(2, out_of_memory)
        os._exit(EbmExportError.exit_code)
    except EbmExportError as error:
        said = as_typed(str(error), sys.argv[1:]) if isinstance(error, UsageError) else str(error)
        LOG.print(f"error: {said}", style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written to
        said = error.strerror or str(error)
        LOG.print(
            f"error: {said if error.filename is None else f'{error.filename}: {said}'}",
            style="red",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(EbmExportError.exit_code)
