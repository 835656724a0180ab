"""Delayed gradient scaling: one range for the backward half of the score graph along the whole chain.

The score graph returns grad_scale * dE/dx, and everything in its backward half is proportional to grad_scale. With

    s[b] at the next call = 1 / v[b],    v^2 <- (v^2 + 3 rms(dE/dx[b] at this call)^2) / 4

those activations keep the size of about one from noise to sample, so that FP16 does not underflow and static
INT8 ranges fit. FP8 training calls a scale that is taken from earlier steps "delayed" and pays for it with no extra
pass (Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433, describes the scaling factors).

The mean over steps matters where noise moves a chain far: at temperature 1 in two dimensions a gradient can be a
thirtieth of the one before, and the scale of that step alone would make the next gradient thirty times too large. On such
a chain the largest scaled gradient was 32 times their rms with the last step alone and 4.4 times with the mean, nearly
three more bits of an INT8 range; on a cold chain of images, whose gradients halve at each of the first steps, 1.2
times with either. A longer mean would fall behind gradients that shrink so fast: v loses at most half of its size a step.

The scale stops growing at `KnownScales.highest`. Near a minimum dE/dx vanishes because the terms that make it cancel, not
because they are small. Scaled to a size of one it would take them far out of their range: INT8 would saturate on chains
colder than those that it was calibrated on, and FP16 overflow at the end of a descent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .engine import Engine
from .known_scales import HIGHEST_SCALE, LOWEST_SCALE
from .row_norms import moderate_square_sums, square_sums

__all__ = [
    "OVERSHOOT",
    "SETTLED",
    "SMALLEST",
    "STRIDE",
    "TRIES",
    "ScaleState",
    "ScaledScore",
    "first_scale",
    "next_scale",
]

STRIDE = 2.0**8
"""The reach of an 8-bit grid: farther, and a gradient that was rounded to zero is clipped next."""

OVERSHOOT = 2.0**4
"""A clipped gradient says too little about its size; four bits less still leave some."""

TRIES = 13
"""Of 2^8 each: as far as the scales reach."""

SMALLEST = 2.0**-24
"""Size of a scaled gradient below which it says nothing: the smallest number of FP16, and far below the grids of INT8, whose
roundings leave as little as 1e-29."""

SETTLED = (0.8, 1.25)
"""Size of a scaled gradient from which the running rule goes on."""


def next_scale(scale: np.ndarray, scaled_grad: np.ndarray, highest: float = HIGHEST_SCALE) -> np.ndarray:
    """Returns the scale for the next call from the answer of this one.

    s' = s * 2 / sqrt(1 + 3 r^2) with r = rms(s * dE/dx), the root mean square over all but the batch dimension: the formula
    at the top of this file for s = 1 / v. Where r is 0 or not finite the scale is held. The result is clipped to
    [`LOWEST_SCALE`, highest].

    Args:
        scale: [B] float32, the scale of this call.
        scaled_grad: [B, *S] float32, s * dE/dx as the engine returned it.
        highest: see `KnownScales`.

    Returns:
        [B] float32, a new array.
    """
    sums = moderate_square_sums(scaled_grad)
    if sums is None:
        sums = square_sums(scaled_grad)
        sums = np.where(np.isfinite(sums) & (sums > 0), sums, _numbers(scaled_grad))
    # Once for every step, so each pass is in place: this is 2 / sqrt(1 + 3 r^2) in the array that the sums came in.
    sums *= 0.75 / _numbers(scaled_grad)
    sums += 0.25
    np.sqrt(sums, out=sums)
    return _clipped(np.divide(scale, sums, out=sums), highest)


def first_scale(scale: np.ndarray, scaled_grad: np.ndarray, highest: float = HIGHEST_SCALE) -> np.ndarray:
    """Returns the scale that would have made this answer's size one; arguments and result as for `next_scale`.

    s' = s / r. Where r is below `SMALLEST` the gradient may have been too small for the engine, so s' = s * 2^8; where it is not
    finite it may have been too large, and s' = s / 2^8.
    """
    size = _rms(scaled_grad)
    usable = np.isfinite(size) & (size >= SMALLEST)
    factor = np.where(size < SMALLEST, STRIDE, 1 / STRIDE)
    return _clipped(np.where(usable, scale / np.where(usable, size, 1.0), scale * factor), highest)


def _rms(grad: np.ndarray) -> np.ndarray:
    return np.sqrt(square_sums(grad) / _numbers(grad))


def _numbers(grad: np.ndarray) -> int:
    """Numbers in one sample."""
    return grad.size // len(grad)


def _without_gradient(answer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An answer whose gradient may have overflown, which says nothing about the state."""
    return {**answer, "grad": np.zeros_like(answer["grad"])}


