"""Several steps of a sampler in one call of an engine.

An export with `--fuse K` writes, beside the score graph, a graph that takes K steps (`exporter/sampler_graph.py`). Its engine
has an input for the state, for the noise of K steps and for every number that may differ from step to step, so that chains are
those of the step-by-step loop: the noise is the same, and so is the order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .blocks import ends_of_blocks
from .chain_random import ChainRandom
from .config import SamplerConfig
from .engine import Engine, read_only
from .gradient_scale import ScaledScore
from .method import Method
from .pace import Pace
from .samplers.langevin import Evaluate, are_finite
from .schedule import distinct, noise_schedule, spread, temperature_schedule

__all__ = [
    "BAKED",
    "EACH",
    "FUSABLE",
    "LEAVE_OUT",
    "EachStep",
    "Fused",
    "FusedInfo",
    "Ports",
    "fuse",
    "ports",
    "series_of",
]

BAKED = ("sampler", "order", "grad_clip", "grad_clip_mode", "bounds", "bounds_mode")
"""Settings that are part of the graph; all others may differ from call to call."""

FUSABLE = ("langevin", "preconditioned", "underdamped", "optimize")
"""Samplers without rejection: what they do next does not depend on what they found."""


EACH = ("sampler.each.x", "sampler.each.energy")
"""Outputs [K, B, *S] and [K, B] of a graph that tells of each step: the states on the way and the energies that their steps found."""


LEAVE_OUT = "leave_out"
"""An option of backends: names of outputs that are not computed, such as `EACH` where nobody asks for them."""

_CALLS = 8
"""Most calls that are told of together where nobody listens: telling takes as long as two steps of a small network. What is found at the last of
them only, a position that is not finite beside an energy that is, has as many done again."""


class Ports(NamedTuple):
    """What a graph of fused steps takes beside `x`, `grad_scale` and what the score graph takes.

    Inputs are called "sampler.NAME"; `sampler.noise` is [K, B, *S]. Outputs are `sampler.next.x`, `sampler.next.grad`,
    `sampler.next.velocity` where there is one, and `sampler.energy` [B] of the last evaluation. Where a scale runs there are its
    `sampler.grad_scale` [B] and `sampler.next.grad_scale` [B] of the next one. Where clipping, bounds or a scale could hide a gradient that is not finite
    there is `sampler.squares` [K, B] too, the sums of squares of the gradients as the score graph gives them. Where an energy could be infinite beside
    a gradient that is finite, as behind a wall, that of each step is there (`EACH`), even if nobody asks for the states on the way.

    Attributes:
        state: arrays [B, *S] of the sampler's `State`.
        series: numbers [K] of each step.
        noise: whether there is noise.
    """

    state: tuple[str, ...]
    series: tuple[str, ...]
    noise: bool = True


def ports(sampler: str, order: str) -> Ports:
    """Returns the ports of one of the samplers of `FUSABLE`."""
    if sampler == "langevin":
        return Ports(() if order == "noise-drift" else ("grad",), ("step_size", "sigma"))
    return {
        "preconditioned": Ports(("grad", "precondition"), ("step_size", "sigma")),
        "underdamped": Ports(("grad", "velocity"), ("half_step", "kept", "kick")),
        "optimize": Ports(("grad", "velocity"), ("step_size", "momentum"), noise=False),
    }[sampler]


class Fused:
    """A graph of fused steps.

    Args:
        engine: its engine, not open.
        count: steps in one call, K.
        settings: those that the graph was made with; the `BAKED` ones count.
        check: called before the engine is opened, which may be long after the others were: raises where its file is another
            one by then. None checks nothing.
        fingerprint: of what the engine is made from; None where there is none.
        each: whether the engine tells of each step, see `EACH`. It costs time: energies that nobody else asks for.

    Attributes:
        engine: its engine.
        count: steps in one call.
        each: whether the engine tells of each step.
    """

    def __init__(
        self,
        engine: Engine,
        count: int,
        settings: SamplerConfig,
        check: Callable[[], object] | None = None,
        fingerprint: Callable[[], str] | None = None,
        *,
        each: bool = False,
    ) -> None:
        self.engine, self.count, self.each = engine, count, each
        self._settings = settings
        self._check = check
        self._fingerprint = fingerprint
        self._is_open = False

    @property
    def fingerprint(self) -> str:
        """Of what the engine is made from, so that a checkpoint is not gone on with on other blocks."""
        return "" if self._fingerprint is None else self._fingerprint()

    def open(self) -> None:
        """Opens the engine, once; chains need it open.

        Raises:
            LoadError: its file is gone, or another one.
        """
        if not self._is_open:
            if self._check is not None:
                self._check()
            self.engine.open()
            self._is_open = True

    def close(self) -> None:
        """Frees the engine; safe to call twice."""
        self._is_open = False
        self.engine.close()

    def fits(self, config: SamplerConfig) -> bool:
        """Whether chains with these settings can be run on it."""
        return not self.why_not(config)

    def why_not(self, config: SamplerConfig, every: int | None = None) -> str:
        """Why chains with these settings, told of after `every` so many steps, cannot be run on it; empty where they can."""
        if config.sampler not in FUSABLE:
            return f"the sampler {config.sampler!r} accepts and rejects, which no graph of fixed steps can"
        other = [name for name in BAKED if getattr(config, name) != getattr(self._settings, name)]
        if other:
            return "the graph was exported with " + ", ".join(
                f"{name}={getattr(self._settings, name)!r} and not {getattr(config, name)!r}" for name in other
            )
        if config.steps < self.count:
            return f"the graph takes {self.count} steps at once, and the chain has {config.steps}"
        if every is not None and every < self.count:
            return f"the graph takes {self.count} steps at once, and states are written after every {every}"
        return ""


class EachStep(NamedTuple):
    """The states that a block of K steps went through, overwritten by the next block.

    Attributes:
        position: [K, B, *S] float32.
        energy: [K, B] float32, of the sampler's `State`; NaN from where a chain was not finite.
    """

    position: np.ndarray
    energy: np.ndarray


class FusedInfo(NamedTuple):
    """What a block of steps tells, or one step that was none of a block.

    Attributes:
        not_finite: number of chains whose energy or gradient was not finite at one of the steps, or whose energy was out of range.
        each: the states on the way, where the engine tells of each step; None for a single step, whose state is told anyway.
        lost_after: [B] int64, the number of steps after which each chain was seen not to be finite, -1 for those that are; None where all are.
    """

    not_finite: int
    each: EachStep | None = None
    lost_after: np.ndarray | None = None


def fuse(
    method: Method,
    fused: Fused,
    config: SamplerConfig,
    position: np.ndarray,
    every: int | None = None,
    pace: Pace | None = None,
    *,
    unwatched: bool = False,
    stops: bool = False,
    energy_range: tuple[float, float] | None = None,
    lost: Callable[[], np.ndarray | None] = lambda: None,
) -> Method:
    """Lets a sampler take its steps in blocks, as far as there are whole ones.

    A block in which a number of a chain that was well is not finite is done again step by step, so that nothing is decided on sums that overflowed. Energies
    of chains that were not finite on the way are NaN at its end.

    Args:
        method: what takes single steps.
        fused: what takes K, open and with fitting settings.
        config: the sampler's settings.
        position: [B, *S] float32, in the shape of the batch; its numbers are not looked at.
        every: number of steps of which no block goes beyond a multiple; None for no such place.
        pace: says whether there is time for a block; None where there is always.
        unwatched: whether nobody wants to hear of each block, so that some of them may be told of together.
        stops: whether a chain that is not finite is an error, after which no step is of use.
        energy_range: (lowest, highest) energy of a chain that is well, where the engine tells of each step; one outside counts as one that is
            not finite.
        lost: [B] bool, chains that diverged, whose numbers are not looked at any more; None where there are none.
    """
    count = fused.count
    most = _CALLS * count if unwatched and pace is None and not fused.each else count
    ends = ends_of_blocks(count, config.steps, method.warm_up, every)
    number = 1  # of the steps that come next
    wanted = ports(config.sampler, config.order)
    given = [(f"sampler.{name}", name) for name in wanted.state]
    series = {f"sampler.{name}": numbers for name, numbers in series_of(config, wanted.series).items()}
    # What is the same for all steps is the same array for all blocks, which engines that were given it need not read again.
    same = {port: read_only(series.pop(port)[:count]) for port in [*series] if not series[port].strides[0]}
    noise = np.empty((count, *position.shape), np.float32)
    changing = ("position", "grad", "velocity") if "velocity" in wanted.state else ("position", "grad")
    taken = [("sampler.next.x" if name == "position" else f"sampler.next.{name}", name) for name in changing]
    going_on = [(port, name) for port, name in given if name in changing]
    # A block reads the state of the one before, engines write into the same memory at every call, and the state that several blocks begin with
    # may be gone back to: the first of these is where it lies.
    sets = [{name: np.empty_like(position) for name in changing} for _ in range(3)]
    each = EachStep(np.empty_like(noise), np.empty(noise.shape[:2], np.float32)) if fused.each else None
    lowest, highest = energy_range or (-np.inf, np.inf)
    assert energy_range is None or each is not None

    def end(step: int) -> int:
        nonlocal number
        number = ends(step) - step
        # At the end of a warm-up a sampler settles what it learned, in a single step.
        alone = number < count or 0 < method.warm_up == step or (pace is not None and not pace.has_time(count))
        if alone and each is not None:  # whoever wants to hear of each step hears of it at once
            number = 1
        while not alone and number < most and ends(step + number) == step + number + count:
            if every is not None and (step + number) % every == 0:
                break
            number += count
        return step + number

    def step(random: ChainRandom, state: Any, score: Evaluate, step_size: Any, step: int) -> tuple[Any, FusedInfo]:
        assert isinstance(score, ScaledScore)
        if number < count or 0 < method.warm_up == step:
            return singly(random, state, score, step, number)
        before, calls = score.state, score.calls
        inputs = {"x": state.position, **same}
        for port, name in given:
            inputs[port] = getattr(state, name)
        last = number // count - 1
        gone = lost()
        rows = slice(None) if gone is None else ~gone
        for block in range(last + 1):
            begin, put = step + block * count, sets[1 + block % 2]
            for port, numbers in series.items():
                inputs[port] = np.ascontiguousarray(numbers[begin : begin + count])
            if wanted.noise:
                inputs["sampler.noise"] = (random.at(begin) if block else random).normals(noise)
            answer = score.take_steps(fused.engine, inputs, count)
            energy = answer["sampler.energy"]
            # A gradient that is not finite shows in the sum of its squares, and where these are not told in the position, which is none from
            # then on.
            told = [energy]
            if "sampler.squares" in answer:
                told.append(answer["sampler.squares"].T)
            if block == last:
                told += [answer["sampler.next.x"], answer["sampler.next.grad"]]
            if each is not None:
                for name, array in zip(EACH, each, strict=True):
                    np.copyto(array, answer[name])
                told.append(each.energy.T)
            elif EACH[1] in answer:  # an energy can be infinite where nothing else is
                told.append(answer[EACH[1]].T)
            well = all([math.isfinite(np.add.reduce(numbers[rows], axis=None)) for numbers in told])
            if well and energy_range is not None and each is not None:
                seen = each.energy[:, rows]
                well = not seen.size or bool(seen.min() >= lowest and seen.max() <= highest)
            if not well:
                score.state, score.calls = before, calls
                return singly(random, state, score, step, number)
            for port, name in taken:
                np.copyto(put[name], answer[port])
            inputs["x"] = put["position"]
            for port, name in going_on:
                inputs[port] = put[name]
        sets[0], sets[1 + last % 2] = put, sets[0]
        return state._replace(energy=energy.copy(), **sets[0]), FusedInfo(0, each)

    def singly(random: ChainRandom, state: Any, score: Evaluate, step: int, number: int) -> tuple[Any, FusedInfo]:
        lost_after = np.full(len(position), -1)
        for index in range(step, step + number):
            state, info = method.step(random.at(index), state, score, step_sizes.item(index), index)
            if info.not_finite or energy_range is not None:
                well = are_finite(state.energy, state.grad) & (state.energy >= lowest) & (state.energy <= highest)
                lost_after[(lost_after < 0) & ~well] = index + 1
                if stops and not well.all():
                    break
            if each is not None and number > 1:
                each.position[index - step] = state.position
                each.energy[index - step] = np.where(lost_after < 0, state.energy, np.float32(np.nan))
        lost = int(np.count_nonzero(lost_after >= 0))
        if lost:
            state = state._replace(energy=np.where(lost_after < 0, state.energy, np.float32(np.nan)))
        return state, FusedInfo(lost, each if number > 1 else None, lost_after if lost else None)

    step_sizes = spread(config.step_size, config.steps)
    return method._replace(step=step, end=end)


def series_of(config: SamplerConfig, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the numbers of every step, [steps] float32, read-only: what a kernel computes in float64 and multiplies float32 arrays by.

    Args:
        config: the sampler's settings.
        names: those of `Ports.series`.
    """
    # One number where it is the same for all: a million steps may be asked for of which a deadline leaves ten.
    step_sizes = distinct(spread(config.step_size, config.steps))
    found = {"step_size": step_sizes}
    if "sigma" in names:
        found["sigma"] = distinct(noise_schedule(config))
    if "momentum" in names:
        found["momentum"] = np.array([config.momentum])
    if "kept" in names:
        time_steps = np.sqrt(2 * step_sizes)
        kept = np.array([math.exp(-config.friction * time_step) for time_step in time_steps.tolist()])
        temperatures = distinct(temperature_schedule(config))
        found |= {"half_step": time_steps / 2, "kept": kept, "kick": np.sqrt((1 - kept**2) * temperatures)}
    return {name: np.broadcast_to(found[name].astype(np.float32), config.steps) for name in names}
