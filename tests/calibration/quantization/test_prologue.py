from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.prologue import PrologueQuantizer

from .graphs import graph, run

ROWS = np.random.default_rng(3).standard_normal((40, 6)).astype(np.float32)
CALIBRATED, OTHERS = {"image": ROWS[:30]}, {"image": ROWS[30:]}


def encoder(outlier: float = 1.0) -> ir.Model:
    """feature = silu(image W1) W2 and twice as much of a single number; one number of the hidden layer is `outlier` times as large."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(shape).astype(np.float32) / 3 for shape in ((6, 32), (32, 8)))
    first[:, 0] *= outlier
    second[0] /= outlier
    text = """
        prologue (float[B, 6] image) => (float[B, 8] feature_0, float[B, 1] feature_1) {
            hidden = MatMul (image, w1)  gate = Sigmoid (hidden)  silu = Mul (hidden, gate)
            out = MatMul (silu, w2)  feature_0 = Identity (out)  feature_1 = MatMul (image, tiny)
        }"""
    return graph(text, {"w1": first, "w2": second, "tiny": np.eye(6, 1, dtype=np.float32)})


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(asymmetric=False, fuses_sums=True), Scheme(evens=())])
def test_features_are_close_and_not_float(scheme: Scheme) -> None:
    model = encoder()
    made = PrologueQuantizer(model, CALIBRATED, scheme, threads=1)
    exact, found = (run(own, OTHERS)["feature_0"] for own in (model, made.model(list(made.harm))))
    error = np.sqrt(np.mean((found - exact) ** 2) / np.var(exact, axis=0).mean())
    assert 1e-4 < error < 0.03


def test_harm_is_that_of_one_layer_alone() -> None:
    model = encoder()
    made = PrologueQuantizer(model, CALIBRATED, Scheme(), threads=1)
    asked = {"image": CALIBRATED["image"][np.unique(np.linspace(0, 29, 64).round().astype(int))]}
    exact = run(model, asked)
    for name, harm in made.harm.items():
        found = run(made.model([name]), asked)
        squares = [
            np.mean((found[key] - exact[key]) ** 2) / np.mean((exact[key] - exact[key].mean(axis=0)) ** 2)
            for key in exact
        ]
        assert harm == pytest.approx(np.sqrt(sum(squares)), rel=1e-3)


def test_the_layer_with_an_outlier_comes_first() -> None:
    """Without evening out, one number that is 100 times as large takes seven of the eight bits from all others."""
    made = PrologueQuantizer(encoder(100.0), CALIBRATED, Scheme(evens=()), threads=1)
    assert next(iter(made.harm)) == "out"
    assert made.harm["out"] > 10 * made.harm["hidden"]
    evened = PrologueQuantizer(encoder(100.0), CALIBRATED, Scheme(), threads=1)
    assert evened.harm["out"] < made.harm["out"] / 4


def test_every_layer_is_described() -> None:
    made = PrologueQuantizer(encoder(), CALIBRATED, Scheme(), threads=1)
    entries = {entry["name"]: entry for entry in made.describe(["hidden"], "the gate says no")}
    assert {name: entry["precision"] for name, entry in entries.items()} == {
        "hidden": "int8",
        "out": "fp32",
        "feature_1": "fp32",
    }
    assert entries["hidden"]["scale"] > 0 and entries["hidden"]["reason"].startswith("range -")
    assert entries["out"]["reason"].startswith("alone it moves the features by ")
    assert entries["out"]["reason"].endswith("%; the gate says no")
    assert set(made.harm) == {"hidden", "out", "feature_1"}


def test_a_layer_with_little_work_stays() -> None:
    rng = np.random.default_rng(0)
    text = """
        prologue (float[B, 640] image) => (float[B, 64] feature_0, float[B, 1] feature_1) {
            feature_0 = MatMul (image, w)  feature_1 = MatMul (feature_0, tiny)
        }"""
    weights = {"w": rng.standard_normal((640, 640)).astype(np.float32), "tiny": np.ones((640, 1), np.float32)}
    rows = {"image": rng.standard_normal((20, 640)).astype(np.float32)}
    made = PrologueQuantizer(graph(text.replace("64] feature_0", "640] feature_0"), weights), rows, Scheme(), threads=1)
    assert set(made.harm) == {"feature_0"}
    assert made.describe(["feature_0"], "")[1]["reason"] == "0.16% of the prologue's work: nothing to gain"


def test_a_layer_that_reads_constants_alone_stays() -> None:
    """Coordinates of pixels are expanded to the batch, of which only the size is the condition's."""
    text = """
        prologue (float[B, 6] image) => (float[B, 8] feature_0) {
            size = Shape <start = 0, end = 1> (image)
            shape = Concat <axis = 0> (size, numbers)
            places = Expand (coordinates, shape)
            there = MatMul (places, w1)  seen = MatMul (image, w2)  feature_0 = Add (there, seen)
        }"""
    rng = np.random.default_rng(0)
    held = {name: rng.standard_normal((6, 8)).astype(np.float32) for name in ("w1", "w2")}
    held |= {"numbers": np.array([6]), "coordinates": rng.standard_normal((1, 6)).astype(np.float32)}
    made = PrologueQuantizer(graph(text, held), CALIBRATED, Scheme(), threads=1)
    assert list(made.harm) == ["seen"] and made.work == 48
    assert "constants alone" in made.describe(["seen"], "")[0]["reason"]


def test_few_rows_of_sparse_channels_do_not_even_them_out() -> None:
    """Of 24 rows most channels of a relu show none of their large numbers, and what is widened for that is cut off at other rows."""
    rng = np.random.default_rng(0)
    image = (
        np.maximum(rng.standard_normal((1024, 64)) - 1.5, 0) * rng.choice([0.1, 5.0], (1024, 64), p=[0.9, 0.1])
    ).astype(np.float32)
    text = "prologue (float[B, 64] image) => (float[B, 8] feature_0) { feature_0 = MatMul (image, w) }"
    model = graph(text, {"w": rng.standard_normal((64, 8)).astype(np.float32)})
    made = PrologueQuantizer(model, {"image": image[:24]}, Scheme(), threads=1)
    evened = [node.name for node in made.model(list(made.harm)).graph if "evened" in str(node.name)]
    assert not [name for name in evened if "weight" not in name]
