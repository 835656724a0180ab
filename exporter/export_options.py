"""The options of ebm-export: flags over a file of options, and both over what the model's archive says."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..runtime.config import SamplerConfig
from ..runtime.usable_settings import check_temperature
from .energy import EnergyMode
from .options_file import read_options, read_settings

__all__ = ["ExportOptions"]

_SWITCHES = ("trust_pickle", "no_gate", "no_split", "force")
"""Flags that can only be turned on: false stands for "not given"."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of the command; see its --help.

    Attributes:
        settings: the sampler settings among the flags.
        file_settings: those of the file of options, which the others go over.
        sampler_settings: those of the file that `sampler` names, which go over these.
    """

    model: Path
    targets: list[str]
    precisions: list[str]
    out: Path | None
    factory: str | None
    model_args: list[str]
    shape: str | None
    cond: list[str]
    wrt: str | None
    energy: EnergyMode | None
    state_key: str | None
    strip_prefix: str | None
    trust_pickle: bool
    sampler: Path | None
    settings: dict[str, Any]
    file_settings: dict[str, Any]
    sampler_settings: dict[str, Any]
    calibration_data: Path | None
    batch: str
    verify: bool | None
    gate: float | None
    no_gate: bool
    features: str | None
    classes: Path | None
    smallest_difference: float | None
    search_seconds: float | None
    weight_bits: int | None
    ranges: str | None
    no_split: bool
    fuse: int | None
    force: bool

    def with_files(self, path: Path | None) -> ExportOptions:
        """Fills in what was not given from a file, see `read_options`, and what the file of settings says."""
        updates: dict[str, Any] = {}
        if path is not None:
            found, settings = read_options(path)
            updates = {name: value for name, value in found.items() if not self._given(name)}
            updates["file_settings"] = settings
        if self.sampler is not None:  # which stands on the command line alone
            updates["sampler_settings"] = read_settings(self.sampler)
        read = replace(self, **updates)
        SamplerConfig.check_names([*read.file_settings, *read.sampler_settings])
        return read

    def sampler_over(self, given: SamplerConfig | None) -> SamplerConfig | None:
        """The settings that the archive carries, those of files over them, and the flags over both; None where nobody said any."""
        settings = {} if given is None else given.to_dict()
        for own in (self.file_settings, self.sampler_settings, self.settings):
            settings.update(own)
        if not settings:
            return None
        made = SamplerConfig.from_dict(settings)
        # A file may say both, as one that was written by `to_dict` does; one that says a temperature alone means it.
        alone = [
            own for own in (self.file_settings, self.sampler_settings) if "temperature" in own and "noise" not in own
        ]
        check_temperature(made, ChainMap(dict(self.settings), *alone))
        return made

    def _given(self, name: str) -> bool:
        """Whether an option stood on the command line."""
        if name in ("gate", "no_gate"):  # one choice with two names
            return self.no_gate or self.gate is not None
        value = getattr(self, name)
        empty = value == [] or (value == "" and name != "shape")  # an empty shape is that of a number
        return value is not None and not empty and (name not in _SWITCHES or value)
