"""Delayed gradient scaling: one range for the backward half of the score graph along the whole chain.

The score graph returns grad_scale * dE/dx, and everything in its backward half is proportional to grad_scale. With

    s[b] at the next call = 1 / rms(dE/dx[b] at this call)

those activations keep the size of about one from noise to sample, so that FP16 does not underflow and static
INT8 ranges fit. FP8 training calls a scale that is taken from the step before "delayed" and pays for it with no extra
pass (Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433, describes the scaling factors).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .engine import Engine
from .row_norms import square_sums

__all__ = ["HIGHEST_SCALE", "LOWEST_SCALE", "ScaledScore", "next_scale"]

# Powers of two far inside float32's range (2**-126 to 2**127), so that dividing by the scale stays finite.
LOWEST_SCALE = 2.0**-100
HIGHEST_SCALE = 2.0**100


def next_scale(scale: np.ndarray, scaled_grad: np.ndarray) -> np.ndarray:
    """Returns the scale for the next call from the answer of this one.

    s' = s / rms(s * dE/dx), the root mean square over all but the batch dimension, which is 1 / rms(dE/dx). Where the
    rms is 0 or not finite the scale is held. The result is clipped to [`LOWEST_SCALE`, `HIGHEST_SCALE`].

    Args:
        scale: [B] float32, the scale of this call.
        scaled_grad: [B, *S] float32, s * dE/dx as the engine returned it.

    Returns:
        [B] float32, a new array.
    """
    numbers = scaled_grad.size // len(scaled_grad)
    rms = np.sqrt(square_sums(scaled_grad) / numbers)
    usable = np.isfinite(rms) & (rms > 0)
    if not usable.all():
        rms = np.where(usable, rms, 1.0)
    return np.clip(scale / rms, LOWEST_SCALE, HIGHEST_SCALE).astype(np.float32)


class ScaledScore:
    """Energy and gradient of a batch of chains through an engine, with the running scale of each chain.

    The first call has no running scale: it asks the engine twice, once with a scale of one to find the scale, once
    to answer. Every later call is one engine call.

    Args:
        engine: an open engine.
        cond: conditioning arrays by graph name, [B, ...] and C-contiguous.
        free: [B, *S] or [1, *S] float32 of ones and zeros that gradients are multiplied by; None is ones everywhere.

    Attributes:
        scale: [B] float32, the scale that the last answer was computed with; None before the first.
    """

    def __init__(self, engine: Engine, cond: Mapping[str, np.ndarray], free: np.ndarray | None = None) -> None:
        self.scale: np.ndarray | None = None
        self._engine = engine
        self._inputs = dict(cond)
        self._free = free
        self._next: np.ndarray | None = None
        self._frozen = False
        self._grad: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the energy at x.

        Args:
            x: [B, *S] float32, C-contiguous; B is the same at every call.

        Returns:
            energy [B] float32 and grad [B, *S] float32 = dE/dx, 0 where x is not free. Both may be overwritten by the next call.
        """
        if self._next is None:
            ones = np.ones(len(x), dtype=np.float32)
            self._next = next_scale(ones, self._run(x, ones)["grad"])
        if self._grad is None:
            self._grad = np.empty_like(x)
        self.scale = self._next
        answer = self._run(x, self.scale)
        if not self._frozen:
            self._next = next_scale(self.scale, answer["grad"])
        per_sample = self.scale.reshape(-1, *[1] * (x.ndim - 1))  # [B, 1, ..]
        grad = np.divide(answer["grad"], per_sample, out=self._grad)
        if self._free is not None:
            grad *= self._free
        return answer["energy"], grad

    def switch(self, engine: Engine) -> None:
        """Lets another engine answer from now on; the running scale is carried over.

        Args:
            engine: an open engine of the same energy.
        """
        self._engine = engine

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
        self._inputs["x"] = x
        self._inputs["grad_scale"] = scale
        return self._engine.run(self._inputs)
