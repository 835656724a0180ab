"""Reading bundles: what is checked, and what each error says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Bundle, LoadError, SamplerConfig
from ebm_export.runtime.file_hash import sha256_of

from .tiny_bundle import golden_data, write_bundle

SCORE = "score.fp32.onnxruntime.onnx"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "quadratic.ebm", cond=True, data=np.ones((5, 3), np.float32))


def edit(bundle: Path, change: dict[str, Any]) -> None:
    """Replaces entries of the manifest."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def artifact(bundle: Path, **change: Any) -> dict[str, Any]:
    entry = json.loads((bundle / "manifest.json").read_text())["artifacts"][0]
    return {**entry, **change}


class TestReading:
    def test_model_sampler_and_artifacts(self, bundle: Path) -> None:
        read = Bundle(str(bundle))
        assert (read.model.name, read.model.x.shape, read.model.range) == ("quadratic", (3,), (-3.0, 3.0))
        assert [(spec.name, spec.shape, spec.dtype) for spec in read.model.cond] == [("centre", (3,), "float32")]
        assert read.sampler == SamplerConfig(steps=20, step_size=0.1)
        assert [entry.path for entry in read.artifacts] == [SCORE]
        assert read.file_of(read.artifacts[0]) == bundle / SCORE

    def test_arrays(self, bundle: Path) -> None:
        golden = Bundle(bundle).golden()
        assert golden.keys() == golden_data(cond=True).keys()
        np.testing.assert_array_equal(golden["cond.centre"], golden_data(cond=True)["cond.centre"])
        np.testing.assert_array_equal(Bundle(bundle).data(), np.ones((5, 3)))

    def test_a_bundle_without_states(self, tmp_path: Path) -> None:
        assert Bundle(write_bundle(tmp_path / "m.ebm")).data() is None


