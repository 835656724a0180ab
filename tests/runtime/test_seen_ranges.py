"""Conditioning inputs whose numbers are not scaled as those that the export saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, load
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.composition import compose
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.seen_ranges import SeenRanges

from .tiny_bundle import manifest_entries, write_bundle

PIXELS = np.linspace(0, 255, 12).round().reshape(1, 3, 4).astype(np.uint8)
START = np.zeros((2, 3), np.float32)


def ebm_of(*ranges: tuple[float, float] | None) -> Ebm:
    """|x|^2 with conditioning inputs [3, 4] of no effect, called image, depth .. and known to the graph by other names."""
    names = ("image", "depth")[: len(ranges)]
    cond = tuple(
        TensorSpec(f"{name}_", (3, 4), "float32", parameter=name, range=seen)
        for name, seen in zip(names, ranges, strict=True)
    )
    engine = FunctionEngine(lambda x, **cond: ((x * x).sum(axis=1), 2 * x))
    return Ebm(engine, ModelSpec("bowl", TensorSpec("x", (3,), "float32"), cond=cond), SamplerConfig(steps=2))


CALLS: dict[str, Callable[[Ebm, dict[str, Any]], Any]] = {
    "score": lambda ebm, cond: ebm.score(START, cond=cond),
    "sample": lambda ebm, cond: ebm.sample(2, cond=cond),
    "refine": lambda ebm, cond: ebm.refine(START, cond=cond),
    "a deadline": lambda ebm, cond: ebm.sample(2, cond=cond, deadline_ms=1e6),
    "stream": lambda ebm, cond: next(ebm.stream(2, cond=cond)),
    "best_of": lambda ebm, cond: best_of(ebm, 1, 4, cond=cond),
}


@pytest.mark.parametrize("call", CALLS)
def test_pixels_that_are_not_scaled_are_told_of_once(call: str, caplog: pytest.LogCaptureFixture) -> None:
    with ebm_of((0.0, 1.0)) as ebm:
        CALLS[call](ebm, {"image": PIXELS / 255})
        assert not caplog.messages
        for _ in range(2):
            CALLS[call](ebm, {"image": PIXELS})
    assert caplog.messages == [
        "image: got numbers from 0 to 255, and the export saw 0 to 1: the answers may be worth nothing; scale them as in training, or, if "
        "they are, export the model again with rows as they come in use (--cond image=FILE.npy)"
    ]


@pytest.mark.parametrize(("seen", "told"), [((0.1, 1.2), True), ((0.0, 1.2), False), ((-0.1, 1.2), False)])
def test_a_sign_that_was_never_seen_is_told_of(
    seen: tuple[float, float], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An energy that takes the logarithm of a noise level is not finite there, and the step size was blamed."""
    with ebm_of(seen) as ebm:
        ebm.score(START, image=np.full((1, 3, 4), -0.5, np.float32))
    assert [message.startswith("image: got numbers from -0.5 to -0.5") for message in caplog.messages] == [True] * told


def test_each_input_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with ebm_of((0.0, 1.0), (-1.0, 1.0)) as ebm:
        ebm.score(START, image=PIXELS, depth=PIXELS / 255)
        ebm.score(START, image=PIXELS, depth=PIXELS)
    assert [message.partition(":")[0] for message in caplog.messages] == ["image", "depth"]


@pytest.mark.parametrize(
    ("seen", "given"),
    [
        ((0.0, 1.0), PIXELS),
        ((-1.0, 1.0), PIXELS),
        ((-2.12, 2.64), PIXELS),  # with ImageNet's means and deviations
        ((0.0, 1.0), -10.5),
        ((0.7, 0.7), 71.0),  # a constant
        ((-0.4, 0.9), 52.0),  # degrees for radians
        ((12.0, 12.1), 12050.0),  # millivolts for volts
    ],
)
def test_other_units_are_told_of(seen: tuple[float, float], given: Any, caplog: pytest.LogCaptureFixture) -> None:
    with ebm_of(seen) as ebm:
        ebm.sample(2, image=np.broadcast_to(given, (1, 3, 4)))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("seen", "given"),
    [
        (None, PIXELS),  # of an older bundle, or from a shape
        ((0.0, 1.0), -9.5),
        ((0.0, 1.0), 0.0),
        ((0.0, 255.0), PIXELS),
        ((0.05, 0.3), PIXELS / 100),  # a bright room after a dark one
        ((-2.2, 1.9), 6.0),
        ((0.7, 0.7), 1.4),
        ((12.0, 12.1), 13.8),
        ((0.0, 0.0), PIXELS),  # which says nothing of a size
        ((-1.0, 1.0), -np.inf),  # of a mask
    ],
)
def test_new_observations_are_not(
    seen: tuple[float, float] | None, given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with ebm_of(seen) as ebm:
        ebm.sample(2, image=np.broadcast_to(given, (1, 3, 4)))
    assert not caplog.messages


def test_a_mask_beside_large_numbers(caplog: pytest.LogCaptureFixture) -> None:
    given = np.full((1, 3, 4), -np.inf)
    given[0, 0, 0] = 255
    with ebm_of((0.0, 1.0)) as ebm:
        ebm.sample(2, image=given)
    assert "image: got numbers from -inf to 255, and" in caplog.text


def test_warming_up_is_silent_and_leaves_the_warning_to_calls(caplog: pytest.LogCaptureFixture) -> None:
    with ebm_of((300.0, 310.0)) as ebm:
        ebm.warm(2)
        assert not caplog.messages
        ebm.score(START, image=np.full((1, 3, 4), 1e5))
    assert len(caplog.messages) == 1


def test_all_of_a_large_image_and_no_more_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    specs = [TensorSpec("image", (3, 224, 224), "float32", range=(0.0, 1.0))]
    batch = np.zeros((2, 3, 224, 224), np.float32)
    batch[1, -1, -1] = 255
    SeenRanges(specs).warn_of({"image": batch})
    assert not caplog.messages
    SeenRanges(specs).warn_of({"image": batch[1:]})
    assert len(caplog.messages) == 1


def test_the_range_is_the_bundles(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One without it, as older ones are, is loaded and says nothing; each load of one that has it does."""
    given = np.full((1, 3), 255, np.uint8)
    with load(write_bundle(tmp_path / "old.ebm", cond=True), "onnxruntime", threads=1) as ebm:
        assert ebm.model.cond[0].range is None
        ebm.sample(2, centre=given)
    assert not caplog.messages
    model = manifest_entries([], cond=True)["model"]
    model["cond"][0]["range"] = [0, 1.0]
    path = write_bundle(tmp_path / "new.ebm", cond=True, model=model)
    for _ in range(2):
        with load(path, "onnxruntime", threads=1) as ebm:
            assert ebm.model.cond[0].range == (0.0, 1.0)
            ebm.sample(2, centre=given)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("ranges", [[None, (0.0, 1.0), (0.0, 255.0)], [(0.0, 255.0), (0.0, 1.0), None]])
def test_of_energies_that_share_an_input_the_narrowest_counts(
    ranges: list[tuple[float, float] | None], caplog: pytest.LogCaptureFixture
) -> None:
    with compose([ebm_of(each) for each in ranges]) as both:
        both.sample(2, image=PIXELS)
    assert "and the export saw 0 to 1: " in caplog.text


def test_what_an_export_saw_does_not_make_another_input() -> None:
    """Whether two bundles take the same is asked by `==`."""
    one, other = (TensorSpec("image", (3,), "float32", range=seen) for seen in ((0.0, 1.0), None))
    assert one == other
