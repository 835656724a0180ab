"""How far one set of samples, or one score, is from another: one metric a file.

A metric is a function from arrays to a number (or to a small frozen dataclass of numbers). None of them judges: what a
distance means against the seed noise floor is the business of `calibration.gate`.
"""

from ...runtime.errors import MissingBackend

try:
    import scipy  # noqa: F401
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("scipy", "sklearn"):
        raise  # installed, and broken inside
    raise MissingBackend(
        f"comparing samples needs the package {error.name}: pip install 'ebm-export[calibration]'"
    ) from error

__all__: list[str] = []
