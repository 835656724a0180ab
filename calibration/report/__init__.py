"""The report of a comparison: one HTML file that opens without a network."""

from .render import render_report

__all__ = ["render_report"]
