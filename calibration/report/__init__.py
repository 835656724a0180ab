"""The report of a comparison: one HTML file that opens without a network, and a table for the terminal."""

from .render import render_report
from .table import table

__all__ = ["render_report", "table"]
