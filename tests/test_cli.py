"""The commands, run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export import cli
from ebm_export.exporter import save_energy
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle

from .runtime.tiny_bundle import artifact_entry, golden_data, manifest_entries, write_bundle, write_two_precisions

LIMITED: dict[str, list[str]] = {
    "bench": ["--batch", "1", "--threads", "1", "--seconds", "0.05", "--no-keep"],
    "refine": ["few.npy", "--out", "limited.npy", "--steps", "2"],
    "sample": ["-n", "1", "--out", "limited.npy", "--steps", "2"],
    "score": ["few.npy"],
    "verify": [],
}
"""What the commands that have --cpus and --memory-limit are given."""


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    name, *rest = map(str, arguments)
    code = f"from ebm_export.cli import {name.replace('-', '_')} as main; main()"
    return subprocess.run([sys.executable, "-c", code, *rest], cwd=cwd, capture_output=True, text=True, timeout=120)


class Quadratic(nn.Module):
    """Energy ||x - 1||^2 through a layer, so that there is something to round."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 1).square().sum(1) * 5 + torch.tanh(self.layer(x)).sum(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved energy and the bundle that the command made of it."""
    made = tmp_path_factory.mktemp("cli")
    config = SamplerConfig(steps=30, step_size=0.05, noise=0.05)
    save_energy(Quadratic(), made / "model.pt", torch.zeros(2, 3), sampler=config)
    run = command("ebm-export", "model.pt", "--target", "tensorrt", "--target", "onnxruntime", "--json", cwd=made)
    assert run.returncode == 0, run.stderr
    (made / "result.json").write_text(run.stdout)
    return made


