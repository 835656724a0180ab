"""Sums and mixtures of bundles' energies, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ebm_export.runtime import load
from ebm_export.runtime.composition import compose

from .runtime.tiny_bundle import manifest_entries, write_bundle
from .test_cli import command

SAMPLE = ("ebm-run", "sample", "around.ebm", "-n", 8, "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Energies 0.5 |x|^2 and 0.5 |x - centre|^2 of three numbers, and two centres."""
    made = tmp_path_factory.mktemp("composition")
    write_bundle(made / "bowl.ebm")
    write_bundle(made / "around.ebm", cond=True)
    write_bundle(made / "cold.ebm", sampler={"steps": 20, "step_size": 0.1, "noise": 0.0})
    model = manifest_entries([])["model"]
    other = [{"name": "centre", "dtype": "int64", "shape": []}]
    write_bundle(made / "flat.ebm", model={**model, "x": {"shape": [4], "dtype": "float32"}})
    write_bundle(made / "label.ebm", model={**model, "name": "labelled", "cond": other})
    np.save(made / "a.npy", np.full((1, 3), 3, np.float32))
    np.save(made / "b.npy", np.arange(24, dtype=np.float32).reshape(8, 3) / 8)
    return made


def samples(folder: Path, *options: object) -> np.ndarray:
    run = command(*SAMPLE, *options, cwd=folder)
    assert run.returncode == 0, run.stderr
    return np.load(folder / "samples.npy")


class TestSum:
    STILL = ("--noise", 0, "--steps", 300)

    def test_a_condition_of_one_name_is_for_all_that_have_it(self, folder: Path) -> None:
        added = ("--add", "around.ebm=2", "--add", "bowl.ebm", "--cond", "centre=b.npy")
        expected = 0.75 * np.load(folder / "b.npy")  # (1 + 2) b / (1 + 2 + 1)
        np.testing.assert_allclose(samples(folder, *added, *self.STILL), expected, atol=1e-4)

    def test_each_has_a_condition_of_its_own_where_numbers_say_so(self, folder: Path) -> None:
        added = ("--add", "around.ebm=0.5", "--weight", 2)
        expected = (2 * np.load(folder / "a.npy") + 0.5 * np.load(folder / "b.npy")) / 2.5
        for first in ("centre", "0:centre"):
            given = ("--cond", f"{first}=a.npy", "--cond", "1:centre=b.npy")
            np.testing.assert_allclose(samples(folder, *added, *given, *self.STILL), expected, atol=1e-4)

    def test_is_that_of_python(self, folder: Path) -> None:
        given = ("--seed", 3, "--steps", 9, "--temperature", 0.3, "--cond", "centre=b.npy")
        run = command(*SAMPLE, "--add", "bowl.ebm=-0.25", *given, cwd=folder)
        assert run.returncode == 0, run.stderr
        with compose([load(folder / "around.ebm"), load(folder / "bowl.ebm")], [1, -0.25]) as both:
            x = both.sample(8, 3, steps=9, temperature=0.3, centre=np.load(folder / "b.npy"))
        np.testing.assert_array_equal(np.load(folder / "samples.npy"), x)
        said = json.loads(run.stdout)
        parts = [{"bundle": "around.ebm", "weight": 1.0}, {"bundle": "bowl.ebm", "weight": -0.25}]
        assert said["composition"] == {"kind": "sum", "parts": parts}
        assert said["engine"].startswith("sum of quadratic, quadratic: onnxruntime fp32")

    def test_goes_with_refine_and_with_tasks(self, folder: Path) -> None:
        np.save(folder / "start.npy", np.full((8, 3), 20, np.float32))
        added = ("--add", "bowl.ebm", "--cond", "centre=a.npy", "--json")
        refine = ("ebm-run", "refine", "around.ebm", "start.npy", *added)
        for more in (("--best-of", 3), ("--deadline-ms", 60_000), ("--checkpoint", "run.ckpt"), ("--sampler", "mala")):
            run = command(*refine, "--steps", 200, *more, cwd=folder)
            assert run.returncode == 0, run.stderr
            # From 20, in 200 steps: 4 standard errors of 24 numbers of variance 1/2.
            assert abs(np.load(folder / "refined.npy").mean() - 1.5) < 0.6
            assert json.loads(run.stdout)["composition"]["kind"] == "sum"

    def test_is_scored(self, folder: Path) -> None:
        x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
        np.save(folder / "x.npy", x)
        score = ("ebm-run", "score", "around.ebm", "x.npy", "--add", "bowl.ebm=0.5", "--cond", "centre=b.npy")
        run = command(*score, "--json", "--out", "scores.npz", cwd=folder)
        assert run.returncode == 0, run.stderr
        off = x - np.load(folder / "b.npy")
        expected = 0.5 * (off**2).sum(axis=1) + 0.25 * (x**2).sum(axis=1)
        assert json.loads(run.stdout)["energy"] == pytest.approx(expected, rel=1e-5)
        with np.load(folder / "scores.npz") as written:
            np.testing.assert_allclose(written["grad"], off + 0.5 * x, atol=1e-5)
        run = command(*score, "--mixture", "--json", cwd=folder)  # at T = 1, as its settings say
        densities = np.exp(-0.5 * (off**2).sum(axis=1)) + 0.5 * np.exp(-0.5 * (x**2).sum(axis=1))
        assert json.loads(run.stdout)["energy"] == pytest.approx(-np.log(densities), rel=1e-5, abs=1e-6)

    def test_a_name_with_an_equals_sign_is_a_name(self, folder: Path) -> None:
        write_bundle(folder / "lr=3")
        added = ("--add", "lr=3", "--add", "lr=3=2", "--cond", "centre=a.npy")
        np.testing.assert_allclose(samples(folder, *added, *self.STILL), 0.75, atol=1e-4)  # 3 / (1 + 1 + 2)


