"""How much of an engine is in INT8, in words."""

from __future__ import annotations

__all__ = ["int8_said"]


def int8_said(library: str, low: int, total: int) -> str:
    """One line for people: how many of an engine's convolutions and matrix products its library runs in INT8, and of how many."""
    return f"{library} runs {low} of {total} convolutions and matrix products in INT8"
