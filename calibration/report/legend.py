"""Which colour stands for which engine."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from markupsafe import Markup

from ..comparison import EngineResult

__all__ = ["legend"]


def legend(engines: Iterable[EngineResult], css: dict[str, str]) -> Markup:
    """Returns the names of engines as a list, each behind the colour of its class in the style sheet."""
    entries = (f'<li><span class="key {css[engine.name]}"></span>{escape(engine.name)}</li>' for engine in engines)
    return Markup(f'<ul class="legend">{"".join(entries)}</ul>')
