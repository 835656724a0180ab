"""Conditions of 8, 16 and 32 bits: overflow in the graph as in PyTorch, and nothing else where they become floats."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ebm_export.exporter import export, make_energy
from ebm_export.exporter.golden import fresh_conditions
from ebm_export.exporter.lowering import lower
from ebm_export.exporter.trace import trace
from ebm_export.runtime import SamplerConfig, UsageError, load

CONFIG = SamplerConfig(steps=6, step_size=0.05, noise=0.01)
TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32)


def every_number(dtype: torch.dtype) -> torch.Tensor:
    """[8, 4] numbers over the whole range of a type, its ends included."""
    limits = torch.iinfo(dtype)
    return torch.linspace(limits.min, limits.max, 32, dtype=torch.float64).round().to(dtype).reshape(8, 4)


def distance(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    def energy(x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        target = change(image)
        return (x - target.float() / torch.iinfo(image.dtype).max).square().sum(1)

    return energy


OVERFLOWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "add": lambda image: image + image,
    "number": lambda image: image + 100,
    "sub": lambda image: image - image.flip(1) * 2,
    "mul": lambda image: image * 3,
    "neg": lambda image: -image,
    "not": lambda image: ~image * 2,
    "sum": lambda image: image.sum(1, keepdim=True, dtype=image.dtype),
    "cast": lambda image: (image.float() * 1.7).to(torch.int64).to(image.dtype),
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    # onnxruntime joins the two casts of the last pair into one that does not wrap; the export then fails.
    [pair for pair in itertools.product(OVERFLOWS, TYPES) if pair != ("cast", torch.int32)],
)
def test_overflow_is_that_of_the_type(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    image, energy = every_number(dtype), distance(OVERFLOWS[kind])
    assert not torch.equal(OVERFLOWS[kind](image), OVERFLOWS[kind](image.long()).to(torch.int64))  # it does overflow
    # OpenVINO computes whole numbers in float32, which is exact up to 24 bits.
    targets = ["onnxruntime", "openvino"] if dtype == torch.uint8 else ["onnxruntime"]
    path = export(energy, torch.randn(8, 4), cond={"image": image}, out=tmp_path / "m.ebm", targets=targets,
                  sampler=CONFIG)  # fmt: skip
    x = torch.randn(8, 4)
    for backend in targets:
        with load(path, backend=backend, threads=1) as ebm:
            value, _ = ebm.score(x.numpy(), image=image.numpy())
        np.testing.assert_allclose(value, energy(x, image).numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "cast"),
    [
        (torch.tensor([[0.4, 1.6, -1.6, 2.9]]).repeat(8, 1), lambda obs: obs.long().float()),
        (torch.tensor([[3, 200, 300, -1]]).repeat(8, 1), lambda obs: obs.to(torch.uint8).float() / 100),
    ],
    ids=["truncated", "wrapped"],
)
def test_a_cast_that_the_model_makes_itself_is_kept(
    tmp_path: Path, given: torch.Tensor, cast: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    def energy(x: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        return (x - cast(obs)).square().sum(1)

    path = export(energy, torch.randn(8, 4), cond={"obs": given}, out=tmp_path / "m.ebm", sampler=CONFIG)
    x = torch.randn(8, 4)
    with load(path, threads=1) as ebm:
        value, grad = ebm.score(x.numpy(), obs=given.numpy())
    np.testing.assert_allclose(value, energy(x, given).numpy(), rtol=1e-5)
    np.testing.assert_allclose(grad, (2 * (x - cast(given))).numpy(), rtol=1e-5)


def test_an_image_that_becomes_float_costs_one_cast() -> None:
    energy = make_energy(
        lambda x, image: (x - image.float() / 255).square().sum(1),
        torch.randn(8, 4),
        cond={"image": every_number(torch.uint8)},
    )
    model = lower(trace(energy), "score")
    readers = [use.node for use in next(i for i in model.graph.inputs if i.name == "image").uses()]
    to_float = [node for node in readers if node.attributes["to"].as_int() == onnx.TensorProto.FLOAT]
    assert len(to_float) == 1
    assert "Mod" not in {node.op_type for node in model.graph}


def test_the_manifest_and_the_runtime_keep_to_the_range(tmp_path: Path) -> None:
    energy = distance(lambda image: image)
    path = export(energy, torch.randn(8, 4), cond={"image": every_number(torch.uint8)}, out=tmp_path / "m.ebm",
                  sampler=CONFIG)  # fmt: skip
    (entry,) = json.loads((path / "manifest.json").read_text())["model"]["cond"]
    assert entry == {"name": "image", "dtype": "int64", "shape": [4], "limits": [0, 255]}
    golden = np.load(path / "golden.npz")
    assert golden["cond.image"].min() >= 0 and golden["cond.image"].max() <= 255
    with load(path) as ebm, pytest.raises(UsageError, match="image: expected whole numbers from 0 to 255.*got 256$"):
        ebm.score(np.zeros((1, 4), np.float32), image=np.full((1, 4), 256))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_verification_uses_numbers_of_the_type(dtype: torch.dtype) -> None:
    energy = make_energy(distance(lambda image: image), torch.randn(8, 4), cond={"image": every_number(dtype)})
    drawn = fresh_conditions(energy, 8, 0)["image"]
    assert drawn.dtype == np.int64
    assert drawn.min() >= torch.iinfo(dtype).min and drawn.max() <= torch.iinfo(dtype).max
