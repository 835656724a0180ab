"""The settings of a sampler."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from .errors import UsageError

__all__ = ["WARMS_UP", "SamplerConfig", "Schedule"]

Schedule = float | tuple[float, ...]
"""One number for all steps, or numbers that are interpolated over the steps (see `schedule.py`)."""

_CHOICES = {
    "sampler": ("langevin", "preconditioned", "underdamped", "mala", "hmc", "tempering", "optimize"),
    "bounds_mode": ("project", "reflect"),
    "grad_clip_mode": ("value", "norm"),
    "order": ("drift-noise", "noise-drift"),
    "init": ("normal", "uniform", "data"),
}

_PLAIN = (type(None), bool, int, float, str)

WARMS_UP = ("preconditioned", "mala", "hmc", "tempering")
"""Samplers with a warm-up of their own; exact sampling, which is no setting, has one too."""


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How chains are run; every field can be overridden by keyword in `Ebm.sample`.

    `step_size`, `noise` and `temperature` each take a number or a list of numbers. A list is a schedule: its
    first entry holds at the first step, its last at the last step, and it is interpolated linearly between.

    Attributes:
        steps: number of steps, at least 1.
        step_size: factor of the gradient in one step, at least 0 (units of x squared per unit of energy).
        noise: standard deviation of the noise of one step, in units of x; None means
            sqrt(2 * step_size * temperature), the value at which the chain keeps exp(-E / temperature).
        temperature: at least 0, in units of energy; without effect where `noise` is set.
        grad_clip: limit on the gradient before it is multiplied by `step_size`; None means no limit.
        grad_clip_mode: "value" limits each number to [-grad_clip, grad_clip]; "norm" shortens each sample's
            gradient to a Euclidean length of at most `grad_clip`.
        bounds: (low, high) that every number of x is projected into; None means unbounded.
        order: "drift-noise" or "noise-drift"; see `samplers/langevin.py` for both formulas.
        init: where chains start: "normal" is N(0, I), "uniform" is uniform over `bounds`, "data" picks from
            given states.
        sampler: "langevin", "preconditioned", "underdamped", "mala", "hmc", "tempering" or "optimize"; the formulas stand
            in `samplers/`, in a file of each name. The settings below are for some of them only.
        bounds_mode: "project" moves a number that leaves the bounds onto the nearer one, "reflect" folds it back. Samplers
            that accept and reject always reflect.
        anneal: factor, at least 1, of the temperature at the first step; it falls geometrically to 1 over the first half
            of the steps. `noise`, where set, is multiplied by its square root.
        leapfrog: "hmc": number of leapfrog steps, each with an evaluation, in one step.
        friction: "underdamped": at least 0, one over the time in which a velocity is forgotten; one step is the time
            sqrt(2 * step_size).
        momentum: "optimize": share of the last move that is made again, from 0 to below 1.
        ladder: "tempering": the replicas' temperatures as factors of `temperature`, rising from 1.
        warmup: number of steps at the start, part of `steps`, in which a sampler that accepts and rejects adapts its step
            size, and "preconditioned" its preconditioner, chain by chain; they are frozen afterwards. None is a quarter
            of the steps, or where that is fewer than 5 none for a step size; 0 adapts nothing. A schedule keeps its form: a factor of it is adapted.
        target_accept: the acceptance to adapt to, between 0 and 1; None is the sampler's own.
        block: steps on the low-precision engine for each evaluation of the exact one, in exact sampling.
    """

    steps: int = 60
    step_size: Schedule = 10.0
    noise: Schedule | None = None
    temperature: Schedule = 1.0
    grad_clip: float | None = None
    grad_clip_mode: Literal["value", "norm"] = "value"
    bounds: tuple[float, float] | None = None
    order: Literal["drift-noise", "noise-drift"] = "drift-noise"
    init: Literal["normal", "uniform", "data"] = "normal"
    sampler: Literal["langevin", "preconditioned", "underdamped", "mala", "hmc", "tempering", "optimize"] = "langevin"
    bounds_mode: Literal["project", "reflect"] = "project"
    anneal: float = 1.0
    leapfrog: int = 10
    friction: float = 1.0
    momentum: float = 0.9
    ladder: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    warmup: int | None = None
    target_accept: float | None = None
    block: int = 5

    def __post_init__(self) -> None:
        """Checks every field and turns lists into tuples and numpy numbers into Python ones.

        Raises:
            UsageError: a field has a value that cannot be right.
        """
        self._store("steps", _whole_number("steps", self.steps))
        self._store("block", _whole_number("block", self.block))
        self._store("leapfrog", _whole_number("leapfrog", self.leapfrog))
        self._store("step_size", _schedule("step_size", self.step_size))
        self._store("temperature", _schedule("temperature", self.temperature))
        if self.noise is not None:
            self._store("noise", _schedule("noise", self.noise))
        if self.grad_clip is not None:
            limit = _number("grad_clip", self.grad_clip)
            if limit <= 0:
                raise UsageError(f"grad_clip: expected a number above 0, or none for no clipping, got {limit:g}")
            self._store("grad_clip", limit)
        if self.bounds is not None:
            self._store("bounds", _bounds(self.bounds))
        if self.warmup is not None:
            self._store("warmup", _whole_number("warmup", self.warmup, least=0))
            if self.warmup >= self.steps:
                raise UsageError(
                    f"warmup: expected fewer steps than the {self.steps} in all, since samples drawn while the step size "
                    f"changes are not yet right; got {self.warmup}"
                )
        if self.target_accept is not None:
            target = _number("target_accept", self.target_accept)
            if not 0 < target < 1:
                raise UsageError(f"target_accept: expected a number between 0 and 1, or none, got {target:g}")
            self._store("target_accept", target)
        self._store("anneal", _number("anneal", self.anneal))
        self._store("friction", _number("friction", self.friction))
        self._store("momentum", _number("momentum", self.momentum))
        if self.anneal < 1:
            raise UsageError(f"anneal: expected a factor of at least 1, got {self.anneal:g}")
        if self.friction < 0:
            raise UsageError(f"friction: expected a number of at least 0, got {self.friction:g}")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum: expected a number from 0 to below 1, got {self.momentum:g}")
        self._store("ladder", _ladder(self.ladder))
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise UsageError(f"{field}: expected one of {', '.join(choices)}, got {getattr(self, field)!r}")
        if self.init == "uniform" and self.bounds is None:
            raise UsageError(
                'init="uniform" starts uniformly over the bounds, and there are none: set bounds=(low, high) (--bounds=LOW,HIGH)'
            )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SamplerConfig:
        """Builds a config from a mapping such as a manifest's "sampler" entry.

        Args:
            settings: field names to values; fields left out keep their defaults.

        Raises:
            UsageError: a key is no field (the nearest field is named), or a value cannot be right.
        """
        cls.check_names(settings)
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Returns every field as JSON can hold it (tuples become lists)."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in dataclasses.fields(self)
        }

    def replace(self, **overrides: Any) -> SamplerConfig:
        """Returns a copy with some fields changed, checked again.

        A warm-up is not taken over by a sampler that has none: it need not fit the steps of that one.

        Raises:
            UsageError: as `from_dict`.
        """
        kept = all(_is_plain(value) for value in overrides.values())
        return (_replaced if kept else _replaced.__wrapped__)(self, **overrides)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Returns the names of all settings."""
        return tuple(cls.__dataclass_fields__)

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Refuses names of settings that there are none of; the nearest is named."""
        known = cls.field_names()
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the settings are {', '.join(known)}"
                raise UsageError(f"{name!r} is not a sampler setting; {hint}")

    def _store(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)  # the class is frozen; only __post_init__ comes here


