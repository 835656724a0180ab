"""Making a user's model by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from ebm_export.exporter.factory import build_model, parse_model_args
from ebm_export.runtime.errors import LoadError, UsageError

SOURCE = """
import dataclasses
from neighbour import WIDTH
from torch import nn

@dataclasses.dataclass
class Sizes:
    width: int = WIDTH

class Net(nn.Linear):
    def __init__(self, width=WIDTH):
        super().__init__(width, 1)

def configured(config):
    return Net(config.width)

def silent():
    assert WIDTH == 8

def number():
    return 3

ready = Net()
constant = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "user_model_for_test.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("WIDTH = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))  # so that what is imported here is forgotten again
    return tmp_path


def test_a_file(folder: Path) -> None:
    path = folder / "user_model_for_test.py"
    model = build_model(f"{path}:Net", {"width": 3})
    assert isinstance(model, nn.Linear)
    assert model.in_features == 3
    assert not model.training
    assert isinstance(build_model(f"{path}:ready", {}), nn.Linear)


def test_a_module_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert build_model("user_model_for_test:Net", {}).in_features == 7


def test_an_installed_module_and_a_dotted_name() -> None:
    assert isinstance(build_model("torch:nn.Linear", {"in_features": 2, "out_features": 1}), nn.Linear)


@pytest.mark.parametrize(
    ("factory", "error", "text"),
    [
        ("Net", UsageError, r"expected package.module:name or file.py:name, got 'Net'"),
        ("no_such_module:Net", LoadError, "there is no module 'no_such_module' .*a file is given as path/to/file.py"),
        ("no_such_file.py:Net", LoadError, "there is no file no_such_file.py"),
        ("{path}:Nett", LoadError, r"has no 'Nett'; it has Sizes, Net, configured, silent, number"),
        ("{path}:number", LoadError, "gave a int; expected a torch.nn.Module"),
        ("{path}:constant", LoadError, "is a int; expected a class or function"),
    ],
)
def test_errors(folder: Path, factory: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build_model(factory.format(path=folder / "user_model_for_test.py"), {})


def test_arguments_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"Net\(width=7\): got an unexpected keyword argument 'depth'; .*--model-arg"):
        build_model(f"{folder / 'user_model_for_test.py'}:Net", {"depth": 3})


def test_an_object_that_no_option_can_give(folder: Path) -> None:
    factory = f"{folder / 'user_model_for_test.py'}:configured"
    advice = "name a function that makes the model"
    with pytest.raises(UsageError, match=f"missing a required argument: 'config'.*{advice}"):
        build_model(factory, {})
    text = r"configured\(config='Sizes\(\)'\) fails at user_model_for_test\.py:\d+ \(return Net\(config\.width\)\): AttributeError: 'str' "
    with pytest.raises(LoadError, match=f"{text}.*{advice}") as caught:
        build_model(factory, {"config": "Sizes()"})
    assert isinstance(caught.value.__cause__, AttributeError)


def test_a_failure_without_a_text_is_told_by_its_place(folder: Path) -> None:
    text = r"silent\(\) fails: AssertionError: no message at user_model_for_test\.py:\d+ \(assert WIDTH == 8\); "
    with pytest.raises(LoadError, match=text):
        build_model(f"{folder / 'user_model_for_test.py'}:silent", {})


def test_an_import_that_fails_inside_is_shown_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "broken_model_for_test.py").write_text("import no_such_package\n")
    monkeypatch.chdir(folder)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        build_model("broken_model_for_test:Net", {})


def test_parse_model_args() -> None:
    parsed = parse_model_args(["width=64", "rate=0.5", "norm=None", "kind=conv", "sizes=(1, 2)", "flag=True"])
    assert parsed == {"width": 64, "rate": 0.5, "norm": None, "kind": "conv", "sizes": (1, 2), "flag": True}
    with pytest.raises(UsageError, match="expected NAME=VALUE, such as width=64; got 'width'"):
        parse_model_args(["width"])
