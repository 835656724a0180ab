"""Options of ebm-export in a file, and flags over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebm_export.exporter.export_options import ExportOptions
from ebm_export.runtime import SamplerConfig, UsageError


def options(**given: Any) -> ExportOptions:
    """What the command makes of flags; nothing is given but these."""
    empty: dict[str, Any] = dict.fromkeys(ExportOptions.__dataclass_fields__)
    lists = {"targets": [], "precisions": [], "model_args": [], "cond": []}
    settings: dict[str, Any] = {"settings": {}, "file_settings": {}, "sampler_settings": {}}
    switches = dict.fromkeys(("trust_pickle", "no_gate", "no_split", "force"), False)
    return ExportOptions(**{**empty, **lists, **settings, **switches, "model": Path("m.pt"), "batch": "", **given})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


def test_what_was_not_given_is_filled_in(file: Path) -> None:
    file.write_text(
        'target = "onnx"\nprecision = ["fp32", "bf16"]\nmodel = "nets:Net"\nmodel-arg = "width=3"\nshape = [3, 8]\n'
        'out = "o.ebm"\nforce = true\nverify = false\ngate = 2\nsearch_seconds = 0\nfuse = 4\nweight-bits = 7\nranges = "entropy"\n'
    )
    read = options().with_files(file)
    assert (read.targets, read.precisions, read.factory) == (["onnx"], ["fp32", "bf16"], "nets:Net")
    assert (read.model_args, read.shape, read.out) == (["width=3"], "3,8", Path("o.ebm"))
    assert (read.weight_bits, read.ranges) == (7, "entropy")
    assert (read.force, read.verify, read.gate, read.search_seconds, read.fuse) == (True, False, 2, 0, 4)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("verify = true", {"verify": False}),
        ("verify = false", {"verify": True}),
        ("search_seconds = 60", {"search_seconds": 0.0}),
        ("force = false", {"force": True}),
        ('target = "onnx"', {"targets": ["openvino"]}),
        ('batch = "1:2:4"', {"batch": "1:1:1"}),
        ("gate = 2.0", {"no_gate": True, "gate": None}),
        ("no_gate = true", {"no_gate": False, "gate": 1.5}),
    ],
)
def test_a_flag_that_was_given_wins(file: Path, text: str, given: dict[str, Any]) -> None:
    file.write_text(text)
    read = options(**given).with_files(file)
    assert {name: getattr(read, name) for name in given} == given


def test_a_samplers_name_is_no_file_of_settings(file: Path) -> None:
    file.write_text('sampler = "optimize"')
    with pytest.raises(UsageError, match=r'optimize cannot be read: .* one with the line `sampler = "optimize"`'):
        options().with_files(file)


def test_settings_of_flags_win_over_those_of_files(file: Path, tmp_path: Path) -> None:
    file.write_text("friction = 2.0\n[sampler]\nsteps = 9\nstep_size = 0.1\nnoise = 0.1\n")
    (tmp_path / "s.toml").write_text("step_size = 0.2\nnoise = 0.2\n")
    read = options(sampler=tmp_path / "s.toml", settings={"noise": 0.3}).with_files(file)
    wanted = SamplerConfig(friction=2.0, steps=9, step_size=0.2, noise=0.3, leapfrog=7)
    assert read.sampler_over(SamplerConfig(steps=3, leapfrog=7)) == wanted


def test_a_temperature_beside_noise_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_text("[sampler]\ntemperature = 0.5\nnoise = 0.1\n")
    both = SamplerConfig(temperature=0.5, noise=0.1)
    assert options().with_files(file).sampler_over(None) == both, "a file may say both, as an archive may"
    assert options(settings={"noise": None, "temperature": 2.0}).sampler_over(both) == SamplerConfig(temperature=2.0)
    alone, settings = tmp_path / "alone.toml", tmp_path / "settings.toml"
    alone.write_text("[sampler]\ntemperature = 1.0\n")
    settings.write_text("temperature = 1.0\n")
    text = r"temperature=1.0 has no effect while noise=0.1 is set, .*: set noise=None as well \(--noise none\)"
    for given, read in (
        (None, options(settings={"temperature": 1.0, "noise": 0.1})),
        (both, options(settings={"temperature": 1.0})),
        (None, options(settings={"temperature": 1.0}).with_files(file)),
        (both, options().with_files(alone)),
        (both, options(sampler=settings).with_files(None)),
    ):
        with pytest.raises(UsageError, match=text):
            read.sampler_over(given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('force = "false"', "force: expected true or false, got 'false'"),
        ('verify = "no"', "verify: expected true or false, got 'no'"),
        ("weight_bits = 4", "weight_bits: expected 7 or 8, got 4"),
        ("shape = 2", "shape: expected sizes of one sample, such as .*, got 2"),
        ("shape = [2.5]", "shape: expected sizes of one sample, such as .*, got \\[2.5\\]"),
        ("model = 5", "model: expected text, got 5"),
        ("batch = [1, 2, 3]", 'batch: expected text such as "1:8:64", got'),
        ("out = 3", "out: expected the name of a file, as text, got 3"),
        ("sampler = 3", "sampler: expected a table of settings or the name of a file, got 3"),
        (
            "model_arg = {width = 3}",
            "model_arg: expected NAME=VALUE as text, or a list of such texts, got {'width': 3}",
        ),
        ("cond = [1]", "cond: expected text or a list of texts, got \\[1\\]"),
        ('smallest_difference = "x"', "smallest_difference: expected a number of at least 0.02, got 'x'"),
        ("smallest_difference = 0.001", "smallest_difference: expected a number of at least 0.02, got 0.001"),
        ("gate = nan", "gate: expected a number above 1, got nan"),
        ("gate = true", "gate: expected a number above 1, got True"),
        ("gate = 1", "gate: expected a number above 1, got 1"),
        ("fuse = 2.0", "fuse: expected a whole number, got 2.0"),
        ("settings = 3", "'settings' is no option of ebm-export"),
    ],
)
def test_a_value_of_another_type_is_refused(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=f"c.toml: {said}"):
        options().with_files(file)


def test_an_empty_shape_on_the_command_line_wins_too(file: Path) -> None:
    file.write_text('shape = "2"\n')
    assert options(shape="").with_files(file).shape == ""
    assert options().with_files(file).shape == "2"