def _is_plain(value: object) -> bool:
    """Whether equal values of this kind are the same setting for ever; an object of the caller's may be equal and hold other numbers."""
    return type(value) in _PLAIN or (type(value) is tuple and all(type(entry) in (int, float) for entry in value))


@functools.lru_cache(maxsize=16, typed=True)
def _replaced(config: SamplerConfig, /, **overrides: Any) -> SamplerConfig:
    """Changes settings, and checks them, which takes 0.06 ms: a control loop asks for the same ones a hundred times a second.

    Args:
        config: the settings to change.
        overrides: as for `SamplerConfig.replace`; plain ones alone may be looked up.
    """
    config.check_names(overrides)
    if overrides.get("sampler", config.sampler) != config.sampler and overrides["sampler"] not in WARMS_UP:
        overrides = {"warmup": None, **overrides}
    return dataclasses.replace(config, **overrides)


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UsageError(f"{field}: expected a finite number, got {value!r}")
    return float(value)


def _whole_number(field: str, value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise UsageError(f"{field}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def _schedule(field: str, value: object) -> Schedule:
    """Returns a number, or a tuple of at least one number; none may be below 0."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        entries = tuple(_number(f"{field}[{index}]", entry) for index, entry in enumerate(value))
        if not entries:
            raise UsageError(f"{field}: expected a number or a list of at least one number, got an empty list")
    else:
        entries = (_number(field, value),)
    if min(entries) < 0:
        raise UsageError(f"{field}: expected numbers of at least 0, got {min(entries):g}")
    return entries if isinstance(value, Iterable) else entries[0]


def _bounds(value: object) -> tuple[float, float]:
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise UsageError(f"bounds: expected a pair (low, high), or none, got {value!r}")
    ends = tuple(_number(f"bounds[{index}]", end) for index, end in enumerate(value))
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise UsageError(f"bounds: expected a pair (low, high) with low below high, got {ends}")
    return ends


def _ladder(value: object) -> tuple[float, ...]:
    if isinstance(value, str):
        raise UsageError(f"ladder: expected numbers such as (1, 2, 4, 8), got the text {value!r}")
    rungs = _schedule("ladder", value)
    rungs = rungs if isinstance(rungs, tuple) else (rungs,)
    if len(rungs) < 2 or rungs[0] != 1 or any(high <= low for low, high in itertools.pairwise(rungs)):
        raise UsageError(f"ladder: expected at least two factors that rise from 1, such as (1, 2, 4, 8), got {rungs}")
    return rungs
