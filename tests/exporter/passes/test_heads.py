"""Heads that stay apart from the batch where keys and values come from a condition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.passes import KeepHeads
from ebm_export.exporter.passes.graph import dims
from ebm_export.exporter.split import split
from ebm_export.runtime import SamplerConfig, load

from ..referee import score_graph
from .graphs import check_pass, graph


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


RNG = np.random.default_rng(0)
Q, K, SECOND = (RNG.standard_normal(shape).astype(np.float32) for shape in ((5, 3, 2, 4), (5, 3, 6, 4), (6, 5, 12)))
FEEDS = {"x": RNG.standard_normal((5, 2)).astype(np.float32)}

FOLDED = """
g (float[B, 2] x, float[B, 3, 2, 4] c, {given}) => (float[B, 3, 2, 6] y)
<float[B, 1, 1, 2] w, float[B, 1, 1, 1] t, float[B, 3, 2, 4] q, float["3*B", 2, 4] a, {made} float["3*B", 2, 6] p>
{{ w = Reshape(x, s) t = ReduceSum(w, last) q = Mul(c, t) a = Reshape(q, folded) {text} p = MatMul(a, b) y = Reshape(p, back) }}
"""
SHAPES = {"s": i64(-1, 1, 1, 2), "last": i64(3), "folded": i64(-1, 2, 4), "back": i64(-1, 3, 2, 6)}
WAYS = {
    "folded": (
        "float[B, 3, 4, 6] k",
        'float["3*B", 4, 6] b,',
        "b = Reshape(k, own)",
        {"own": i64(-1, 4, 6)},
        {"k": K.swapaxes(2, 3).copy()},
        ["MatMul"],
    ),
    "folded and turned": (
        "float[B, 3, 6, 4] k",
        'float["3*B", 6, 4] f, float["3*B", 4, 6] b,',
        "f = Reshape(k, own) b = Transpose<perm=[0,2,1]>(f)",
        {"own": i64(-1, 6, 4)},
        {"k": K},
        ["Transpose", "MatMul"],
    ),
    "batch in the second place": (
        "float[6, B, 12] k",
        'float[6, "3*B", 4] f, float["3*B", 4, 6] b,',
        "f = Reshape(k, own) b = Transpose<perm=[1,2,0]>(f)",
        {"own": i64(6, -1, 4)},
        {"k": SECOND},
        ["Reshape", "Transpose", "MatMul"],
    ),
    "brought to the second place": (
        "float[B, 6, 12] k",
        'float[6, B, 12] t2, float[6, "3*B", 4] f, float["3*B", 4, 6] b,',
        "t2 = Transpose<perm=[1,0,2]>(k) f = Reshape(t2, own) b = Transpose<perm=[1,2,0]>(f)",
        {"own": i64(6, -1, 4)},
        {"k": SECOND.swapaxes(0, 1).copy()},
        ["Reshape", "Transpose", "MatMul"],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_product_is_one_of_heads_apart(way: str) -> None:
    given, made, text, constants, feeds, expected = WAYS[way]
    model = graph(FOLDED.format(given=given, made=made, text=text), {**SHAPES, **constants})
    assert check_pass(KeepHeads(), model, {**FEEDS, "c": Q, **feeds})
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    assert [dims(value) for value in (*product.inputs, *product.outputs)] == [
        ("B", 3, 2, 4),
        ("B", 3, 4, 6),
        ("B", 3, 2, 6),
    ]
    assert [node.op_type for node in _behind(product.inputs[1])] + ["MatMul"] == expected
    assert not check_pass(KeepHeads(), model, {**FEEDS, "c": Q, **feeds})


def _behind(value: ir.Value | None) -> list[ir.Node]:
    """What makes a factor, in order."""
    node = None if value is None else value.producer()
    return [] if node is None else [*_behind(node.inputs[0]), node]


def test_what_is_led_by_as_many_in_another_order_stays() -> None:
    """Row b of what a prologue gives is of condition b; heads that were concatenated are not in that order."""
    model = graph(
        FOLDED.format(given="float[B, 4, 6] k", made='float["3*B", 4, 6] b,', text="b = Concat<axis=0>(k, k, k)"),
        SHAPES,
    )
    assert not check_pass(KeepHeads(), model, {**FEEDS, "c": Q, "k": K[:, 0].swapaxes(1, 2).copy()})


class Concatenated(nn.Module):
    """Heads one after another in the batch, as Lee et al. write them ("Set transformer", arXiv:1810.00825)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.embed = nn.Conv2d(3, 12, 3, 2, 1), nn.Linear(4, 12)
        self.key, self.value, self.judge = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 1)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        places = self.see(image).flatten(2).transpose(1, 2)
        query = self.embed(x).unsqueeze(1)
        q, k, v = (torch.cat(each.split(4, 2), 0) for each in (query, self.key(places), self.value(places)))
        seen = torch.softmax(q.bmm(k.transpose(1, 2)) / 2, 2).bmm(v)
        return self.judge(torch.tanh(query + torch.cat(seen.split(len(x), 0), 2))).squeeze(2).squeeze(1)


