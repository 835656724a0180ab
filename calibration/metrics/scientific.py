"""What metrics take of scipy and scikit-learn; where one of them is missing, an error that says what to install.

Exports without the gate need neither, so what they import of this package must not.
"""

from ...runtime.errors import MissingBackend

try:
    import scipy  # noqa: F401
    import sklearn  # noqa: F401
    from scipy.special import logsumexp
    from scipy.stats import beta, hypergeom, wasserstein_distance
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score
except ModuleNotFoundError as error:
    if error.name not in ("scipy", "sklearn"):
        raise  # installed, and broken inside
    raise MissingBackend(
        f"comparing samples needs the package {error.name}: pip install 'ebm-export[calibration]'"
    ) from error

__all__ = [
    "PCA",
    "ConvergenceWarning",
    "KMeans",
    "beta",
    "hypergeom",
    "logsumexp",
    "roc_auc_score",
    "wasserstein_distance",
]