class TestExport:
    def test_json_is_the_result_and_messages_go_to_stderr(self, folder: Path) -> None:
        result = json.loads((folder / "result.json").read_text())
        assert result["path"] == "model.ebm"
        assert result["sampler"]["steps"] == 30
        rows = {row["file"]: row for row in result["artifacts"]}
        assert rows["score.fp32.tensorrt.plan"]["status"] == "built, not run"
        assert rows["score.fp32.onnxruntime.onnx"]["status"] == "verified"
        assert rows["score.fp32.onnxruntime.onnx"]["ms per step (batch 8)"] > 0
        assert rows["score.fp32.onnxruntime.onnx"]["limit"] == "1e-04"
        assert (
            rows["score.fp32.tensorrt.plan"]["note"]
            == "built on a machine without a GPU; not run where it was exported"
        )

    def test_flags_change_the_settings_of_the_archive(self, folder: Path) -> None:
        run = command(
            "ebm-export",
            "model.pt",
            "--steps",
            7,
            "--bounds=-3,3",
            "--grad-clip-mode",
            "norm",
            "--out",
            "b.ebm",
            "--json",
            cwd=folder,
        )
        assert run.returncode == 0, run.stderr
        sampler = json.loads(run.stdout)["sampler"]
        assert (sampler["steps"], sampler["bounds"], sampler["step_size"]) == (7, [-3.0, 3.0], 0.05)
        assert sampler["grad_clip_mode"] == "norm"

    @pytest.mark.parametrize("as_json", [True, False])
    def test_what_was_written_is_told_where_something_failed(self, tmp_path: Path, as_json: bool) -> None:
        config = SamplerConfig(steps=3, step_size=0.1)
        save_energy(lambda x: x.square().sum(1), tmp_path / "n.pt", torch.zeros(2, 2), sampler=config)
        wanted = ("--precision", "fp32", "--precision", "int8", *(["--json"] if as_json else []))
        run = command("ebm-export", "n.pt", *wanted, cwd=tmp_path)
        assert run.returncode == 6
        assert "no layer that would gain from INT8" in run.stderr
        assert "score.fp32.onnxruntime.onnx" in run.stdout
        if as_json:
            assert [row["precision"] for row in json.loads(run.stdout)["artifacts"]] == ["fp32"]

    @pytest.mark.parametrize("as_json", [True, False])
    def test_what_the_verdicts_rest_on_is_said_once(self, tmp_path: Path, as_json: bool) -> None:
        config = SamplerConfig(steps=3, step_size=0.1)
        save_energy(lambda x: x.square().sum(1), tmp_path / "n.pt", torch.zeros(2, 2), sampler=config)
        wanted = ("--precision", "fp32", "--precision", "fp16", "--gate", 1.25, "--smallest-difference", 1)
        run = command("ebm-export", "n.pt", *wanted, *(["--json"] if as_json else []), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        said = json.loads(run.stdout)["judged"] if as_json else run.stdout
        assert said.count("the gate compared 128 chains of each engine with as many of FP32's") == 1

    def test_a_file_that_is_missing_does_not_run_here(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "m.ebm")
        (tmp_path / "m.ebm" / "score.fp32.onnxruntime.onnx").unlink()
        (row,) = json.loads(command("ebm-run", "info", "m.ebm", "--json", cwd=tmp_path).stdout)["artifacts"]
        assert row["runs here"] == "no" and row["note"] == "the file is missing: copy the whole folder, or export again"

    def test_config_file(self, folder: Path) -> None:
        (folder / "c.toml").write_text('target = "onnx"\nout = "c.ebm"\nverify = false\n[sampler]\nsteps = 9\n')
        run = command("ebm-export", "model.pt", "--config", "c.toml", "--json", cwd=folder)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert [row["file"] for row in result["artifacts"]] == ["score.fp32.onnx"]
        assert result["artifacts"][0]["status"] == "built, not run"
        assert result["sampler"]["steps"] == 9

    def test_the_archive_says_how_its_output_becomes_an_energy(self, tmp_path: Path) -> None:
        net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        save_energy(
            net, tmp_path / "n.pt", torch.zeros(2, 2), energy="negative", sampler=SamplerConfig(steps=3, step_size=0.1)
        )
        assert command("ebm-export", "n.pt", cwd=tmp_path).returncode == 0
        np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
        run = command("ebm-run", "score", "n.ebm", "x.npy", "--json", cwd=tmp_path)
        expected = -net(torch.ones(1, 2)).item()
        assert json.loads(run.stdout)["energy"][0] == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (["missing.pt"], 3, "there is no such file"),
            (["."], 3, "loading .\nerror: . is a folder"),
            (["model.pt", "--out", "n.ebm", "--features", "model"], 2, "nothing goes through it here: ask for int8"),
            (
                ["model.pt", "--out", "n.ebm", "--classes", "c.onnx", "--precision", "int8", "--no-gate"],
                2,
                "nothing goes through it here",
            ),
            (["model.pt", "--out", "n.ebm", "--ranges", "mse"], 2, "nothing is calibrated here: ask for int8"),
            (["model.pt", "--out", "n.ebm", "--gate", "1"], 2, "gate: expected a number above 1, got 1.0"),
            (["model.pt"], 2, "--force"),
            (
                ["model.pt", "--out", "n.ebm", "--calibration-data", "n.npy"],
                2,
                "--calibration-data: there is no file n.npy",
            ),
            (["model.pt", "--out", "n.ebm", "--batch", "3"], 2, "MIN:OPT:MAX"),
            (["model.pt", "--out", "n.ebm", "--temperature", "1"], 2, "temperature=1.0 has no effect while noise=0.05"),
            (["model.pt", "--out", "n.ebm", "--step-size", "big"], 2, "--step-size: expected a number"),
            (["junk.pt"], 3, "junk.pt"),
            (["weights.pt"], 2, "--model"),
            (["model.pt", "--precision", "fp8"], 2, "expected one of fp32, fp16, bf16, int8, mixed, got 'fp8'\n"),
            (["model.pt", "--precision", "fp32,int8"], 2, "for several: --precision fp32 --precision int8"),
            (["model.pt", "--out", "n.ebm", "--precision", "mixed", "--no-gate"], 2, "mixed needs the quality gate"),
            (["model.pt", "--target", "onnx, openvino"], 2, "for several: --target onnx --target openvino"),
            (["model.pt", "--out", "."], 2, "exists and is not a bundle"),
        ],
    )
    def test_errors_are_one_line_and_an_exit_code(
        self, folder: Path, arguments: list[str], code: int, text: str
    ) -> None:
        (folder / "junk.pt").write_bytes(b"no model")
        torch.save(Quadratic().state_dict(), folder / "weights.pt")
        run = command("ebm-export", *arguments, cwd=folder)
        assert run.returncode == code, run.stderr
        assert text in run.stderr
        assert "Traceback" not in run.stderr
        assert run.stdout == ""

    def test_help_says_what_is_taken(self, tmp_path: Path) -> None:
        said = " ".join(command("ebm-export", "--help", cwd=tmp_path).stdout.split())
        for text in ("What to write; repeat for several; onnxruntime if left out.", "NAME=VALUE for --model"):
            assert text in said
        assert "x>=1.0" not in said, "a --gate of 1 is refused"
        said = " ".join(command("ebm-run", "sample", "--help", cwd=tmp_path).stdout.split())
        assert "found in this time, counted from after loading and compiling; above 0. --stream" in said, (
            "no range stands there, with the 0 in it"
        )

    @pytest.mark.parametrize("as_json", [True, False])
    def test_settings_that_were_found_are_told(self, tmp_path: Path, as_json: bool) -> None:
        save_energy(lambda x: x.square().sum(1), tmp_path / "n.pt", torch.zeros(2, 2))
        run = command("ebm-export", "n.pt", *(["--json"] if as_json else []), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert "no sampler settings were given: step size" in run.stderr

    def test_an_operation_without_a_rule_is_exit_code_4(self, tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text(
            "import torch\n"
            "class Net(torch.nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__(); self.scale = torch.nn.Parameter(torch.ones(4))\n"
            "    def forward(self, x):\n"
            "        return torch.fft.fft(x * self.scale).abs().sum(1)\n"
        )
        torch.save({"scale": torch.ones(4)}, tmp_path / "w.pt")
        run = command("ebm-export", "w.pt", "--model", "net.py:Net", "--shape", "4", cwd=tmp_path)
        assert run.returncode == 4, run.stderr
        assert "net.py:6, in forward" in run.stderr
        assert [path.name for path in tmp_path.glob("*.ebm*")] == []


class TestRun:
    def test_info_names_every_file(self, folder: Path) -> None:
        run = command("ebm-run", "info", "model.ebm", cwd=folder)
        assert run.returncode == 0, run.stderr
        for name in ("score.fp32.onnx", "score.fp32.tensorrt.plan", "steps=30", "x [3] float32"):
            assert name in run.stdout

    def test_verify_passes_here(self, folder: Path) -> None:
        run = command("ebm-run", "verify", "model.ebm", "--json", cwd=folder)
        assert run.returncode == 0, run.stderr
        results = {row["file"]: row["result"] for row in json.loads(run.stdout)}
        assert results["score.fp32.onnxruntime.onnx"] == "passed"
        assert results["score.fp32.tensorrt.plan"] == "not run"

    def test_sample_then_refine_then_score(self, folder: Path) -> None:
        run = command("ebm-run", "sample", "model.ebm", "-n", 12, "--seed", 3, "--json", cwd=folder)
        assert run.returncode == 0, run.stderr
        samples = np.load(folder / "samples.npy")
        assert samples.shape == (12, 3)
        assert json.loads(run.stdout)["energy_mean"] < Quadratic()(torch.zeros(1, 3)).item()
        assert command("ebm-run", "refine", "model.ebm", "samples.npy", "--steps", 5, cwd=folder).returncode == 0
        assert np.load(folder / "refined.npy").shape == (12, 3)
        run = command("ebm-run", "score", "model.ebm", "samples.npy", cwd=folder)
        expected = Quadratic()(torch.tensor(samples)).detach().numpy()
        assert [float(line) for line in run.stdout.split()] == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("sample", "model.ebm", "--out", "nowhere/x.npy"), "--out: there is no folder nowhere to write x.npy to"),
            (("sample", "model.ebm", "--out", "."), "--out: . is a folder"),
            (
                ("sample", "model.ebm", "--every", 10, "--states", "nowhere/s.npy"),
                "error: --states: there is no folder nowhere",
            ),
            (("sample", "model.ebm", "--checkpoint", "nowhere/c"), "error: --checkpoint: there is no folder nowhere"),
            (
                ("sample", "model.ebm", "--out", "s.npy", "--checkpoint", "./s.npy"),
                "--out and --checkpoint: both are s.npy",
            ),
            (
                ("sample", "model.ebm", "--every", 9, "--out", "s", "--states", "s"),
                "--out and --states: both are s; give",
            ),
            (
                ("sample", "model.ebm", "--every", 9, "--out", "s", "--checkpoint", "s.states.npy"),
                "--states and --checkpoint",
            ),
            (
                ("sample", "model.ebm", "--states", "s.npy"),
                "--states: is written after every so many steps; give --every",
            ),
            (
                ("sample", "model.ebm", "--checkpoint-seconds", 5),
                "--checkpoint-seconds: is how often --checkpoint FILE is written; give that as well",
            ),
            (("score", "model.ebm", "absent.npy", "--out", "nowhere/x.npz"), "--out: there is no folder nowhere"),
        ],
    )
    def test_a_file_that_cannot_be_written_is_an_error_before_the_work(
        self, folder: Path, given: tuple[object, ...], said: str
    ) -> None:
        run = command("ebm-run", *given, cwd=folder)
        assert (run.returncode, run.stdout) == (2, "")
        assert said in run.stderr and "sampling" not in run.stderr and "Traceback" not in run.stderr

    @pytest.mark.parametrize(
        "given",
        [
            ("score", "model.ebm", "{}"),
            ("refine", "model.ebm", "{}"),
            ("sample", "model.ebm", "--keep", "{}"),
            ("sample", "model.ebm", "--known", "{}"),
            ("sample", "model.ebm", "--cond", "k={}"),
        ],
    )
    def test_a_damaged_array_is_one_line(self, folder: Path, given: tuple[str, ...]) -> None:
        (folder / "empty.npy").write_bytes(b"")
        (folder / "archive.npy").write_bytes(b"PK\x03\x04damaged")
        for name in ("empty.npy", "archive.npy"):
            run = command("ebm-run", *(text.format(name) for text in given), cwd=folder)
            assert (run.returncode, run.stdout) == (2, "")
            assert run.stderr.startswith(f"error: {name}: expected a .npy file with numbers: ")
            assert len(run.stderr.splitlines()) == 1

    def test_scores_of_other_kinds(self, folder: Path) -> None:
        x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
        for name, rows in (("known.npy", x), ("odd.npy", 3 * x)):
            np.save(folder / name, rows)
        run = command("ebm-run", "score", "model.ebm", "known.npy", "--out", "known.npz", cwd=folder)
        assert run.returncode == 0, run.stderr
        with np.load(folder / "known.npz") as written:
            assert sorted(written) == ["energy", "grad"]
            usual = written["energy"].mean()
        score = ("ebm-run", "score", "model.ebm", "odd.npy", "--out", "odd.npz", "--cpus", "0", "--memory-limit", "8G")
        for options in (("--kind", "gradient"), ("--kind", "typicality", "--reference", "known.npz")):
            run = command(*score, *options, cwd=folder)
            assert run.returncode == 0, run.stderr
            with np.load(folder / "odd.npz") as written:
                expected = {
                    "gradient": np.linalg.norm(written["grad"], axis=1),
                    "typicality": abs(written["energy"] - usual),
                }[options[1]]
                np.testing.assert_allclose(written["score"], expected, rtol=1e-5)
                assert [float(line) for line in run.stdout.split()] == pytest.approx(written["score"], rel=1e-4)
                said = json.loads(command(*score, *options, "--json", cwd=folder).stdout)
                assert said == {"energy": written["energy"].tolist(), "score": written["score"].tolist()}

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("--kind", "typicality"), "--kind typicality needs --reference FILE.npz: what this command's --out wrote"),
            (
                ("--reference", "known.npy"),
                "--reference: known.npy: expected a FILE.npz that ebm-run score --out wrote: it is one array [5, 3]",
            ),
            (("--reference", "y.npz"), "--reference: there is no file y.npz"),
            (("--reference", "."), "--reference: .: expected a FILE.npz that ebm-run score --out wrote"),
            (("--reference", "model.pt"), "--reference: model.pt: expected a FILE.npz that ebm-run score --out wrote"),
            (("--reference", "e.npz"), "--reference: expected energies [M] of data in the distribution with kind="),
            (("--kind", "typicality", "--reference", "e.npz"), "--reference: expected finite energies [M], M at least"),
            (("--cpus", "999999"), "--cpus 999999: this process may use"),
        ],
    )
    def test_scores_that_cannot_be(self, folder: Path, given: tuple[str, ...], said: str) -> None:
        np.save(folder / "known.npy", np.zeros((5, 3), np.float32))
        np.savez(folder / "e.npz", energy=np.zeros(0))
        run = command("ebm-run", "score", "model.ebm", "known.npy", *given, cwd=folder)
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1
        assert f"error: {said}" in run.stderr

    @pytest.mark.parametrize("name", LIMITED)
    def test_it_keeps_to_its_cpus_and_memory(self, folder: Path, name: str) -> None:
        np.save(folder / "few.npy", np.ones((2, 3), np.float32))
        cpu = max(os.sched_getaffinity(0))
        limits = ("--cpus", str(cpu), "--memory-limit", "8G")
        code = (
            "import atexit, os, resource, sys; from ebm_export.cli import ebm_run; "
            "atexit.register(lambda: print(os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_DATA), file=sys.stderr)); "
            "ebm_run()"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, name, "model.ebm", *LIMITED[name], *limits],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        assert run.stderr.splitlines()[-1] == f"{{{cpu}}} ({8 * 2**30}, {8 * 2**30})"

    def test_none_that_can_be_limited_is_left_out_above(self) -> None:
        folder = Path(cli.__file__).parent / "commands"
        names = [path.stem for path in folder.glob("*.py") if "cpus: Cpus" in path.read_text(encoding="utf-8")]
        assert sorted(names) == sorted(LIMITED)

    def test_chains_start_from_data(self, folder: Path) -> None:
        data = np.full((3, 3), 7, np.float32) + np.arange(3, dtype=np.float32)[:, None]
        np.save(folder / "data.npy", data)
        start = ("ebm-run", "sample", "model.ebm", "-n", 20, "--data", "data.npy", "--out", "started.npy")
        still = ("--init", "data", "--steps", 1, "--step-size", 1e-9, "--noise", 0)
        assert command(*start, *still, cwd=folder).returncode == 0
        np.testing.assert_allclose(np.unique(np.load(folder / "started.npy")), [7, 8, 9], rtol=1e-5)
        assert command(*start, *still, "--deadline-ms", 5000, cwd=folder).returncode == 0
        np.testing.assert_allclose(np.unique(np.load(folder / "started.npy")), [7, 8, 9], rtol=1e-5)
        run = command(*start, cwd=folder)
        assert run.returncode == 2
        assert "error: --data: has no effect on chains that start by --init normal; give --init data" in run.stderr
        run = command(*start, *still, "--best-of", 2, cwd=folder)
        assert run.returncode == 2 and "--best-of cannot be combined with --data" in run.stderr

    def test_states_of_another_shape_are_called_as_in_the_help(self, folder: Path) -> None:
        np.save(folder / "wide.npy", np.zeros((2, 4), np.float32))
        run = command("ebm-run", "refine", "model.ebm", "wide.npy", cwd=folder)
        assert run.returncode == 2
        assert "error: START: expected shape [B, 3], got [2, 4]" in run.stderr

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("score", "model.ebm", "nosuch.npy"), "there is no file nosuch.npy"),
            (("sample", "model.ebm", "--keep", "."), ". is a folder; expected a .npy file"),
            (("sample", "model.ebm", "--cond", "k=nosuch.npy"), "there is no file nosuch.npy"),
            (("sample", "model.ebm", "--cond", "k="), "--cond: expected NAME=FILE.npy or NAME=NUMBER, got 'k='"),
            (
                ("sample", "model.ebm", "--cond", "k=3,16,16"),
                "--cond: a shape says nothing about values: expected k=FILE.npy, got 'k=3,16,16'",
            ),
        ],
    )
    def test_an_array_that_is_not_there(self, folder: Path, given: tuple[str, ...], said: str) -> None:
        run = command("ebm-run", *given, cwd=folder)
        assert (run.returncode, run.stdout, run.stderr) == (2, "", f"error: {said}\n")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("-n", 10**20), f"-n: {10**20} states [3] are more than any array holds"),
            (("-n", 2**62), f"-n: {2**62} states [3] are more than any array holds"),
            (("-n", 2**59, "--every", 1, "--steps", 20), f"--every: {20 * 2**59} states [3] are more than any array"),
        ],
    )
    def test_more_samples_than_any_array_holds(self, folder: Path, given: tuple[object, ...], said: str) -> None:
        run = command("ebm-run", "sample", "model.ebm", *given, cwd=folder)
        assert (run.returncode, run.stdout) == (2, ""), run.stderr
        assert f"error: {said}" in run.stderr and "Traceback" not in run.stderr

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of files are bytes on Linux")
    def test_a_name_that_is_no_text_is_printed_as_far_as_it_is(self, folder: Path) -> None:
        code = "from ebm_export.cli import ebm_run as main; main()"
        arguments = ("sample", "model.ebm", "-n", "2", "--out", os.fsdecode(b"caf\xe9.npy"))
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"},
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(r"caf\udce9.npy: 2 samples [3]")
        assert np.load(folder / arguments[-1]).shape == (2, 3)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
    @pytest.mark.parametrize("given", [("sample", "model.ebm", "-n", 2), ("score", "model.ebm", "x.npy")])
    def test_a_full_disk_is_one_line(self, folder: Path, given: tuple[object, ...]) -> None:
        np.save(folder / "x.npy", np.zeros((2, 3), np.float32))
        run = command("ebm-run", *given, "--out", "/dev/full", cwd=folder)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.splitlines()[-1] == "error: /dev/full: No space left on device"
        assert "Traceback" not in run.stderr

    def test_samples_that_do_not_fit_leave_no_half_of_them(self, folder: Path) -> None:
        code = (
            "import resource; from ebm_export.cli import ebm_run\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
            "ebm_run()"
        )
        before = set(folder.iterdir())
        arguments = ("sample", "model.ebm", "-n", "1000", "--steps", "2", "--out", "large.npy")
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 1, run.stderr
        assert "error: large.npy: File too large" in run.stderr and "Traceback" not in run.stderr
        assert set(folder.iterdir()) == before

    @pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
    def test_a_command_that_is_stopped_says_so(self, folder: Path) -> None:
        # A shell has what it starts in the background ignore the signal, and so would this process if the tests were started so.
        heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"{heard}; from ebm_export.entry import ebm_run as main; main()"
        arguments = ("sample", "model.ebm", "--steps", "1000000", "--no-fuse", "--out", "stopped.npy")
        run = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder, stderr=subprocess.PIPE, text=True)
        assert run.stderr is not None and run.stderr.readline() == "sampling\n"
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert run.returncode == 130
        assert said.endswith("stopped\n") and "Traceback" not in said
        assert not (folder / "stopped.npy").exists()

    def test_same_seed_same_file(self, folder: Path) -> None:
        for name in ("a.npy", "b.npy"):
            assert command("ebm-run", "sample", "model.ebm", "-n", 4, "--out", name, cwd=folder).returncode == 0
        assert (folder / "a.npy").read_bytes() == (folder / "b.npy").read_bytes()

    def test_what_was_measured_is_chosen(self, folder: Path) -> None:
        run = command("ebm-run", "bench", "model.ebm", "--threads", 1, "--seconds", 0.05, "--json", cwd=folder)
        assert run.returncode == 0, run.stderr
        rows = json.loads(run.stdout)
        assert {row["threads"] for row in rows} == {1}
        run = command("ebm-run", "sample", "model.ebm", "-n", 2, cwd=folder)
        assert "measured by ebm-run bench on" in run.stderr
        (file,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("bench/*.json")
        file.unlink()

    def test_measurements_that_cannot_be_kept(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "result.json"))
        run = command("ebm-run", "bench", "model.ebm", "--batch", 1, "--seconds", 0.05, "--json", cwd=folder)
        assert run.returncode == 0 and json.loads(run.stdout)[0]["batch"] == 1
        assert "not kept for this device: there is no cache folder that can be written to" in run.stderr
        run = command("ebm-run", "bench", "model.ebm", "--batch", 0, cwd=folder)
        assert run.returncode == 2 and "--batch" in run.stderr and "Traceback" not in run.stderr

    def test_a_bundle_of_which_nothing_runs_here(self, tmp_path: Path) -> None:
        """Nothing is measured, so nothing is kept for `load`; a comparison of nothing is no failure, and says what it is."""
        with writing_bundle(tmp_path / "m.ebm") as made:
            (made / "score.bf16.onnx").write_bytes(b"graph")
            np.savez(made / "golden.npz", allow_pickle=False, **golden_data())
            entry = artifact_entry(made, "score.bf16.onnx", target="onnx", precision="bf16")
            write_manifest(made, manifest_entries([entry]))
        run = command("ebm-run", "bench", "m.ebm", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (3, "")
        assert "error: the bundle m.ebm has nothing that can run here; not score.bf16.onnx: onnxruntime's" in run.stderr
        assert "kept" not in run.stderr
        run = command("ebm-run", "verify", "m.ebm", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert "not run" in run.stdout and "nothing was compared: none of these engines runs here" in run.stderr

    def test_what_the_device_has(self, tmp_path: Path) -> None:
        run = command("ebm-run", "info", "--json", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        said = json.loads(run.stdout)
        assert said["device"]["cores"]
        assert {row["backend"] for row in said["backends"]} == {"tensorrt", "openvino", "onnxruntime"}

    def test_memory_that_is_not_enough(self, folder: Path) -> None:
        # It runs out in an array: Python 3.11 itself may crash where it does while a module is compiled.
        given = ("-n", 10**8, "--memory-limit", "500M", "--backend", "onnxruntime", "--threads", 1)
        run = command("ebm-run", "sample", "model.ebm", *given, cwd=folder)
        assert run.returncode == 1
        assert "out of memory; give a larger --memory-limit" in run.stderr

    @pytest.mark.parametrize(
        ("tool", "kinds"), [("ebm-export", [()]), ("ebm-compare", [()]), ("ebm-run", [("sample",), ("bench",)])]
    )
    def test_where_memory_is_not_enough_options_are_named_that_there_are(
        self, tool: str, kinds: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        name = tool.replace("-", "_")
        code = f"import typer\ndef full(*_): raise MemoryError\ntyper.Typer.__call__ = full\nfrom ebm_export.cli import {name} as main\nmain()"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert (run.returncode, run.stdout) == (1, "") and run.stderr.startswith("error: out of memory; ")
        named = [word.strip(",\n") for word in run.stderr.split() if word.startswith("-")]
        told = {word for kind in kinds for word in command(tool, *kind, "--help", cwd=tmp_path).stdout.split()}
        assert named and not set(named) - told

    def test_a_long_run_is_gone_on_with(self, folder: Path) -> None:
        arguments = (
            "ebm-run",
            "sample",
            "model.ebm",
            "-n",
            4,
            "--every",
            10,
            "--out",
            "long.npy",
            "--checkpoint",
            "run.ckpt",
            "--json",
        )
        run = command(*arguments, cwd=folder)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["states"] == "long.states.npy"
        assert not (folder / "run.ckpt").exists(), "the samples are written"
        rows = np.load(folder / "long.states.npy")
        assert rows.shape == (3, 4, 3)
        np.testing.assert_array_equal(rows[-1], np.load(folder / "long.npy"))
        with load(folder / "model.ebm") as ebm:  # a run that was killed after its end leaves this
            ebm.sample(4, seed=1, checkpoint=folder / "run.ckpt")
        run = command(*arguments, cwd=folder)
        assert run.returncode == 2
        assert "run.ckpt is of another run: " in run.stderr
        assert "seed was 1 and is 0" in run.stderr
        run = command("ebm-run", "sample", "model.ebm", "-n", 4, "--energy-range", "0,0.001", cwd=folder)
        assert run.returncode == 1
        assert "or an energy outside 0 to 0.001" in run.stderr

    def test_a_long_run_is_saved_as_often_as_asked(self, folder: Path) -> None:
        code = (
            "from ebm_export.cli import ebm_run\n"
            "from ebm_export.runtime.checkpoint import Checkpoint\n"
            "save = Checkpoint.save\n"
            "def told(self, saved):\n"
            "    print('saved')\n"
            "    save(self, saved)\n"
            "Checkpoint.save = told\n"
            "ebm_run()"
        )
        arguments = ("sample", "model.ebm", "-n", "2", "--checkpoint", "often.ckpt")
        for more, times in (((), 1), (("--checkpoint-seconds", "0"), 31)):  # at the start, after each of 30 steps
            run = subprocess.run(
                [sys.executable, "-c", code, *arguments, *more], cwd=folder, capture_output=True, text=True, timeout=120
            )
            assert run.returncode == 0, run.stderr
            assert run.stdout.count("saved") == times
        run = command("ebm-run", *arguments, "--checkpoint-seconds", "nan", cwd=folder)
        assert run.returncode == 2
        assert "error: --checkpoint-seconds: expected a number of seconds of at least 0, got nan" in run.stderr

    def test_fused_steps_draw_the_same_file(self, folder: Path) -> None:
        run = command(
            "ebm-export", "model.pt", "--target", "onnxruntime", "--fuse", 8, "--out", "fused.ebm", "--json", cwd=folder
        )
        assert run.returncode == 0, run.stderr
        # The size of an engine is the same with and without them.
        (row,) = json.loads(run.stdout)["artifacts"]
        plain = next(
            entry
            for entry in json.loads((folder / "result.json").read_text())["artifacts"]
            if entry["file"] == row["file"]
        )
        assert row["size"] == plain["size"] and "added by --fuse" not in plain
        assert float(row["added by --fuse"].removesuffix(" MiB")) > float(row["size"].removesuffix(" MiB"))
        for flag in ("--fuse", "--no-fuse"):
            run = command("ebm-run", "sample", "fused.ebm", "-n", 4, flag, "--out", f"{flag}.npy", cwd=folder)
            assert run.returncode == 0, run.stderr
        assert (folder / "--fuse.npy").read_bytes() == (folder / "--no-fuse.npy").read_bytes()
        # Halves of these chains, each by a process of its own.
        for flag in ("--fuse", "--no-fuse"):
            given = ("-n", 2, "--first", 2, flag, "--out", "half.npy", "--max-batch", 2)
            assert command("ebm-run", "sample", "fused.ebm", *given, cwd=folder).returncode == 0
            given = ("-n", 4, flag, "--out", "whole.npy", "--max-batch", 2)
            assert command("ebm-run", "sample", "fused.ebm", *given, cwd=folder).returncode == 0
            np.testing.assert_array_equal(np.load(folder / "half.npy"), np.load(folder / "whole.npy")[2:])
        best = ("ebm-run", "sample", "fused.ebm", "--best-of", 2, "--no-fuse", "--max-batch", 2)
        for name, given in (("whole", ("-n", 4)), ("half", ("-n", 2, "--first", 2))):
            assert command(*best, *given, "--out", f"{name}.npy", cwd=folder).returncode == 0
        np.testing.assert_array_equal(np.load(folder / "half.npy"), np.load(folder / "whole.npy")[2:])
        np.save(folder / "keep.npy", np.array([[True, False, False]]))
        np.save(folder / "known.npy", np.zeros((1, 3), np.float32))
        given = ("--keep", "keep.npy", "--known", "known.npy", "--energy-range=-99,99", "--sampler", "underdamped")
        run = command("ebm-run", "sample", "fused.ebm", "-n", 4, "--fuse", *given, "--noise", "none", cwd=folder)
        assert run.returncode == 0, run.stderr
        assert "steps are taken one by one: each step is looked at for keep" in run.stderr
        run = command(
            "ebm-run", "sample", "fused.ebm", "-n", 4, "--fuse", "--sampler", "mala", "--noise", "none", cwd=folder
        )
        assert run.returncode == 0, run.stderr
        assert "steps are taken one by one: the sampler 'mala' accepts and rejects" in run.stderr
        run = command("ebm-run", "sample", "model.ebm", "-n", 4, "--fuse", "--backend", "onnxruntime", cwd=folder)
        assert run.returncode == 2
        assert "export the model with --fuse K" in run.stderr

    def test_precisions_by_steps_and_exact_sampling(self, tmp_path: Path) -> None:
        write_two_precisions(tmp_path / "two.ebm")
        arguments = ("ebm-run", "sample", "two.ebm", "-n", 200, "--json", "--steps", 40, "--step-size", 0.3)
        run = command(*arguments, "--precision", "int8:0-30,fp32:30-", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert "; then 30- on onnxruntime fp32" in result["engine"]
        assert "acceptance" not in result
        run = command(*arguments, "--precision", "int8", "--exact", "--block", 4, "--warmup", 20, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert result["temperature"] == 1
        assert 0.3 < result["acceptance"] < 1 and 0.5 < result["block_acceptance"] < 1
        run = command(*arguments, "--exact", cwd=tmp_path)
        assert run.returncode == 2 and "set precision to the low one (--precision int8)" in run.stderr

    def test_sampler_and_noise_can_be_changed(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "b.ebm", sampler={"steps": 20, "step_size": 0.1, "noise": 0.1})
        arguments = ("ebm-run", "sample", "b.ebm", "-n", 20, "--sampler", "mala", "--temperature", 2)
        run = command(*arguments, cwd=tmp_path)
        assert run.returncode == 2 and "set noise=None as well (--noise none)" in run.stderr
        run = command(*arguments, "--noise", "none", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert "\ntemperature 2; accepted 0." in run.stdout

    def test_the_gradient_is_clipped_by_its_length(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "b.ebm")
        np.save(tmp_path / "x.npy", np.array([[3, 4, 0]], np.float32))
        arguments = (
            "ebm-run",
            "refine",
            "b.ebm",
            "x.npy",
            "--steps",
            1,
            "--step-size",
            1,
            "--noise",
            0,
            "--grad-clip",
            1,
        )
        for mode, expected in (("value", [2, 3, 0]), ("norm", [2.4, 3.2, 0])):
            run = command(*arguments, "--grad-clip-mode", mode, cwd=tmp_path)
            assert run.returncode == 0, run.stderr
            np.testing.assert_allclose(np.load(tmp_path / "refined.npy")[0], expected, rtol=1e-6)

    def test_a_bundles_clip_and_bounds_are_taken_away(self, tmp_path: Path) -> None:
        own = {"steps": 1, "step_size": 1.0, "noise": 0.0, "grad_clip": 0.5, "bounds": [-1, 3]}
        write_bundle(tmp_path / "b.ebm", sampler=own)
        np.save(tmp_path / "x.npy", np.array([[4, -4, 1]], np.float32))
        none = ("--grad-clip", "none")
        for given, expected in (((), [2.5, -0.5, 0.5]), (none, [0, 0, 0]), (("--bounds", "none"), [3.5, -3.5, 0.5])):
            run = command("ebm-run", "refine", "b.ebm", "x.npy", *given, cwd=tmp_path)
            assert run.returncode == 0, run.stderr
            np.testing.assert_allclose(np.load(tmp_path / "refined.npy")[0], expected, atol=1e-6)
        run = command("ebm-run", "sample", "b.ebm", *none, "--grad-clip-mode", "norm", cwd=tmp_path)
        assert run.returncode == 2 and "--grad-clip-mode: 'norm' has no effect without grad_clip" in run.stderr
        run = command("ebm-run", "sample", "b.ebm", "--grad-clip", "off", cwd=tmp_path)
        assert run.returncode == 2 and "--grad-clip: expected a number" in run.stderr

    def test_tasks(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "b.ebm")
        np.save(tmp_path / "keep.npy", np.array([[True, False, False]]))
        np.save(tmp_path / "known.npy", np.array([[5, 0, 0]], np.float32))
        arguments = ("ebm-run", "sample", "b.ebm", "-n", 20, "--json")
        run = command(*arguments, "--keep", "keep.npy", "--known", "known.npy", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        samples = np.load(tmp_path / "samples.npy")
        assert (samples[:, 0] == 5).all() and (abs(samples[:, 1:]) < 5).all()
        run = command("ebm-run", "refine", "b.ebm", "samples.npy", "--keep", "keep.npy", cwd=tmp_path)
        assert run.returncode == 0 and (np.load(tmp_path / "refined.npy")[:, 0] == 5).all()
        single = json.loads(command(*arguments, cwd=tmp_path).stdout)["energy_mean"]
        best = json.loads(command(*arguments, "--best-of", 10, cwd=tmp_path).stdout)
        assert best["shape"] == [20, 3] and best["energy_mean"] < single / 2
        run = command(*arguments, "--deadline-ms", 60000, cwd=tmp_path)
        result = json.loads(run.stdout)
        assert result["complete"] and result["steps"] == 20 and result["energy_mean"] < single
        result = json.loads(command(*arguments, "--best-of", 10, "--deadline-ms", 60000, cwd=tmp_path).stdout)
        assert result["complete"] and result["shape"] == [20, 3] and result["energy_mean"] < single / 2
        for more in ((), ("--best-of", 10)):
            run = command(*arguments, *more, "--order", "noise-drift", "--deadline-ms", 60000, cwd=tmp_path)
            assert run.returncode == 0, run.stderr
            samples = np.load(tmp_path / "samples.npy")
            lowest = json.loads(run.stdout)
            assert lowest["complete"] and lowest["energy_mean"] < single
            np.testing.assert_allclose(lowest["energy_mean"], 0.5 * (samples**2).sum(axis=1).mean(), rtol=1e-5)
        refine = ("ebm-run", "refine", "b.ebm", "samples.npy", "--json", "--seed", 1)
        single = json.loads(command(*refine, cwd=tmp_path).stdout)["energy_mean"]
        for more in ((), ("--keep", "keep.npy"), ("--deadline-ms", 60000)):
            run = command(*refine, "--best-of", 10, *more, cwd=tmp_path)
            assert run.returncode == 0, run.stderr
            best = json.loads(run.stdout)
            assert best["shape"] == [20, 3] and (best["energy_mean"] < single / 2 or "--keep" in more)
            if "--keep" in more:
                np.testing.assert_array_equal(np.load(tmp_path / "refined.npy")[:, 0], samples[:, 0])
        run = command(*arguments, "--best-of", 2, "--checkpoint", "run.npz", cwd=tmp_path)
        assert run.returncode == 2 and "--best-of cannot be combined with --checkpoint" in run.stderr
        run = command(*arguments, "--best-of", 2, "--diverged", "restart", "--energy-range", "-1,1000", cwd=tmp_path)
        assert run.returncode == 0 and len(np.load(tmp_path / "samples.npy")) == 20, run.stderr
        run = command(*arguments, "--every", 5, "--diverged", "drop", "--deadline-ms", 5, cwd=tmp_path)
        assert run.returncode == 2
        assert "--deadline-ms cannot be combined with --diverged, --every: leave one of them out" in run.stderr
        run = command(*arguments, "--deadline-ms", 0, cwd=tmp_path)
        assert run.returncode == 2 and "error: --deadline-ms: expected a number of milliseconds above 0" in run.stderr

    def test_a_chain_that_diverges(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "b.ebm")
        arguments = ("ebm-run", "sample", "b.ebm", "--step-size", 1e30)
        for diverged in ("stop", "restart", "drop"):
            run = command(*arguments, "--diverged", diverged, cwd=tmp_path)
            said = "; try a smaller step_size, grad_clip, or bounds (--step-size, --grad-clip, --bounds)"
            assert run.returncode == 1 and said in run.stderr
            advice = 'or pass diverged="restart" or "drop" (--diverged restart, --diverged drop)'
            assert (advice in run.stderr) == (diverged == "stop")
        assert not (tmp_path / "samples.npy").exists()

    def test_json_of_numbers_that_are_not_finite(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "b.ebm")
        np.save(tmp_path / "x.npy", np.array([[0, 0, 0], [3e38, 0, 0], [np.nan, 0, 0]], np.float32))

        def refused(constant: str) -> float:
            raise AssertionError(f"{constant} is no JSON")

        run = command("ebm-run", "score", "b.ebm", "x.npy", "--json", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        finite, *others = json.loads(run.stdout, parse_constant=refused)["energy"]
        assert np.isfinite(finite) and others == [None, None]
        run = command("ebm-run", "refine", "b.ebm", "x.npy", "--deadline-ms", 60000, "--json", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout, parse_constant=refused)
        assert result["energy_max"] is None and result["without_energy"] == [1, 2] and result["diverged"]
        run = command("ebm-run", "refine", "b.ebm", "x.npy", "--deadline-ms", 60000, cwd=tmp_path)
        assert "2 of 3 never had a finite energy, and are what they began as" in run.stderr
        assert "lowest energy before" not in run.stderr

    def test_chains_that_are_dropped_take_their_conditions_along(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "b.ebm", cond=True)
        centres = np.arange(15, dtype=np.float32).reshape(5, 3)
        centres[[1, 3]] = 1e38  # whose energies are infinite
        np.save(tmp_path / "centre.npy", centres)
        arguments = ("ebm-run", "sample", "b.ebm", "-n", 5, "--cond", "centre=centre.npy", "--noise", 0, "--steps", 200)
        run = command(*arguments, "--diverged", "drop", "--json", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert result["dropped"] == [1, 3] and result["shape"] == [3, 3] and result["energy_max"] < 1e-6
        np.testing.assert_allclose(np.load(tmp_path / "samples.npy"), centres[[0, 2, 4]], atol=1e-4)

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ((), "on the command line --cond centre=FILE.npy"),
            (("--cond", "centre=a.npy", "--cond", "centre=a.npy"), "--cond: 'centre' is given twice"),
            (("--cond", "centre=a.npy", "--keep", "keep.npy"), "on the command line --known FILE.npy"),
            (
                ("--cond", "centre=a.npy", "--init", "data"),
                "on the command line export with --calibration-data FILE.npy, or give ebm-run sample --data FILE.npy",
            ),
        ],
    )
    def test_what_is_missing_is_named_as_an_option(self, tmp_path: Path, given: tuple[str, ...], text: str) -> None:
        write_bundle(tmp_path / "b.ebm", cond=True)
        np.save(tmp_path / "a.npy", np.zeros((1, 3), np.float32))
        np.save(tmp_path / "keep.npy", np.array([[True, False, False]]))
        run = command("ebm-run", "sample", "b.ebm", "-n", 2, *given, cwd=tmp_path)
        assert (run.returncode, run.stdout) == (2, ""), run.stderr
        assert text in run.stderr

    def test_build_replaces_the_plan(self, folder: Path) -> None:
        before = (folder / "model.ebm" / "manifest.json").read_text()
        run = command("ebm-run", "build", "model.ebm", "--batch", "1:2:4", cwd=folder)
        assert run.returncode == 0, run.stderr
        after = json.loads((folder / "model.ebm" / "manifest.json").read_text())
        plan = next(entry for entry in after["artifacts"] if entry["target"] == "tensorrt")
        assert plan["options"]["batch"] == [1, 2, 4]
        assert len(after["artifacts"]) == len(json.loads(before)["artifacts"])
        assert command("ebm-run", "info", "model.ebm", cwd=folder).returncode == 0

    def test_a_damaged_file_is_exit_code_3(self, folder: Path, tmp_path: Path) -> None:
        import shutil

        copy = tmp_path / "copy.ebm"
        shutil.copytree(folder / "model.ebm", copy)
        with (copy / "score.fp32.onnxruntime.onnx").open("ab") as file:
            file.write(b"x")
        run = command("ebm-run", "sample", copy, "--backend", "onnxruntime", cwd=tmp_path)
        assert run.returncode == 3
        assert "sha256" in run.stderr
        assert not (tmp_path / "samples.npy").exists()