def _clipped(scale: np.ndarray, highest: float) -> np.ndarray:
    return np.minimum(np.maximum(scale, LOWEST_SCALE), highest).astype(np.float32)  # np.clip takes as long again


class ScaleState(NamedTuple):
    """What one call leaves to the next.

    Attributes:
        scale: [B] float32, the scale that the last answer was computed with; None before the first.
        following: [B] float32, the scale of the next call; None before the first, which looks for one.
        frozen: whether that is the scale of all calls to come.
    """

    scale: np.ndarray | None
    following: np.ndarray | None
    frozen: bool


class ScaledScore:
    """Energy and gradient of a batch of chains through an engine, with the running scale of each chain.

    The first call has no running scale: it asks the engine twice, once with the usual scale (`Engine.known_scales`) to find its
    own, once to answer. An engine whose gradient is not proportional to its scale (INT8 rounds a small one to zero and clips a
    large one) is asked again until the scaled gradient has a size near one or the scale is the highest, at most 14 times in
    all, and once more where one is zero or not finite at every scale. Every later call is one engine call.

    Where the engine's numbers have float32's range (`Engine.needs_scale`) there is nothing to bring into it: the scale is
    one, the first call is one engine call like the others, and gradients come as the engine gives them.

    Args:
        engine: an open engine.
        cond: conditioning arrays by graph name, [B, ...]; see `Engine.prepare`.
        free: [B, *S] or [1, *S] float32 of ones and zeros that gradients are multiplied by; None is ones everywhere.
        scaled: whether there is a running scale; None asks the engine.
        has_time: (calls so far) -> whether there is time for one more of the search for a scale; None where there always is.

    Attributes:
        gave_up: whether there was no time to find a scale, so that gradients are too coarse to go on with; energies are the engine's.
        scale: [B] float32, the scale that the last answer was computed with; None before the first.
        calls: how often the engine was asked.
        state: the running scale; another one's may be put in its place, to go on from there. Its arrays are never written
            to.
    """

    def __init__(
        self,
        engine: Engine,
        cond: Mapping[str, np.ndarray],
        free: np.ndarray | None = None,
        *,
        scaled: bool | None = None,
        has_time: Callable[[int], bool] | None = None,
    ) -> None:
        self.scale: np.ndarray | None = None
        self.gave_up = False
        self._has_time = has_time
        self.calls = 0
        self._engine = engine
        self._inputs = engine.prepare(cond)
        self._free = free
        self._scaled = engine.needs_scale if scaled is None else scaled
        self._next: np.ndarray | None = None
        self._frozen = False
        self._grad: np.ndarray | None = None
        self._ones: np.ndarray | None = None
        self._left: tuple[Engine, dict[str, np.ndarray], bool, ScaleState] | None = None

    @property
    def state(self) -> ScaleState:
        """See the class."""
        return ScaleState(self.scale, self._next, self._frozen)

    @state.setter
    def state(self, state: ScaleState) -> None:
        self.scale, self._next, self._frozen = state

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the energy at x.

        Args:
            x: [B, *S] float32, C-contiguous; B is the same at every call.

        Returns:
            energy [B] float32 and grad [B, *S] float32 = dE/dx, 0 where x is not free. Both may be overwritten by the next call.
        """
        if not self._scaled:
            return self._unscaled(x)
        if self._grad is None:
            self._grad = np.empty_like(x)
        if self._next is None:
            self.scale, answer = self._find_scale(x)
        else:
            self.scale, answer = self._next, self._run(x, self._next)
        self._next = (
            self.scale if self._frozen else next_scale(self.scale, answer["grad"], self._engine.known_scales.highest)
        )
        per_sample = self.scale.reshape(-1, *[1] * (x.ndim - 1))  # [B, 1, ..]
        grad = np.divide(answer["grad"], per_sample, out=self._grad)
        if self._free is not None:
            grad *= self._free
        return answer["energy"], grad

    def find(self, x: np.ndarray) -> np.ndarray | None:
        """Looks for the scale of the next call, where one is needed and none is known, for a chain that asks nothing at its start.

        Args:
            x: [B, *S] float32, close to where the next call will ask.

        Returns:
            The energy [B] float32 at x, where the engine was asked; its next call may overwrite it.
        """
        if not self._scaled or self._next is not None:
            return None
        self.scale, answer = self._find_scale(x)
        self._next = self.scale
        return answer["energy"]

    def energy(self, x: np.ndarray) -> np.ndarray:
        """Evaluates the energy beside the chain, which goes on as if nothing had been asked.

        Args:
            x: as for a call, and so is that the last gradient is overwritten.

        Returns:
            [B] float32, a new array.
        """
        before = self.state
        energy = np.array(self(x)[0])
        self.state = before
        return energy

    def take_steps(self, engine: Engine, inputs: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """Has an engine take several steps in one call (see `fused_steps.py`); the running scale goes through it.

        Args:
            engine: an open engine with the conditioning inputs, or features, of this one.
            inputs: what it takes beside these and the scale.
            count: number of steps, each of which evaluates once.

        Returns:
            The engine's outputs, which the next call may overwrite.
        """
        if not self._scaled and self._ones is None:
            self._ones = np.ones(len(inputs["x"]), dtype=np.float32)
        scale = self._next if self._scaled else self._ones
        assert scale is not None, "the scale is not known: ask for `find` first"
        self.calls += count
        answer = engine.run({**self._inputs, **inputs, "grad_scale": scale})
        self.scale = scale
        if self._scaled:
            self.scale = answer["sampler.grad_scale"].copy()
            self._next = answer["sampler.next.grad_scale"].copy()
        return answer

    def _unscaled(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._ones is None:
            self._ones = np.ones(len(x), dtype=np.float32)
        self.scale = self._ones
        answer = self._run(x, self._ones)
        grad = answer["grad"]
        if self._free is not None:
            grad = self._grad = np.multiply(grad, self._free, out=self._grad)
        return answer["energy"], grad

    def _find_scale(self, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The scale of the first call, and the engine's answer with it."""
        usual, highest = self._engine.known_scales
        scale = np.full(len(x), usual, dtype=np.float32)
        answer = self._run(x, scale)
        size: np.ndarray = np.zeros(len(x))
        settled: np.ndarray = np.zeros(len(x), dtype=bool)
        # The largest scale that was too small, and the smallest that was too large.
        small, large = np.zeros(len(x), np.float32), np.full(len(x), np.inf, np.float32)
        begun = self.calls - 1
        for _ in range(TRIES):
            if self._is_late(self.calls - begun):
                return scale, _without_gradient(answer)
            # One that is still too large after it was divided by its own size was clipped.
            clipped = np.where(size > SETTLED[1], 1 / OVERSHOOT, 1.0)
            new = np.asarray(first_scale(scale, answer["grad"], highest) * clipped, np.float32)
            # A gradient that was rounded says too little about its size as well, and a chain went to and fro between the same two.
            known = (small > 0) & (large < np.inf)
            middle = np.sqrt(small) * np.sqrt(np.where(known, large, 1))
            new = np.where(known & ((new <= small) | (new >= large)), middle, new)
            scale = np.where(settled, scale, new)  # a chain's scale must not depend on how long the others need
            answer = self._run(x, scale)
            size = _rms(answer["grad"])
            large = np.where(size <= SETTLED[1], large, np.minimum(large, scale))
            small = np.where(size < SETTLED[0], np.maximum(small, scale), small)
            large_enough = (size >= SETTLED[0]) | (scale >= np.float32(highest))
            settled |= large_enough & (size <= SETTLED[1])
            if settled.all():
                break
        # A gradient that is zero at every scale is zero; the largest scale would make the next one overflow.
        lost = (size == 0) | ~np.isfinite(size)
        if lost.any():
            if self._is_late(self.calls - begun):
                return scale, _without_gradient(answer)
            scale = np.where(lost, np.float32(usual), scale)
            answer = self._run(x, scale)
        return scale, answer

    def _is_late(self, calls: int) -> bool:
        """Whether the search for a scale has to be given up after so many calls."""
        self.gave_up = self._has_time is not None and not self._has_time(calls)
        return self.gave_up

    def switch(self, engine: Engine, inputs: dict[str, np.ndarray]) -> None:
        """Lets another engine answer from now on; the running scale is carried over, where there is one.

        Args:
            engine: an open engine of the same energy.
            inputs: what it made of the conditions (`Engine.prepare`).
        """
        self._left = self._engine, self._inputs, self._scaled, self.state
        self._engine, self._inputs = engine, inputs
        if not (self._scaled and engine.needs_scale):
            self._next = None  # an engine that needs one after one that does not finds it anew, frozen or not
        self._scaled = engine.needs_scale

    def switch_back(self) -> None:
        """Lets the engine before the last `switch` answer again, with the scale that it had then."""
        assert self._left is not None, "there was no other engine"
        self._engine, self._inputs, self._scaled, self.state = self._left

    def freeze(self, scale: np.ndarray) -> None:
        """Uses the same scale at every call from now on.

        A low-precision gradient depends on its scale, and a sampler that accepts and rejects needs one that depends on
        the state alone.

        Args:
            scale: [B] float32.
        """
        self._next = scale
        self._frozen = True

    def _run(self, x: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
        self.calls += 1
        self._inputs["x"] = x
        self._inputs["grad_scale"] = scale
        return self._engine.run(self._inputs)
