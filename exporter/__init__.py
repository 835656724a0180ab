"""torch -> bundle: traces an energy and its input gradient, writes engines, verifies each against PyTorch."""

from .archive import save_energy
from .energy import Energy, make_energy
from .export import ExportReport, export, export_energy
from .load import load_model

__all__ = ["Energy", "ExportReport", "export", "export_energy", "load_model", "make_energy", "save_energy"]
