"""Rows of inputs that are made up where fewer were given than a check, a trace or a verification takes."""

from __future__ import annotations

import math

import torch

__all__ = ["conditions_like", "rows_like"]


def rows_like(example: torch.Tensor, size: int, seed: int, spread: float | None = None) -> torch.Tensor:
    """More rows in the manner of an example: its own first, then copies moved by noise so that no two are equal.

    Args:
        example: [B, ...].
        size: rows wanted.
        seed: of the noise.
        spread: 0.3 of it is the noise's standard deviation; that of the example's numbers if left out, or 1 where they are all the same.

    Returns:
        [size, ...]; whole numbers and booleans are repeated, in turn, and infinities, as a mask has them, stay where they are.
    """
    batch = example.shape[0]
    rows = example.detach()[torch.arange(size) % batch].clone()
    if rows.is_floating_point() and size > batch:
        noise = torch.randn(rows[batch:].shape, generator=torch.Generator().manual_seed(seed))
        if spread is None:
            finite = rows[rows.isfinite()]
            spread = float(finite.float().std(correction=0)) if finite.numel() else 0.0
        rows[batch:] += (0.3 * (spread or 1.0) * noise).to(rows)
    return rows


def conditions_like(rows: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """More rows of a conditioning input: as `rows_like`, and no number leaves the range of those that are there.

    A noise level, a mass or a length is positive, and a model may take its logarithm: noise of a fixed size around a single one of 0.25
    would make up what no real row holds. Where all numbers are the same, and not 0, copies are off by half of it at most.

    Args:
        rows: [R, ...]; may hold infinities, as masks do, which stay.
        size: rows wanted.
        seed: of the noise.

    Returns:
        [size, ...]; whole numbers and booleans are repeated, in turn.
    """
    known = rows.detach()[rows.detach().isfinite()] if rows.is_floating_point() else rows[:0]
    if not known.numel():
        return rows_like(rows, size, seed)
    low, high = float(known.min()), float(known.max())
    spread = float(known.float().std(correction=0))
    if low == high:
        spread = abs(low) or 1.0
        low, high = (low - spread / 2, low + spread / 2) if low else (-math.inf, math.inf)
    more = rows_like(rows, size, seed, spread)
    return torch.where(more.isfinite(), more.clamp(low, high), more)