class Guided(nn.Module):
    """The same with and without its condition, in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.looking = Looking()

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        both = self.looking(torch.cat([x, x]), torch.cat([image, torch.zeros_like(image)]))
        return 1.5 * both[: len(x)] - 0.5 * both[len(x) :]


@pytest.mark.parametrize("model", [Concatenated, Guided])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_one_condition_is_that_of_every_chain(model: type[nn.Module], backend: str, tmp_path: Path) -> None:
    energy, image = model().eval(), torch.randn(8, 3, 8, 8)
    path = export(
        energy,
        torch.randn(8, 4),
        cond={"image": image},
        out=tmp_path / "m.ebm",
        targets=[backend],
        sampler=SamplerConfig(steps=3, step_size=0.05),
    )
    x = torch.randn(5, 4)
    with load(path, backend=backend, threads=1) as ebm:
        for rows in (image[:1], image[:5]):
            found, _ = ebm.score(x.numpy(), image=rows.numpy())
            with torch.no_grad():
                wanted = energy(x, rows.expand(5, -1, -1, -1)).numpy()
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_where_both_change_from_step_to_step_nothing_does() -> None:
    model = graph(
        """g (float[B, 2] x, float[B, 3, 2, 4] c) => (float["3*B", 2, 2] p)
        <float[B, 1, 1, 2] w, float[B, 1, 1, 1] t, float[B, 3, 2, 4] q, float["3*B", 2, 4] a, float["3*B", 4, 2] b>
        { w = Reshape(x, s) t = ReduceSum(w, last) q = Mul(c, t) a = Reshape(q, folded)
          b = Transpose<perm=[0,2,1]>(a) p = MatMul(a, b) }""",
        {"s": i64(-1, 1, 1, 2), "last": i64(3), "folded": i64(-1, 2, 4)},
    )
    assert not check_pass(KeepHeads(), model, {**FEEDS, "c": Q})


class Looking(nn.Module):
    """A state that attends to the places of an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.embed = nn.Conv2d(3, 12, 3, 2, 1), nn.Linear(4, 12)
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True)
        self.judge = nn.Linear(12, 1)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        places = self.see(image).flatten(2).transpose(1, 2)
        query = self.embed(x).unsqueeze(1)
        found = query + self.attend(query, places, places, need_weights=False)[0]
        return self.judge(torch.tanh(found)).squeeze(2).squeeze(1)


def test_a_policy_takes_keys_and_values_from_its_prologue_as_they_are_read() -> None:
    """Both ways round, as the gradient's products take them turned: nothing is left to a step but to read them."""
    model = score_graph(make_energy(Looking().eval(), torch.randn(4, 4), cond={"image": torch.randn(4, 3, 8, 8)}))
    halves = split(model)
    assert halves is not None
    features = [value for value in halves.score.graph.inputs if value.name not in ("x", "grad_scale")]
    assert sorted(map(str, map(dims, features))) == ["('B', 3, 16, 4)"] * 2 + ["('B', 3, 4, 16)"] * 2
    for value in features:
        assert [use.node.op_type for use in value.uses()] == ["MatMul"]