class TestErrors:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=r"there is no bundle .*nowhere\.ebm: the path does not exist"):
            Bundle(tmp_path / "nowhere.ebm")

    def test_not_a_bundle(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path, tmp_path / "file"):
            with pytest.raises(LoadError, match="is not a bundle: expected a folder with a manifest.json"):
                Bundle(path)

    def test_newer_schema(self, bundle: Path) -> None:
        edit(bundle, {"schema_version": 2})
        with pytest.raises(LoadError, match="schema_version 2 and this version of ebm-export reads up to 1: upgrade"):
            Bundle(bundle)

    def test_truncated_manifest(self, bundle: Path) -> None:
        text = (bundle / "manifest.json").read_text()
        (bundle / "manifest.json").write_text(text[: len(text) // 2])
        with pytest.raises(LoadError, match="manifest.json: cannot be read as JSON"):
            Bundle(bundle)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"schema_version": None}, "the entry 'schema_version' is missing"),
            ({"schema_version": "1"}, "schema_version: expected int, got '1'"),
            ({"model": None}, "the entry 'model' is missing"),
            ({"model": []}, "model: expected dict, got []"),
            ({"model": {"name": "m", "x": {"shape": [3]}}}, "model: x: the entry 'dtype' is missing"),
            (
                {"model": {"name": "m", "x": {"shape": [3], "dtype": "float16"}}},
                "model: x: dtype: expected one of float32, int64, bool, got 'float16'",
            ),
            ({"model": {"name": "m", "x": {"shape": [3], "dtype": "int64"}}}, "x: expected dtype float32, got int64"),
            ({"model": {"name": "m", "x": {"shape": ["3"], "dtype": "float32"}}}, "expected whole numbers above 0"),
            (
                {"model": {"name": "m", "x": {"shape": [10**6, 10**6], "dtype": "float32"}}},
                "a product that fits into memory",
            ),
            ({"model": {"name": "m", "x": {"shape": [True], "dtype": "float32"}}}, "expected whole numbers above 0"),
            (
                {"model": {"name": "m", "x": {"shape": [3], "dtype": "float32"}, "range": {"x": ["a"]}}},
                "model: range: x: expected the smallest and the largest number, got ['a']",
            ),
            (
                {
                    "model": {
                        "name": "m",
                        "x": {"shape": [3], "dtype": "float32"},
                        "cond": [{"name": "c", "shape": [], "dtype": "float32", "range": [0]}],
                    }
                },
                "model: cond[0]: range: expected the smallest and the largest number, got [0]",
            ),
            ({"files": {"golden.npz": 3}}, "files: expected the sha256 of each file, got {'golden.npz': 3}"),
            ({"artifacts": [7]}, "artifacts[0]: expected an object, got int"),
            ({"artifacts": [{}]}, "artifacts[0]: the entry 'path' is missing"),
            ({"sampler": {"step": 3}}, "sampler: 'step' is not a sampler setting; did you mean 'steps'?"),
            ({"files": {"../../passwords": "0"}}, "'../../passwords' is not the plain name of a file in the bundle"),
        ],
    )
    def test_manifest_entries(self, bundle: Path, change: dict[str, Any], message: str) -> None:
        edit(bundle, change)
        with pytest.raises(LoadError, match=re.escape(message)):
            Bundle(bundle)

    def test_by_how_much_energies_are_rounded_may_be_left_out(self, bundle: Path) -> None:
        artifacts = json.loads((bundle / "manifest.json").read_text())["artifacts"]
        assert [artifact.energy_rounding for artifact in Bundle(bundle).artifacts] == [None]
        for rounding in (0.25, None):
            edit(bundle, {"artifacts": [artifacts[0] | {"energy_rounding": rounding}]})
            assert [artifact.energy_rounding for artifact in Bundle(bundle).artifacts] == [rounding]
        for wrong, said in (("a", "expected float, got 'a'"), (-1.0, "expected a number of at least 0, got -1.0")):
            edit(bundle, {"artifacts": [artifacts[0] | {"energy_rounding": wrong}]})
            with pytest.raises(LoadError, match=rf"artifacts\[0\]: energy_rounding: {said}"):
                Bundle(bundle)

    def test_a_prologue_of_inputs_that_there_are_not(self, bundle: Path) -> None:
        artifacts = json.loads((bundle / "manifest.json").read_text())["artifacts"]
        edit(bundle, {"artifacts": [artifacts[0] | {"reads": ["image"]}]})
        with pytest.raises(
            LoadError, match=r"artifacts\[0\]: reads: expected names of conditioning inputs \(.*\), got"
        ):
            Bundle(bundle)

    @pytest.mark.parametrize("path", ["", "..", "../score.onnx", "/etc/hostname", "sub/score.onnx", "..\\score.onnx"])
    def test_a_path_that_leads_out_of_the_bundle(self, bundle: Path, path: str) -> None:
        edit(bundle, {"artifacts": [artifact(bundle, path=path)]})
        with pytest.raises(LoadError, match="is not the plain name of a file in the bundle"):
            Bundle(bundle)

    def test_missing_files(self, bundle: Path) -> None:
        read = Bundle(bundle)
        for name in (SCORE, "golden.npz", "data.npy"):
            (bundle / name).unlink()
        for ask, name in (
            (lambda: read.file_of(read.artifacts[0]), SCORE),
            (read.golden, "golden.npz"),
            (read.data, "data.npy"),
        ):
            with pytest.raises(LoadError, match=f"lacks its file {name}: copy the whole folder"):
                ask()

    def test_damaged_files(self, bundle: Path) -> None:
        read = Bundle(bundle)
        for name in (SCORE, "golden.npz", "data.npy"):
            damaged = bytearray((bundle / name).read_bytes())
            damaged[len(damaged) // 2] ^= 1
            (bundle / name).write_bytes(damaged)
        for ask, name in (
            (lambda: read.file_of(read.artifacts[0]), SCORE),
            (read.golden, "golden.npz"),
            (read.data, "data.npy"),
        ):
            with pytest.raises(LoadError, match=f"{name} is damaged or was changed: its sha256 should begin with"):
                ask()

    def test_a_damaged_file_beside_an_artifact(self, bundle: Path) -> None:
        (bundle / "score.bin").write_bytes(b"weights")
        edit(bundle, {"artifacts": [artifact(bundle, files={"score.bin": sha256_of(bundle / SCORE)})]})
        read = Bundle(bundle)
        with pytest.raises(LoadError, match=r"score\.bin is damaged or was changed"):
            read.file_of(read.artifacts[0])

    def test_pickles_are_never_read(self, bundle: Path) -> None:
        np.savez(bundle / "golden.npz", x=np.array([print], dtype=object))
        np.save(bundle / "data.npy", np.array([print], dtype=object), allow_pickle=True)
        edit(bundle, {"files": {name: sha256_of(bundle / name) for name in ("golden.npz", "data.npy")}})
        with pytest.raises(LoadError, match=r"golden\.npz: cannot be read as arrays .*allow_pickle=False"):
            Bundle(bundle).golden()
        with pytest.raises(LoadError, match=r"data\.npy: cannot be read as an array .*allow_pickle=False"):
            Bundle(bundle).data()

    @pytest.mark.parametrize("data", [np.ones((5, 2), np.float32), np.ones((5, 3)), np.ones((0, 3), np.float32)])
    def test_states_of_another_kind(self, tmp_path: Path, data: np.ndarray) -> None:
        bundle = write_bundle(tmp_path / "m.ebm", data=data)
        with pytest.raises(LoadError, match=r"data\.npy: expected float32 states \[M, \*\(3,\)\], got"):
            Bundle(bundle).data()
