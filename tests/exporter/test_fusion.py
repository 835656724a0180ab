"""Bundles with graphs of several steps, and what the runtime does with them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter import sampler_graph as sampler_graph_module
from ebm_export.exporter.sampler_steps import StepWriter
from ebm_export.runtime import DivergenceError, EngineMismatch, SamplerConfig, UsageError, chain, load
from ebm_export.runtime.artifact_engine import fused_of
from ebm_export.runtime.backends import backend_of
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.checkpoint import fused_in
from ebm_export.runtime.file_hash import sha256_of
from ebm_export.runtime.fused_steps import EACH
from ebm_export.runtime.gradient_scale import ScaledScore
from ebm_export.runtime.pace import BlockTime, Pace
from ebm_export.runtime.progress import Progress, ProgressOnly
from ebm_export.runtime.verify_bundle import verify_bundle

from ..memory import no_room_for
from .steep import write_steep
from .test_sampler_graph import Net
from .test_split import POLICY, Policy

GOAL = np.random.default_rng(5).standard_normal((1, 3)).astype(np.float32)
CONFIG = SamplerConfig(steps=22, step_size=0.05)
COUNT = 4


def write(folder: Path, config: SamplerConfig = CONFIG, model: Net | None = None, **options: Any) -> Path:
    return export(
        model or Net().eval(),
        torch.randn(4, 3),
        cond={"goal": torch.randn(4, 3)},
        out=folder / "m.ebm",
        sampler=config,
        **({"targets": ["onnxruntime", "openvino"], "fuse": COUNT} | options),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fused"))


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("drifting"), CONFIG.replace(order="noise-drift"))


def test_the_manifest_names_every_sampler(bundle: Path) -> None:
    entries = json.loads((bundle / "manifest.json").read_text())["artifacts"]
    by_path = {entry["path"]: entry for entry in entries}
    scores = [entry for entry in entries if entry["role"] == "score"]
    assert len(scores) == 2
    for score in scores:
        sampler = by_path[score["sampler"]]
        assert (sampler["role"], sampler["steps"], sampler["status"]) == ("sampler", COUNT, "verified")
        assert sampler["settings"]["order"] == "drift-noise"
    whole = by_path["standalone.fp32.onnxruntime.onnx"]
    assert whole["role"] == "sampler"
    assert "steps" not in whole


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("n", [1, 5])
def test_the_same_samples_to_the_bit(bundle: Path, backend: str, n: int) -> None:
    drawn = []
    for fuse in (True, False):
        with load(bundle, backend=backend, threads=1, fuse=fuse) as ebm:
            drawn.append([ebm.sample(n, 3, goal=GOAL), ebm.sample(n, 3, goal=GOAL, max_batch=2, temperature=0.5)])
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_warm_up_of_more_steps_than_a_block(tmp_path: Path) -> None:
    """The device compares one block, in which there is none."""
    settings = SamplerConfig(steps=40, step_size=0.1, sampler="preconditioned", warmup=10)
    path = write(tmp_path, settings, targets=["onnxruntime"])
    assert [row["result"] for row in verify_bundle(path)] == ["passed"]


def test_a_callback_is_told_of_blocks(bundle: Path) -> None:
    told: list[tuple[int, int]] = []

    def tell(now: Progress) -> None:
        told.append((now.done, now.calls))

    with load(bundle, backend="onnxruntime", threads=1, fuse=True) as ebm:
        ebm.sample(2, goal=GOAL, callback=tell)
    assert told == [(done, 1 + done) for done in (0, 4, 8, 12, 16, 20, 22)]


@pytest.mark.parametrize(
    "changes",
    [{"sampler": "mala"}, {"grad_clip": 0.1}, {"steps": 3}, {"order": "noise-drift"}, {"bounds": (-1.0, 1.0)}],
)
def test_other_settings_go_step_by_step(bundle: Path, changes: dict[str, Any]) -> None:
    calls: list[int] = []
    with load(bundle, backend="onnxruntime", threads=1, fuse=True) as ebm:
        ebm.sample(2, goal=GOAL, callback=lambda now: calls.append(now.done), **changes)
    assert calls == list(range(len(calls)))


def test_numbers_that_stay_go_step_by_step(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep = np.array([True, False, False])
    drawn = []
    for fuse in (True, False):
        with load(bundle, backend="onnxruntime", threads=1, fuse=fuse) as ebm:
            x0 = np.ones((2, 3), np.float32)
            drawn.append(ebm.sample(2, x0=x0, keep=np.broadcast_to(keep, (2, 3)), goal=GOAL))
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0][:, 0] == 1).all()
    assert caplog.messages == ["steps are taken one by one: each step is looked at for keep"]


def test_a_chain_that_diverges_is_found_in_a_block(bundle: Path) -> None:
    with load(bundle, backend="onnxruntime", threads=1, fuse=True) as ebm:
        with pytest.raises(DivergenceError, match="not finite after step"):
            ebm.sample(2, goal=GOAL, step_size=1e30)
        x0 = np.zeros((3, 3), np.float32)
        x0[1] = 3e38
        found = ebm.sample(3, x0=x0, goal=GOAL, diverged="drop")
    assert found.shape == (2, 3)
    with load(bundle, backend="onnxruntime", threads=1, fuse=False) as ebm:
        np.testing.assert_array_equal(found, ebm.sample(3, x0=x0, goal=GOAL, diverged="drop"))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_several_blocks_are_gone_back_over_where_a_chain_diverges_in_one(
    bundle: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens, so they are told of together. The second chain's numbers overflow within nine long steps, the others come back."""
    step_sizes = np.full(120, 0.05)
    step_sizes[40:49], step_sizes[49:60] = 30.0, 1 / 0.6
    config = CONFIG.replace(steps=120, step_size=tuple(step_sizes), noise=0.1)
    x0 = np.ones((3, 3), np.float32)
    x0[1] = 1e17
    kept, messages = [], []
    for fuse in (True, False):
        with load(bundle, backend=backend, threads=1, fuse=fuse) as ebm:
            kept.append(ebm.sample(3, x0=x0, goal=GOAL, config=config, diverged="drop"))
            with pytest.raises(DivergenceError) as error:
                ebm.sample(3, x0=x0, goal=GOAL, config=config)
            caplog.clear()
            with pytest.raises(DivergenceError):  # it starts from the same place each time
                ebm.sample(3, x0=x0, goal=GOAL, config=config, diverged="restart")
            messages.append([str(error.value), *(line for line in caplog.messages if "started anew" in line)])
    assert kept[0].shape == (2, 3) and np.isfinite(kept[0]).all()
    np.testing.assert_array_equal(*kept)
    assert messages[0] == messages[1] and len(messages[0]) == 4
    assert re.search("seen after step 4[0-9]", messages[0][1])


