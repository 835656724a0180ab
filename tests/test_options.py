"""What becomes of the texts of options; the commands themselves are tested in test_cli.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

from ebm_export.commands.bench import bench
from ebm_export.commands.compare import compare_command
from ebm_export.commands.export import export_command
from ebm_export.commands.option_texts import as_typed, conditions_of, numbers_of, sampler_settings
from ebm_export.commands.refine import refine
from ebm_export.commands.sample import sample
from ebm_export.commands.score import score
from ebm_export.runtime.errors import UsageError


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


class TestSettings:
    @pytest.mark.parametrize("name", ["noise", "grad_clip", "bounds", "target_accept"])
    def test_none_takes_away_what_the_bundle_has(self, name: str) -> None:
        assert sampler_settings({name: "none", "steps": None}) == {name: None}

    @pytest.mark.parametrize("name", ["step_size", "temperature", "ladder"])
    def test_there_is_always_one_of_the_others(self, name: str) -> None:
        option = f"--{name.replace('_', '-')}"
        with pytest.raises(UsageError, match=f"{option}: expected a number, or numbers with commas .*, got 'none'"):
            sampler_settings({name: "none"})

    def test_numbers(self) -> None:
        given = {"grad_clip": "0.5", "target_accept": "0.9", "bounds": "-1,2"}
        assert sampler_settings(given) == {"grad_clip": 0.5, "target_accept": 0.9, "bounds": (-1, 2)}

    def test_what_may_be_none_says_so(self) -> None:
        with pytest.raises(UsageError, match="--grad-clip: expected a number, .* or none, got 'off'"):
            numbers_of("--grad-clip", "off")


class TestConditions:
    @pytest.mark.parametrize(
        ("text", "row"),
        [
            ("label=3", np.array([3])),
            ("sigma=0.3", np.array([0.3])),
            ("sigma=-2e-1", np.array([-0.2])),
            ("k= 7", np.array([7])),
        ],
    )
    def test_a_number_is_a_row_that_all_chains_share(self, text: str, row: np.ndarray) -> None:
        found = conditions_of([text])
        (array,) = found.values()
        np.testing.assert_array_equal(array, row)
        assert array.dtype == row.dtype

    @pytest.mark.parametrize("name", ["3", "0.3"])
    def test_a_file_with_a_number_for_a_name_is_read(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        np.save("rows.npy", np.arange(4))
        Path("rows.npy").rename(name)
        np.testing.assert_array_equal(conditions_of([f"label={name}"])["label"], np.arange(4))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("label", "expected NAME=FILE.npy or NAME=NUMBER, got 'label'"),
            ("obs=3,16", "a shape says nothing about values: expected obs=FILE.npy, got 'obs=3,16'"),
            (
                "goal=-1.1,0.2",
                "goal=FILE.npy, with a row of them for each sample or one for all: numpy.save('goal.npy', [[-1.1,0.2]])",
            ),
            ("sigma=nan", "there is no file nan"),
        ],
    )
    def test_what_is_no_condition_is_refused(self, text: str, said: str) -> None:
        with pytest.raises(UsageError, match=re.escape(said)):
            conditions_of([text])
