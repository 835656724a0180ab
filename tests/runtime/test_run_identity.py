"""Which engines' threads a run is told by; that other ones are refused is in test_checkpoint.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime import Ebm, UsageError, load
from ebm_export.runtime.composition import compose
from ebm_export.runtime.device import usable_cores

from .tiny_bundle import write_bundle


def loaded(folder: Path, threads: int | None, composed: bool) -> Ebm:
    path = folder / "tiny.ebm"
    if not path.exists():
        write_bundle(path)
    one = load(path, threads=threads)
    return compose([one, load(path, threads=1)]) if composed else one


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("threads", [2, None])
def test_other_threads_are_another_run(tmp_path: Path, threads: int | None, composed: bool) -> None:
    with loaded(tmp_path, 1, composed) as ebm:
        whole = ebm.sample(4, steps=3, checkpoint=tmp_path / "run")
    with loaded(tmp_path, 1, composed) as ebm:
        np.testing.assert_array_equal(ebm.sample(4, steps=3, checkpoint=tmp_path / "run"), whole)
    said = str(threads or f'"onnxruntime\'s own on {usable_cores()} cores"')
    said = rf"\[{said}, 1\]" if composed else said
    with (
        loaded(tmp_path, threads, composed) as ebm,
        pytest.raises(UsageError, match=f"is of another run: threads was 1 and is {said}. Give the same again"),
    ):
        ebm.sample(4, steps=3, checkpoint=tmp_path / "run")
