"""What becomes of the texts of options; the commands themselves are tested in test_cli.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import typer

from ebm_export.commands.bench import bench
from ebm_export.commands.compare import compare_command
from ebm_export.commands.export import export_command
from ebm_export.commands.refine import refine
from ebm_export.commands.sample import sample
from ebm_export.commands.score import score
from ebm_export.options import as_typed


@pytest.mark.parametrize(
    ("message", "words", "said"),
    [
        ("deadline_ms: expected 1: 2", "b --deadline-ms 0", "--deadline-ms: expected 1: 2"),
        ("deadline_ms: expected", "b --deadline-ms=0", "--deadline-ms: expected"),
        ("n: 7 states", "b -n 7", "-n: 7 states"),
        ("n: 7 states", "b -n7", "-n: 7 states"),
        ("step_size: expected", "b --steps 3 --step-size-of 2", "step_size: expected"),  # a file's, or the bundle's
        ("every and out: are written", "b --every 3", "every and out: are written"),
        ("the bundle --every is not there", "b --every 3", "the bundle --every is not there"),
        ("seed: expected shape [4, 3]", "b --seed 3 --cond seed=a.npy", "seed: expected shape [4, 3]"),
        ("seed: expected shape [4, 3]", "b --seed 3 --cond=seed=a.npy", "seed: expected shape [4, 3]"),
        ("seed: expected", "b --seed=3 --cond obs=a.npy", "--seed: expected"),
    ],
)
def test_an_argument_is_called_as_it_was_typed(message: str, words: str, said: str) -> None:
    assert as_typed(message, words.split()) == said


@pytest.mark.parametrize("command", [export_command, sample, refine, compare_command, bench, score])
def test_every_option_is_known_by_the_name_of_its_argument(command: Callable[..., None]) -> None:
    """But for those whose name on the command line was chosen; no message of the library begins with their argument's name."""
    app = typer.Typer(add_completion=False)
    app.command()(command)
    others = {"candidates": "--best-of", "factory": "--model", "as_json": "--json"}
    for parameter in typer.main.get_command(app).params:
        if parameter.param_type_name != "option":
            continue
        assert parameter.name in inspect.signature(command).parameters
        said = as_typed(f"{parameter.name}: expected", [parameter.opts[0], "1"])
        if parameter.name in others:
            assert (said, parameter.opts[0]) == (f"{parameter.name}: expected", others[parameter.name])
        else:
            assert said == f"{parameter.opts[0]}: expected"