def walled(x: torch.Tensor) -> torch.Tensor:
    """Infinite behind a wall, where the gradient is the spring's."""
    return 0.5 * x.square().sum(1) + torch.where(x[:, 0] > 2.8, torch.inf, 0.0)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_energy_that_is_infinite_in_the_middle_of_a_block_is_found(tmp_path: Path, backend: str) -> None:
    path = export(
        walled,
        torch.rand(8, 2),
        out=tmp_path / "wall.ebm",
        targets=[backend],
        sampler=SamplerConfig(steps=40, step_size=0.1),
        fuse=8,
        verify=False,  # whose own chains would come behind the wall
    )
    x0 = np.zeros((200, 2), np.float32)
    kept, messages = [], []
    for fuse in (True, False):
        with load(path, backend=backend, threads=1, fuse=fuse) as ebm:
            kept.append(ebm.refine(x0, diverged="drop"))
            *_, best = ebm.stream(200, x0=x0)
            kept.append(best.x)
            for seed in range(4):
                with pytest.raises(DivergenceError) as error:
                    ebm.refine(x0, seed=seed)
                messages.append(str(error.value))
    assert 100 < len(kept[0]) < 200
    for one, other in zip(kept[:2], kept[2:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert messages[:4] == messages[4:]
    assert any(int(re.findall("after step ([0-9]+)", message)[0]) % 8 for message in messages)  # not at a block's end


class Obstacles(nn.Module):
    """Places of a map, worked out of an image, where there is no energy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = nn.Conv2d(1, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        cost = self.see(image).flatten(1).masked_fill(image.flatten(1) > 0, torch.inf)  # [B, 16]
        cell = ((x.detach()[:, :1] + 4) * 2).clamp(0, 15).long()
        return 0.5 * x.square().sum(1) + cost.gather(1, cell).squeeze(1)


def test_a_wall_that_comes_out_of_the_prologue_is_found(tmp_path: Path) -> None:
    image = torch.zeros(8, 1, 4, 4)
    image[:, :, 3, 1:] = 1  # beyond 2.5
    path = export(
        Obstacles().eval(),
        torch.rand(8, 2),
        cond={"image": image},
        out=tmp_path / "wall.ebm",
        targets=["onnxruntime"],
        sampler=SamplerConfig(steps=40, step_size=0.1),
        fuse=8,
        verify=False,
    )
    messages = []
    for fuse in (True, False):
        with load(path, backend="onnxruntime", threads=1, fuse=fuse) as ebm, pytest.raises(DivergenceError) as error:
            ebm.refine(np.zeros((200, 2), np.float32), image=image[:1].numpy())
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_only_who_listens_has_each_block_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    honest = chain.fuse

    def watched(*given: Any, **more: Any) -> Any:
        method = honest(*given, **more)
        assert method.end is not None
        return method._replace(end=lambda step: (ends.append(found := method.end(step)), found)[1])

    monkeypatch.setattr(chain, "fuse", watched)
    with load(bundle, backend="onnxruntime", threads=1, fuse=True) as ebm:
        alone = ebm.sample(2, goal=GOAL, steps=70)
        assert ends == [32, 64, 68, 70]
        ends.clear()
        np.testing.assert_array_equal(ebm.sample(2, goal=GOAL, steps=70, callback=lambda now: None), alone)
        assert ends == [*range(4, 69, 4), 70]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("way", ["drift-noise", "noise-drift"])
def test_energies_are_looked_at_after_each_step(
    bundle: Path, drifting: Path, backend: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In blocks too, which tell of each then."""
    kept, told, calls = [], [], []
    for fuse in (True, False):
        caplog.clear()
        with load(bundle if way == "drift-noise" else drifting, backend=backend, threads=1, fuse=fuse) as ebm:
            energy, _ = ebm.score(ebm.sample(64, goal=GOAL), goal=GOAL)
            limits = (-1e9, float(np.quantile(energy, 0.9)))
            counts: list[int] = []
            tell = ProgressOnly(lambda done, total: counts.append(done))  # noqa: B023
            kept.append(ebm.sample(64, goal=GOAL, diverged="drop", energy_range=limits, callback=tell))
            for options in ({}, {"diverged": "restart"}):
                with pytest.raises(DivergenceError) as error:
                    ebm.sample(64, goal=GOAL, energy_range=limits, **options)
                told.append([str(error.value), *(line for line in caplog.messages if "started anew" in line)])
            calls.append(len(counts))
    assert 0 < len(kept[0]) < 64
    np.testing.assert_array_equal(*kept)
    assert told[:2] == told[2:] and len(told[1]) == 4
    assert calls == [1 + 5 + 2, 1 + CONFIG.steps]  # what is left is told of at once
    assert not any("one by one" in line for line in caplog.messages)


def test_blocks_go_on_where_a_chain_is_lost(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are looked at no more, so that only the block that it was lost in is done again, also after a kill."""
    blocks: list[int] = []
    honest = ScaledScore.take_steps

    def counted(self: ScaledScore, *given: Any) -> Any:
        blocks.append(1)
        return honest(self, *given)

    monkeypatch.setattr(ScaledScore, "take_steps", counted)
    x0 = np.zeros((3, 3), np.float32)
    x0[1] = 3e38
    with load(bundle, backend="onnxruntime", threads=1, fuse=True) as ebm:
        singles: list[int] = []
        engine = ebm.engine.run
        monkeypatch.setattr(ebm.engine, "run", lambda *given: (singles.append(1), engine(*given))[1])
        ebm.sample(3, x0=x0, goal=GOAL, diverged="drop", steps=80, callback=lambda now: None)
    assert len(blocks) == 20
    assert len(singles) <= 1 + COUNT  # the start, and at most one block


def test_who_watches_every_step_gets_every_step(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebm_export.runtime.ebm.is_faster", lambda *arguments: True)
    monkeypatch.setattr("ebm_export.runtime.fused_choice._LONG_RUN", 1)
    told: list[int] = []
    with load(bundle, backend="onnxruntime", threads=1) as ebm:
        watched = ebm.sample(2, goal=GOAL, callback=lambda now: told.append(now.done))
        blocks: list[int] = []
        ebm.sample(2, goal=GOAL, callback=ProgressOnly(lambda done, total: blocks.append(done)))
        np.testing.assert_array_equal(watched, ebm.sample(2, goal=GOAL))
    assert told == list(range(23)) and len(blocks) == 7


def test_chains_that_diverge_while_they_are_timed(bundle: Path) -> None:
    with load(bundle, backend="onnxruntime", threads=1) as ebm:
        wild = ebm.sampler.replace(step_size=1e30)
        ebm.warm(1, wild)
        with pytest.raises(DivergenceError):
            ebm.sample(1, goal=GOAL, config=wild)


def test_a_block_that_is_done_again_is_counted_once(bundle: Path) -> None:
    x0 = np.zeros((3, 3), np.float32)
    x0[1] = 3e38
    calls = []
    for fuse in (True, False):
        with load(bundle, backend="onnxruntime", threads=1, fuse=fuse) as ebm:
            told: list[int] = []
            ebm.sample(3, x0=x0, goal=GOAL, diverged="drop", callback=lambda now: told.append(now.calls))  # noqa: B023
            calls.append(told[-1])
    assert calls[0] == calls[1]


@pytest.mark.parametrize("every", [1, 2, 3, 8, 10])
def test_states_are_those_of_their_steps(bundle: Path, tmp_path: Path, every: int) -> None:
    """Blocks end where states are written."""
    for fuse in (True, False):
        with load(bundle, backend="onnxruntime", threads=1, fuse=fuse) as ebm:
            ebm.sample(3, goal=GOAL, every=every, out=tmp_path / f"{fuse}.npy", max_batch=2)
    fused, single = (np.load(tmp_path / f"{fuse}.npy") for fuse in (True, False))
    assert len(single) == 22 // every and single.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(fused, single)


@pytest.mark.parametrize(("every", "times"), [(1, 22), (3, 22), (4, 5 + 1), (5, 4 * 2 + 1), (11, 2 * 3), (22, 5 + 1)])
def test_states_on_the_way_leave_room_for_blocks(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, times: int
) -> None:
    """Nobody asked for them: where they are faster they are taken, as far as whole ones fit between two states."""
    monkeypatch.setattr("ebm_export.runtime.ebm.is_faster", lambda *arguments: True)
    monkeypatch.setattr("ebm_export.runtime.fused_choice._LONG_RUN", 1)
    told: list[int] = []
    with load(bundle, backend="onnxruntime", threads=1) as ebm:
        tell = ProgressOnly(lambda done, total: told.append(done))
        blocks = ebm.sample(2, goal=GOAL, every=every, out=tmp_path / "blocks.npy", callback=tell)
        watched = ebm.sample(2, goal=GOAL, every=every, out=tmp_path / "single.npy", callback=lambda now: None)
    assert len(told) == 1 + times  # the start, blocks of 4, and what is left before a state, at once
    np.testing.assert_array_equal(blocks, watched)
    np.testing.assert_array_equal(np.load(tmp_path / "blocks.npy"), np.load(tmp_path / "single.npy"))


def test_states_nearer_to_one_another_than_a_block(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with load(bundle, backend="onnxruntime", threads=1, fuse=True) as ebm:
        ebm.sample(2, goal=GOAL, every=4, out=tmp_path / "states.npy")
        assert not caplog.messages
        ebm.sample(2, goal=GOAL, every=3, out=tmp_path / "states.npy")
    said = "steps are taken one by one: the graph takes 4 steps at once, and states are written after every 3"
    assert caplog.messages == [said]


def test_what_was_measured_before_is_not_what_was_asked_for(bundle: Path) -> None:
    """A callback still gets every step."""
    told: list[int] = []
    with load(bundle, backend="onnxruntime", threads=1) as ebm:
        ebm._fused._measured = {4: True}
        ebm.sample(2, goal=GOAL, callback=lambda now: told.append(now.done))
        fused = ebm._fused._fused
        assert fused is not None and not fused._is_open
        ebm.sample(2, goal=GOAL)
        assert fused._is_open
    assert told == list(range(23))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a model with other weights."""
    return write(tmp_path_factory.mktemp("other"), model=Net(seed=9).eval())


class TestReplaced:
    """A bundle that is written anew, or is gone, while a process has it loaded."""

    @pytest.fixture
    def copy(self, bundle: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / "live.ebm"))

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_fused_steps_that_were_asked_for_are_those_of_the_bundle_that_was_loaded(
        self, bundle: Path, copy: Path, other: Path, backend: str
    ) -> None:
        with load(bundle, backend=backend, threads=1, fuse=True) as ebm:
            wanted = ebm.sample(4, goal=GOAL)
        with load(copy, backend=backend, threads=1, fuse=True) as ebm:
            shutil.rmtree(copy)
            shutil.copytree(other, copy)
            np.testing.assert_array_equal(ebm.sample(4, goal=GOAL), wanted)

    @pytest.mark.parametrize("gone", [True, False])
    def test_others_are_left_out(self, bundle: Path, copy: Path, other: Path, gone: bool, caplog: Any) -> None:
        with load(bundle, backend="onnxruntime", threads=1, fuse=False) as ebm:
            wanted = ebm.sample(4, goal=GOAL)
        with load(copy, backend="onnxruntime", threads=1) as ebm:
            ebm._fused._measured = {4: True}
            shutil.rmtree(copy)
            if not gone:
                shutil.copytree(other, copy)
            np.testing.assert_array_equal(ebm.sample(4, goal=GOAL), wanted)
            assert "steps are taken one by one: " in caplog.text

    def test_another_working_folder(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(copy.parent)
        with load(copy.name, backend="onnxruntime", threads=1) as ebm:
            ebm._fused._measured = {4: True}
            monkeypatch.chdir("/")
            ebm.sample(4, goal=GOAL)
            assert ebm._fused._fused is not None and ebm._fused._fused._is_open


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_checkpoint_is_of_these_weights(bundle: Path, other: Path, tmp_path: Path, backend: str) -> None:
    """An OpenVINO .xml of other weights is the same file: they are in the .bin."""
    with load(bundle, backend=backend, threads=1) as ebm:
        ebm.sample(4, goal=GOAL, checkpoint=tmp_path / "run")
        ebm.sample(4, goal=GOAL, checkpoint=tmp_path / "run")
    with load(other, backend=backend, threads=1) as ebm, pytest.raises(UsageError, match="another run: files was"):
        ebm.sample(4, goal=GOAL, checkpoint=tmp_path / "run")


def test_a_checkpoint_is_of_these_encoders(tmp_path: Path) -> None:
    fingerprints, image = [], POLICY["image"]
    for scale in (1.0, 2.0):
        policy = Policy().eval()
        with torch.no_grad():
            policy.encoder[0].weight.mul_(scale)
        export(policy, POLICY["x"], cond={"image": image}, out=tmp_path / "p.ebm", sampler=CONFIG, force=True)
        with load(tmp_path / "p.ebm", threads=1) as ebm:
            fingerprints.append(ebm.fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_a_device_compares_them_too(bundle: Path, other: Path, tmp_path: Path) -> None:
    """With the steps of another model's graph, an engine is not passed."""
    assert {row["result"] for row in verify_bundle(bundle)} == {"passed"}
    copy = Path(shutil.copytree(bundle, tmp_path / "m.ebm"))
    manifest = json.loads((copy / "manifest.json").read_text())
    for entry in manifest["artifacts"]:
        if entry["path"] == "sampler.fp32.onnxruntime.onnx":
            shutil.copy(other / entry["path"], copy / entry["path"])
            entry["sha256"] = sha256_of(copy / entry["path"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    rows = {row["file"]: row for row in verify_bundle(copy)}
    assert rows["score.fp32.openvino.xml"]["result"] == "passed"
    wrong = rows["score.fp32.onnxruntime.onnx"]
    assert wrong["result"] == "failed"
    assert wrong["note"].startswith("sampler.fp32.onnxruntime.onnx leaves the step-by-step chain: after 4 steps")


def test_steps_that_nobody_uses_are_not_compared(bundle: Path, tmp_path: Path) -> None:
    """Whoever changed the settings in the manifest gets single steps."""
    copy = Path(shutil.copytree(bundle, tmp_path / "m.ebm"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["sampler"]["grad_clip"] = 0.01
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert {row["result"] for row in verify_bundle(copy)} == {"passed"}


def test_a_checkpoint_of_fused_steps_is_told_by_their_file(bundle: Path, tmp_path: Path) -> None:
    fingerprints = []
    for folder in (bundle, write(tmp_path, fuse=5)):
        with load(folder, backend="onnxruntime", threads=1, fuse=True) as ebm:
            fused = ebm._fused._fused
            assert fused is not None
            fingerprints.append((ebm.fingerprint, fused.fingerprint))
    (one, of_four), (other, of_five) = fingerprints
    assert one == other and len({one, of_four, of_five}) == 3


CLIPPED = CONFIG.replace(grad_clip=0.5, grad_clip_mode="norm", steps=400)  # whose blocks round otherwise


@pytest.fixture(scope="module")
def clipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clipped"), CLIPPED)


class TestCheckpoint:
    """Runs that are saved are fused where that is faster, and go on as they began, whatever is measured later."""

    def run(self, path: Path, at: Path | None, measured: bool | None, fuse: bool | None = None, stop: int = 0) -> Any:
        """The samples; with `stop` what it ended with after so many steps. `measured` says what is faster."""

        def watch(done: int, total: int) -> None:
            if stop and done >= stop:
                raise KeyboardInterrupt

        with load(path, backend="onnxruntime", threads=1, fuse=fuse) as ebm:
            if measured is not None:
                ebm._fused._measured = {1: measured}
            kept = {} if at is None else {"checkpoint": at, "checkpoint_seconds": 0}
            return ebm.sample(1, goal=GOAL, callback=ProgressOnly(watch), **kept)

    @pytest.mark.parametrize("faster", [True, False])
    def test_goes_on_as_it_began(self, clipped: Path, tmp_path: Path, faster: bool) -> None:
        at = tmp_path / "run"
        wanted = self.run(clipped, None, faster)
        with pytest.raises(KeyboardInterrupt):
            self.run(clipped, at, faster, stop=100)
        assert fused_in(at) is faster
        np.testing.assert_array_equal(self.run(clipped, at, not faster), wanted)
        assert (wanted != self.run(clipped, None, not faster)).any()  # else this would show nothing

    def test_refuses_what_was_asked_for_and_is_another(self, clipped: Path, tmp_path: Path) -> None:
        at = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            self.run(clipped, at, True, stop=100)
        with pytest.raises(UsageError, match="fuse was True and is False"):
            self.run(clipped, at, True, fuse=False)

    def test_blocks_of_another_length_are_another_run(self, clipped: Path, tmp_path: Path) -> None:
        at = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            self.run(clipped, at, True, stop=100)
        with pytest.raises(UsageError, match="fused was"):
            self.run(write(tmp_path, CLIPPED, fuse=5), at, True)

    def test_a_long_one_is_timed(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ebm_export.runtime.ebm.is_faster", lambda *arguments: True)
        with load(bundle, backend="onnxruntime", threads=1) as ebm:
            ebm.sample(1, goal=GOAL, checkpoint=tmp_path / "short")
            ebm.sample(1, goal=GOAL, checkpoint=tmp_path / "long", steps=5000)
        assert [fused_in(tmp_path / name) for name in ("short", "long", "none")] == [False, True, None]


def test_measurement_decides(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measured(*arguments: Any) -> bool:
        asked.append(arguments[3])
        return True

    monkeypatch.setattr("ebm_export.runtime.ebm.is_faster", measured)
    told: list[int] = []
    with load(bundle, backend="onnxruntime", threads=1) as ebm:
        ebm.sample(2, goal=GOAL, callback=ProgressOnly(lambda done, total: told.append(done // 2)))
        assert not asked, "a short run is not worth it"
        assert len(told) == CONFIG.steps + 1
        ebm.warm(2)
        assert asked == [2, 2], "for runs to their end, and for those with a deadline"
        told.clear()
        ebm.sample(2, goal=GOAL, callback=ProgressOnly(lambda done, total: told.append(done // 2)))
        assert told[1] == COUNT
        ebm.sample(1, goal=GOAL, steps=5000)
    assert asked == [2, 2, 1], "a long run is"


def test_it_is_timed_for_real(bundle: Path) -> None:
    with load(bundle, backend="openvino", threads=1) as ebm:
        ebm.warm(1)
        assert set(ebm._fused._faster) == {1}
        ebm.sample(1, goal=GOAL)


class TestByDeadline:
    """Blocks in calls whose states are looked at on the way."""

    def test_a_file_tells_of_each_step_only_if_asked(self, bundle: Path) -> None:
        whole = Bundle(bundle)
        for score in (artifact for artifact in whole.artifacts if artifact.role == "score"):
            outputs = []
            for each in (False, True):
                fused = fused_of(whole, score, backend_of(score.target), each=each)
                assert fused is not None
                with fused.engine:
                    outputs.append(set(fused.engine._outputs))  # type: ignore[attr-defined]
            assert not outputs[0] & set(EACH)
            assert outputs[1] == outputs[0] | set(EACH)

    @pytest.mark.parametrize("n", [1, 5])
    @pytest.mark.parametrize("steps", [3, COUNT, 22])
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_the_best_of_the_same_states(
        self, bundle: Path, backend: str, n: int, steps: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = _blocks(monkeypatch)
        found = []
        for fuse in (False, True):
            with load(bundle, backend=backend, threads=1, fuse=fuse) as ebm:
                found.append(ebm.sample(n, 3, goal=GOAL, steps=steps, temperature=2.0, deadline_ms=1e6))
        assert blocks == [COUNT] * (steps // COUNT)
        one, many = found
        assert one.steps == many.steps == steps and many.complete
        np.testing.assert_array_equal(one.x, many.x)
        np.testing.assert_array_equal(one.energy, many.energy)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_no_block_begins_without_time_for_it(
        self, bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = _blocks(monkeypatch)
        monkeypatch.setattr(Pace, "has_time", lambda self, together=1: together == 1)
        with load(bundle, backend=backend, threads=1, fuse=True) as ebm:
            assert ebm.sample(2, 3, goal=GOAL, deadline_ms=1e6).steps == CONFIG.steps
        assert not blocks

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_blocks_that_never_fit_cost_nothing(
        self, bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Noise is not drawn for blocks that are not taken, for one."""
        blocks = _blocks(monkeypatch)
        with load(bundle, backend=backend, threads=1, fuse=True) as ebm:
            ebm._best_runs._block_times[2] = {COUNT: BlockTime(2e3, 2e3)}  # twice the deadline
            monkeypatch.setattr("ebm_export.runtime.chain.fuse", None)
            assert ebm.sample(2, 3, goal=GOAL, deadline_ms=1e6).steps == CONFIG.steps
        assert not blocks

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_as_many_steps_as_there_is_time_for(
        self, bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is worked out for all of them before the first."""
        looks, blocks = itertools.count(), _blocks(monkeypatch)
        for module in ("ebm", "pace"):  # whoever looks at the clock finds it a millisecond later
            monkeypatch.setattr(f"ebm_export.runtime.{module}.perf_counter", lambda: next(looks) / 1000)
        with load(bundle, backend=backend, threads=1, fuse=True) as ebm, no_room_for(10**9):
            steps = ebm.sample(2, 3, goal=GOAL, steps=10**9, deadline_ms=500).steps
        assert 10 < steps < 10**4 and blocks

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    @pytest.mark.parametrize("steps", [3, COUNT, 22])
    def test_where_states_are_not_those_whose_energies_are_told(
        self, drifting: Path, backend: str, steps: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = _blocks(monkeypatch)
        found, streams = [], []
        for fuse in (False, True):
            with load(drifting, backend=backend, threads=1, fuse=fuse) as ebm:
                found.append(ebm.sample(5, 3, goal=GOAL, steps=steps, temperature=2.0, deadline_ms=1e6))
                streams.append(list(ebm.stream(5, 3, goal=GOAL, steps=steps, temperature=2.0)))
                for one in (found[-1], *streams[-1]):
                    np.testing.assert_allclose(one.energy, ebm.score(one.x, goal=GOAL)[0], rtol=1e-6)
        assert blocks == [COUNT] * (2 * (steps // COUNT))
        one, many = found
        assert one.steps == many.steps == steps and many.complete
        np.testing.assert_array_equal(one.x, many.x)
        np.testing.assert_array_equal(one.energy, many.energy)
        assert streams[1][-1].complete
        if steps == 22:
            assert {state.steps for state in streams[1]} <= {0, 4, 8, 12, 16, 20, 21, 22}

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_one_that_diverges_there_keeps_its_best(
        self, drifting: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = _blocks(monkeypatch)
        found = []
        for fuse in (False, True):
            with load(drifting, backend=backend, threads=1, fuse=fuse) as ebm:
                start = np.array([[0, 3, 0], [3, 0, 0]], np.float32)
                found.append(ebm.refine(start, 3, goal=GOAL, step_size=[0.05] * 10 + [1e30] * 12, deadline_ms=1e6))
                np.testing.assert_allclose(found[-1].energy, ebm.score(found[-1].x, goal=GOAL)[0], rtol=1e-6)
        assert blocks
        one, many = found
        assert one.diverged.tolist() == many.diverged.tolist() == [True, True]
        np.testing.assert_array_equal(one.x, many.x)
        assert (one.x != start).any(axis=1).all()

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_a_stream_tells_of_blocks(self, bundle: Path, backend: str) -> None:
        with load(bundle, backend=backend, threads=1, fuse=True) as ebm:
            told = list(ebm.stream(3, 3, goal=GOAL, temperature=2.0))
            best = ebm.sample(3, 3, goal=GOAL, temperature=2.0, deadline_ms=1e6)
        assert {state.steps for state in told} <= {0, 4, 8, 12, 16, 20, 21, 22}
        np.testing.assert_array_equal(told[-1].x, best.x)
        for earlier, later in itertools.pairwise(told):
            assert (later.energy <= earlier.energy).all()

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_a_chain_that_diverges_in_a_block_keeps_its_best(
        self, bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = np.array([[0, 0, 0], [3e18, 0, 0]], np.float32)
        found = []
        for fuse in (False, True):
            blocks = _blocks(monkeypatch)
            with load(bundle, backend=backend, threads=1, fuse=fuse) as ebm:
                found.append(ebm.refine(start, 3, goal=GOAL, step_size=30.0, noise=0.0, deadline_ms=1e6))
            assert blocks or not fuse
        one, many = found
        assert one.diverged.tolist() == many.diverged.tolist() == [True, True]
        np.testing.assert_array_equal(one.x, many.x)
        np.testing.assert_array_equal(one.energy, many.energy)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_only_where_it_is_known_to_be_faster(
        self, bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = _blocks(monkeypatch)
        monkeypatch.setattr("ebm_export.runtime.ebm.is_faster", lambda *arguments: True)
        with load(bundle, backend=backend, threads=1) as ebm:
            ebm.sample(2, 3, goal=GOAL, deadline_ms=1e6)
            assert not blocks, "whoever has a deadline has no time to find out"
            ebm.warm(2)
            blocks.clear()
            ebm.sample(2, 3, goal=GOAL, deadline_ms=1e6)
            assert blocks == [COUNT] * (CONFIG.steps // COUNT)

    def test_warm_compiles_what_was_asked_for(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        looks = itertools.count()
        with load(bundle, backend="openvino", threads=1, fuse=True) as ebm:
            telling = ebm._best_runs._telling._fused
            # Compiling takes ten seconds, and what is done between two looks at the clock takes a millisecond.
            monkeypatch.setattr(
                "ebm_export.runtime.pace.perf_counter", lambda: 10 * _compiled(telling) + next(looks) / 1000
            )
            ebm.warm(3)
            compiled = [_compiled(choice._fused) for choice in (ebm._fused, ebm._best_runs._telling)]
            assert min(compiled) > 0
            assert 0 < ebm._best_runs._block_times[3][COUNT].expected < 0.05, "without what compiling took"
            ebm.sample(3, 3, goal=GOAL)
            ebm.sample(3, 3, goal=GOAL, deadline_ms=1e6)
            assert [_compiled(choice._fused) for choice in (ebm._fused, ebm._best_runs._telling)] == compiled

    @pytest.mark.parametrize("precision", ["bf16", "int8"])
    def test_low_precisions(self, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, targets=["openvino"], precisions=["fp32", precision], gate=None)
        found = []
        blocks = _blocks(monkeypatch)
        for fuse in (False, True):
            with load(path, backend="openvino", precision=precision, threads=1, fuse=fuse) as ebm:
                found.append(ebm.sample(64, 3, goal=GOAL, deadline_ms=1e6))
        assert blocks == [COUNT] * (CONFIG.steps // COUNT)
        one, many = found
        np.testing.assert_allclose(one.energy.mean(), many.energy.mean(), rtol=0.02)

    def test_energies_of_other_states_are_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each step tells the energy of the state before, and the last its own."""
        real = sampler_graph_module.sampler_graph

        def late(*arguments: Any, **options: Any) -> Any:
            model = real(*arguments, **options)
            if options["each"]:
                told = (
                    next(value for value in model.graph.outputs if value.name == EACH[1])
                    .producer()
                    .inputs[0]
                    .producer()
                )
                rows = list(told.inputs)
                for index, row in enumerate([rows[0], *rows[:-2], rows[-1]]):
                    told.replace_input_with(index, row)
            return model

        monkeypatch.setattr("ebm_export.exporter.fusion.sampler_graph", late)
        with pytest.raises(EngineMismatch, match="tells another energy than the step-by-step chain"):
            write(tmp_path, targets=["openvino"])


def _blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the blocks that will be taken."""
    taken: list[int] = []
    real = ScaledScore.take_steps

    def counted(self: ScaledScore, engine: Any, inputs: Any, count: int) -> Any:
        taken.append(count)
        return real(self, engine, inputs, count)

    monkeypatch.setattr(ScaledScore, "take_steps", counted)
    return taken


def _compiled(fused: Any) -> int:
    return len(fused.engine._bound)


def test_nothing_to_fuse(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no graph of several steps .* export the model with --fuse K"):
        load(write(tmp_path, fuse=None, targets=["onnxruntime"]), fuse=True)
    with pytest.raises(UsageError, match="fuse: the sampler 'mala' accepts and rejects"):
        write(tmp_path, CONFIG.replace(sampler="mala"), targets=["onnxruntime"], force=True)
    with pytest.raises(UsageError, match="at least 2, got 1"):
        write(tmp_path, fuse=1, targets=["onnxruntime"], force=True)


def test_a_graph_that_leaves_the_chain_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 % more drift than there should be."""
    real = StepWriter._drifted

    def bent(self: StepWriter, position: Any, state: Any, given: Any) -> Any:
        more = self._made.op("Mul", [given["step_size"], self._made.scalar(1.02)])
        return real(self, position, state, {**given, "step_size": more})

    monkeypatch.setattr(StepWriter, "_drifted", bent)
    with pytest.raises(EngineMismatch, match=r"sampler\.fp32\.onnxruntime\.onnx leaves the step-by-step chain"):
        write(tmp_path, targets=["onnxruntime"])
    entries = json.loads((tmp_path / "m.ebm" / "manifest.json").read_text())["artifacts"]
    assert not any(path.name.startswith("sampler.") for path in (tmp_path / "m.ebm").iterdir())
    assert all("sampler" not in entry for entry in entries)


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])  # the first does not tell of each step
@pytest.mark.parametrize("factor", [1 + 1e-6, 1.02])
def test_steps_in_which_rounding_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, factor: float
) -> None:
    """What is off by roundings only is a tenth of the way off after 32 steps, and right; 2 % more drift is not."""
    real = StepWriter._drifted

    def bent(self: StepWriter, position: Any, state: Any, given: Any) -> Any:
        more = self._made.op("Mul", [given["step_size"], self._made.scalar(factor)])
        return real(self, position, state, {**given, "step_size": more})

    monkeypatch.setattr(StepWriter, "_drifted", bent)
    if factor < 1.01:
        write_steep(tmp_path, targets=[target])
        return
    with pytest.raises(EngineMismatch, match=r"sampler\.fp16\..*leaves the step-by-step chain: after \d+ steps"):
        write_steep(tmp_path, targets=[target])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precisions(tmp_path: Path, precision: str) -> None:
    path = write(tmp_path, precisions=[precision], targets=["openvino"])
    drawn = []
    for fuse in (True, False):
        with load(path, threads=1, precision=precision, fuse=fuse) as ebm:
            drawn.append(ebm.sample(4, goal=GOAL))
    # The scale of FP16 chains is summed up in another order; BF16 chains have none.
    np.testing.assert_allclose(*drawn, rtol=0, atol=0 if precision == "bf16" else 1e-4)


def test_chains_that_ask_nothing_at_the_start_are_fused_from_their_first_step(tmp_path: Path) -> None:
    """Their scale is looked for there, in two calls."""
    path = write(tmp_path, CONFIG.replace(order="noise-drift"), precisions=["fp16"], targets=["openvino"])
    told: list[tuple[int, int]] = []
    drawn = []
    for fuse in (True, False):
        with load(path, threads=1, precision="fp16", fuse=fuse) as ebm:
            ebm.sample(4, goal=GOAL, callback=lambda now: told.append((now.done, now.calls)))
            drawn.append(ebm.sample(4, goal=GOAL))
    assert told[:7] == [(done, 2 + done) for done in (0, 4, 8, 12, 16, 20, 22)]
    np.testing.assert_allclose(*drawn, rtol=0, atol=1e-4)


def test_the_files_are_checked_onnx(tmp_path: Path) -> None:
    path = write(tmp_path, targets=["onnx"])
    for name in ("sampler.fp32.onnx", "standalone.fp32.onnx", "score.fp32.onnx"):
        onnx.checker.check_model(onnx.load(path / name), full_check=True)


class Trajectory(nn.Module):
    """Reads a trajectory [B, T, A] by convolutions over its time, as policies do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Conv1d(2, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.silu(self.first(x.transpose(1, 2)))
        h = nn.functional.silu(h + self.second(h))
        return 5 * self.head(h.mean(2)).squeeze(1) + x.square().sum((1, 2))


@pytest.mark.parametrize("mode", ["project", "reflect"])
def test_a_state_that_is_told_and_turned_is_the_one_that_steps_go_on_from(tmp_path: Path, mode: str) -> None:
    """OpenVINO 2026.4 had it live inside of the outputs that tell of each step, and be read there when another had taken its place."""
    config = SamplerConfig(steps=8, step_size=0.02, bounds=(-1.0, 1.0), bounds_mode=mode, init="uniform")
    path = export(
        Trajectory().eval(), torch.rand(4, 8, 2), out=tmp_path / "m.ebm", targets=["openvino"], sampler=config, fuse=COUNT
    )  # fmt: skip
    with load(path, fuse=True) as ebm, load(path, fuse=False) as singly:
        told = list(ebm.stream(6, seed=1))
        assert told[-1].complete
        *_, wanted = singly.stream(6, seed=1)
        np.testing.assert_array_equal(told[-1].x, wanted.x)
        np.testing.assert_array_equal(told[-1].energy, wanted.energy)
