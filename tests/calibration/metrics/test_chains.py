from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ebm_export.calibration.metrics.chains import effective_sample_size, r_hat
from ebm_export.runtime.errors import UsageError


def autoregressive(phi: float, chains: int = 4, draws: int = 4000, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((chains, draws))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0] / np.sqrt(1 - phi**2)
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + noise[:, t]
    return x


class TestEffectiveSampleSize:
    @pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
    def test_autoregressive_chains(self, phi: float) -> None:
        """An AR(1) chain is worth (1 - phi) / (1 + phi) of its draws; that of its ranks differs a little."""
        found = effective_sample_size(autoregressive(phi))
        assert found == pytest.approx(16000 * (1 - phi) / (1 + phi), rel=0.2)

    def test_one_number_per_coordinate(self) -> None:
        draws = np.stack([autoregressive(0.0, draws=500), autoregressive(0.9, draws=500)], axis=2)
        found = effective_sample_size(draws)
        assert found.shape == (2,)
        assert found[1] < 0.3 * found[0]

    def test_constant(self) -> None:
        assert effective_sample_size(np.ones((2, 50))) == 100.0


class TestRHat:
    def test_mixed_and_unmixed(self) -> None:
        draws = autoregressive(0.0)
        assert r_hat(draws) == pytest.approx(1.0, abs=0.005)
        assert r_hat(draws + np.arange(4)[:, None]) > 1.2
        assert r_hat(draws * np.array([1.0, 1.0, 1.0, 5.0])[:, None]) > 1.05  # equal means, unequal widths

    def test_a_drift_within_one_chain_is_seen(self) -> None:
        draws = np.random.default_rng(0).standard_normal((1, 400)) + np.linspace(0, 5, 400)
        assert r_hat(draws) > 1.3

    def test_a_single_chain_needs_two_halves(self) -> None:
        with pytest.raises(UsageError, match="at least 8 draws of a single chain, got 7"):
            r_hat(np.random.default_rng(0).standard_normal((1, 7)))

    def test_constant_is_nan(self) -> None:
        draws = np.stack([np.ones((2, 50)), np.random.default_rng(0).standard_normal((2, 50))], axis=2)
        assert np.isnan(r_hat(draws)).tolist() == [True, False]


@pytest.mark.parametrize("metric", [effective_sample_size, r_hat])
def test_refusals(metric) -> None:
    with pytest.raises(UsageError, match=r"draws: expected \[chains, draws, \*S\] with at least 4 draws, got \[4, 3\]"):
        metric(np.ones((4, 3)))
    with pytest.raises(UsageError, match="draws: expected finite"):
        metric(np.full((2, 8), np.nan))


def test_the_missing_package_is_named() -> None:
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'arviz_stats': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from ebm_export.runtime.errors import MissingBackend\n"
        "try: import ebm_export.calibration.metrics.chains\n"
        "except MissingBackend as error: assert 'ebm-export[calibration]' in str(error)\n"
        "else: raise SystemExit('imported')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
