"""torch -> bundle: traces an energy and its input gradient, writes engines, verifies each against PyTorch."""

from ..runtime.errors import MissingBackend

try:  # said here, as all that follows imports them
    import onnx_ir  # noqa: F401
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("onnx", "onnx_ir", "torch"):
        raise  # installed, and broken inside
    raise MissingBackend(
        f"ebm-export needs the package {error.name}: pip install 'ebm-export[export]' (the device needs only ebm-run)"
    ) from error

from .archive import save_energy
from .energy import Energy, make_energy
from .export import ExportReport, export, export_energy
from .load import load_model

__all__ = ["Energy", "ExportReport", "export", "export_energy", "load_model", "make_energy", "save_energy"]