class TestMixture:
    def test_is_that_of_python_at_the_last_temperature(self, folder: Path) -> None:
        given = ("--add", "around.ebm=3", "--mixture", "--cond", "0:centre=a.npy", "--cond", "1:centre=b.npy")
        run = command(*SAMPLE, *given, "--temperature", "2,0.5", "--seed", 3, cwd=folder)
        assert run.returncode == 0, run.stderr
        names = [{"centre": "one"}, {"centre": "two"}]
        parts = [load(folder / "around.ebm") for _ in names]
        with compose(parts, [1, 3], kind="mixture", temperature=0.5, names=names) as either:
            centres = {"one": np.load(folder / "a.npy"), "two": np.load(folder / "b.npy")}
            x = either.sample(8, 3, temperature=(2, 0.5), cond=centres)
            energy, _ = either.score(x, cond=centres)
        np.testing.assert_array_equal(np.load(folder / "samples.npy"), x)
        said = json.loads(run.stdout)
        assert said["composition"]["kind"] == "mixture" and said["composition"]["temperature"] == 0.5
        assert said["energy_mean"] == pytest.approx(energy.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--weight", 2), 2, "--weight: says how bundles are composed; give --add BUNDLE as well"),
        (("--mixture",), 2, "--mixture: says how bundles are composed; give --add BUNDLE as well"),
        (("--add", "absent.ebm=2"), 3, "there is no bundle absent.ebm"),
        (("--add", "bowl.ebm=much"), 2, "--add: expected BUNDLE or BUNDLE=WEIGHT, the weight being a number, got 'bowl.ebm=much'"),
        (("--add", "=2"), 2, "--add: expected BUNDLE or BUNDLE=WEIGHT"),
        (("--add", "flat.ebm"), 2, "expected energies of states [3] as that of quadratic, and quadratic takes [4]"),
        (("--add", "label.ebm"), 2, "centre is int64 [] in labelled and float32 [3] in another: give one of them another name"),
        (("--add", "bowl.ebm=-1", "--mixture"), 2, "weights: expected finite numbers, above 0 in a mixture, got [1.0, -1.0]"),
        (("--add", "bowl.ebm", "--weight", "nan"), 2, "weights: expected finite numbers, got [nan, 1.0]"),
        (("--add", "bowl.ebm", "--mixture", "--noise", 0), 2, "--mixture: joins densities exp(-E / T) at the temperature of the chains"),
        (("--add", "bowl.ebm", "--exact"), 2, "--exact corrects chains of one bundle and cannot be combined with --add"),
        (("--add", "bowl.ebm", "--fuse"), 2, "--fuse takes steps of one bundle and cannot be combined with --add"),
        (("--add", "bowl.ebm", "--precision", "int8:0-9,fp32:9-"), 2, "--precision int8:0-9,fp32:9- is for steps of one bundle"),
        (("--add", "bowl.ebm", "--cond", "2:centre=a.npy"), 2, "--cond 2:centre: the energies have the numbers 0 (BUNDLE) to 1"),
        (("--add", "bowl.ebm", "--cond", "1:centre=a.npy"), 2, "--cond 1:centre: bowl.ebm has no such input; it has no other than x"),
        (("--add", "around.ebm", "--cond", "1:obs=a.npy"), 2, "--cond 1:obs: around.ebm has no such input; its inputs are centre"),
        (("--add", "bowl.ebm", "--cond", "x:centre=a.npy"), 2, "'x:centre' is not an input of this model; did you mean 'centre'?"),
        (("--add", "around.ebm", "--cond", "1:centre=a.npy"), 2, "the model needs the conditioning input 'centre'"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(folder: Path, given: tuple[object, ...], code: int, said: str) -> None:
    own = () if "--cond" in given else ("--cond", "centre=a.npy")
    run = command(*SAMPLE, *given, *own, cwd=folder)
    assert (run.returncode, run.stdout) == (code, "")
    assert said in run.stderr and "Traceback" not in run.stderr and "sampling" not in run.stderr
