"""The errors of ebm-export, drawn once.

The commands turn each into one line and its exit code; everything else is a bug and keeps its traceback.

    EbmExportError
      UsageError            2  an argument that cannot be right (also a ValueError)
      LoadError             3  a model or bundle that cannot be read
        ContractError       3  a model that was read and is no energy this tool can export
      UnsupportedOperation  4  the graph has an operation without a rule, or one that an engine refuses
      EngineMismatch        5  an engine disagrees with PyTorch
      QualityGateError      6  the quality gate failed
      MissingBackend        7  a target or backend is not installed
      DivergenceError       1  a chain left the numbers a float can hold
"""

__all__ = [
    "ContractError",
    "DivergenceError",
    "EbmExportError",
    "EngineMismatch",
    "LoadError",
    "MissingBackend",
    "QualityGateError",
    "UnsupportedOperation",
    "UsageError",
]


class EbmExportError(Exception):
    """Base of every error that a user can mend; `exit_code` is what the commands end with."""

    exit_code = 1


class UsageError(EbmExportError, ValueError):
    """An argument, option or configuration value that cannot be right."""

    exit_code = 2


class LoadError(EbmExportError):
    """A model file or a bundle that cannot be read."""

    exit_code = 3


class ContractError(LoadError, ValueError):
    """A model that loads but breaks the energy contract (one finite number per sample, and so on)."""


class UnsupportedOperation(EbmExportError):
    """The traced graph contains an operation that has no rule, or that an engine's library refuses.

    Attributes:
        operator: the ONNX operator that a library refused, "" where none did.
        node: name of its node, "" where the library does not say which.
    """

    exit_code = 4

    def __init__(self, message: str, *, operator: str = "", node: str = ""):
        super().__init__(message)
        self.operator = operator
        self.node = node


class EngineMismatch(EbmExportError):
    """An engine's energies or gradients differ from PyTorch's by more than its precision allows."""

    exit_code = 5


class QualityGateError(EbmExportError):
    """No engine of the wanted precision keeps the quality of the samples."""

    exit_code = 6


class MissingBackend(EbmExportError, ImportError):
    """A package that a target or backend needs is not installed."""

    exit_code = 7


class DivergenceError(EbmExportError, ArithmeticError):
    """A chain's numbers are no longer finite, its energy left the range that was given, or it ran away."""
