"""Several bundles as one energy, as the options of a command say."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .composition import compose
from .ebm import Ebm
from .errors import UsageError
from .loading import load
from .manifest import ModelSpec
from .precision_schedule import is_schedule
from .schedule import temperature_schedule

__all__ = ["Composition", "load_composition"]


@dataclass(frozen=True)
class Composition:
    """What is composed with the energy of the command's own bundle, which is number 0; the others are numbers 1 and on.

    Attributes:
        added: the other bundles, each with its weight.
        weight: of the command's own bundle.
        mixture: whether samples are to be likely by one or the other; else by all together.
    """

    added: Sequence[tuple[Path, float]]
    weight: float = 1.0
    mixture: bool = False

    def weights(self, bundle: Path) -> list[tuple[Path, float]]:
        """All bundles with their weights, the command's own first."""
        return [(bundle, self.weight), *self.added]


def load_composition(
    bundle: Path,
    composition: Composition,
    settings: Mapping[str, Any],
    conditions: Iterable[str],
    **how: Any,
) -> tuple[Ebm, dict[str, Any]]:
    """Loads the bundles and composes their energies.

    A mixture joins densities exp(-E / T), and T is that of the chains' last step.

    Args:
        bundle: the command's own, whose sampler's settings hold.
        composition: the others.
        settings: of the call, which change those.
        conditions: names of the conditioning inputs that are given: NAME is for all parts that have it, K:NAME for number K alone.
        **how: arguments of `load`, the same for each.

    Returns:
        The energy, and what is to be said of it.

    Raises:
        UsageError: an option cannot be right, or energies do not go together.
        LoadError: a bundle cannot be read.
    """
    _check_engines(how)
    parts = composition.weights(bundle)
    names = _names(conditions, len(parts))
    with contextlib.ExitStack() as refused:
        loaded: list[Ebm] = []
        for path, _ in parts:
            loaded.append(load(path, **how))
            refused.callback(loaded[-1].close)
        for number, (part, (path, _)) in enumerate(zip(loaded, parts, strict=True)):
            for name in names[number]:
                _check_input(number, path, name, part.model)
        said: dict[str, Any] = {"kind": "mixture" if composition.mixture else "sum"}
        temperature = None
        if composition.mixture:
            temperature = said["temperature"] = _temperature(loaded[0], settings)
        weights = [weight for _, weight in parts]
        ebm = compose(loaded, weights, kind=said["kind"], temperature=temperature, names=names)
        refused.pop_all()
    return ebm, {**said, "parts": [{"bundle": str(path), "weight": weight} for path, weight in parts]}


def _check_engines(how: Mapping[str, Any]) -> None:
    """Refuses ways to run chains that one bundle has and several have not."""
    precision = how.get("precision")
    for flag, given in (
        ("--exact corrects chains of one bundle", how.get("exact") is not None),
        ("--fuse takes steps of one bundle", how.get("fuse")),
        (f"--precision {precision} is for steps of one bundle", precision is not None and is_schedule(precision)),
    ):
        if given:
            raise UsageError(f"{flag} and cannot be combined with --add: leave one of them out")


def _names(conditions: Iterable[str], parts: int) -> list[dict[str, str]]:
    """What each part's conditioning inputs are called, by their names in it, where they are given for it alone."""
    names: list[dict[str, str]] = [{} for _ in range(parts)]
    for given in conditions:
        number, colon, name = given.partition(":")
        if not colon or not re.fullmatch("[0-9]+", number):  # what else it may be, the energy's inputs say
            continue
        if int(number) >= parts:
            raise UsageError(
                f"--cond {given}: the energies have the numbers 0 (BUNDLE) to {parts - 1} (the last --add), and there is no {number}"
            )
        names[int(number)][name] = given
    return names


def _check_input(number: int, path: Path, name: str, model: ModelSpec) -> None:
    """Refuses a condition that is given for a bundle alone which has none of the name."""
    if name not in model.cond_names:
        inputs = ", ".join(spec.called for spec in model.cond)
        raise UsageError(
            f"--cond {number}:{name}: {path} has no such input; {f'its inputs are {inputs}' if inputs else 'it has no other than x'}"
        )


def _temperature(first: Ebm, settings: Mapping[str, Any]) -> float:
    """That of the chains at their last step."""
    temperature = float(temperature_schedule(first.sampler.replace(**settings))[-1])
    if not temperature > 0:
        raise UsageError(
            "--mixture: joins densities exp(-E / T) at the temperature of the chains, which have T = 0 at their last step: give "
            "sample or refine --noise none --temperature T, or leave --mixture out"
        )
    return temperature
