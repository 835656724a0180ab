"""Finding weights in checkpoints and fitting them into models."""

from __future__ import annotations

import argparse
import pickle  # noqa: TID251 - to write the files that are refused
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ebm_export.exporter.checkpoint import find_states, fit_state, read_weights
from ebm_export.exporter.file_form import FileForm
from ebm_export.runtime.errors import LoadError, UsageError

from .models_to_load import ConvEnergy, make_conv

STATE = make_conv().state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


class TestReadWeights:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_files_of_torch_save(self, tmp_path: Path, zipped: bool) -> None:
        path = tmp_path / "m.pt"
        with path.open("wb") as file:
            torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
        content = read_weights(path, FileForm.PICKLE)
        assert content.keys() == STATE.keys()

    def test_what_training_frameworks_keep_beside_weights(self, tmp_path: Path) -> None:
        path = tmp_path / "m.ckpt"
        torch.save(
            {
                "epoch": 3,
                "state_dict": STATE,
                "hyper_parameters": argparse.Namespace(width=4, folder=Path("runs")),
                "best": np.float64(0.5),
                "best32": np.float32(0.5),
            },
            path,
        )
        content = read_weights(path, FileForm.PICKLE)
        assert content["hyper_parameters"].width == 4

    def test_safetensors(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(STATE, tmp_path / "m.safetensors")
        assert read_weights(tmp_path / "m.safetensors", FileForm.SAFETENSORS).keys() == STATE.keys()

    def test_cut_off_safetensors(self, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        safetensors.torch.save_file(STATE, path)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(LoadError, match="is a damaged or cut-off safetensors file"):
            read_weights(path, FileForm.SAFETENSORS)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_pickled_module_is_refused(self, tmp_path: Path, zipped: bool) -> None:
        path = tmp_path / "m.pt"
        with path.open("wb") as file:
            torch.save(make_conv(), file, _use_new_zipfile_serialization=zipped)
        text = (
            r"is a pickled .*models_to_load\.ConvEnergy\. It is refused because unpickling imports and runs .*"
            r"save_energy\(model, path, example\) or torch\.export\.save.*state_dict.*--model.*--trust-pickle"
        )
        with pytest.raises(LoadError, match=text):
            read_weights(path, FileForm.PICKLE)
        assert isinstance(read_weights(path, FileForm.PICKLE, trust_pickle=True), ConvEnergy)

    def test_objects_in_a_checkpoint_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "m.ckpt"
        torch.save({"state_dict": STATE, "model": nn.Linear(2, 2)}, path)
        with pytest.raises(
            LoadError, match=r"objects beside its weights \(torch.nn.modules.linear.Linear.*trust-pickle"
        ):
            read_weights(path, FileForm.PICKLE)

    def test_code_in_a_pickle_does_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        path = tmp_path / "m.pkl"
        path.write_bytes(pickle.dumps({"w": torch.ones(1), "x": Evil()}, protocol=2))
        with pytest.raises(LoadError):
            read_weights(path, FileForm.PICKLE)
        assert not (tmp_path / "ran").exists()

    def test_a_class_in_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "nets_beside_the_file.py").write_text("import torch\nclass Net(torch.nn.Linear): pass\n")
        make = "import torch, nets_beside_the_file as nets; torch.save(nets.Net(2, 1), 'm.pt')"
        subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as in an installed command
        monkeypatch.chdir(tmp_path)
        before = list(sys.path)
        found = read_weights(Path("m.pt"), FileForm.PICKLE, trust_pickle=True)
        assert type(found).__module__ == "nets_beside_the_file" and sys.path == before

    def test_a_class_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from . import models_to_load

        path = tmp_path / "m.pt"
        torch.save(make_conv(), path)
        monkeypatch.delattr(models_to_load, "ConvEnergy")
        with pytest.raises(LoadError, match="cannot be unpickled: .*ConvEnergy.*run from the folder of the code"):
            read_weights(path, FileForm.PICKLE, trust_pickle=True)


class TestFindStates:
    def test_nested(self) -> None:
        checkpoint = {
            "epoch": 3,
            "state_dict": STATE,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            "loss": torch.tensor(1.0),
        }
        assert find_states(checkpoint).keys() == {"state_dict"}
        assert find_states(STATE).keys() == {""}
        assert find_states({"ema": {"shadow": STATE}, "model": STATE}).keys() == {"ema.shadow", "model"}

    def test_a_given_key(self) -> None:
        checkpoint = {"model": STATE, "ema": {"shadow": STATE}}
        assert find_states(checkpoint, "ema.shadow").keys() == {"ema.shadow"}
        with pytest.raises(UsageError, match="no state_dict under 'net'; there is one under 'model', 'ema.shadow'"):
            find_states(checkpoint, "net")

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (torch.ones(3), "the file holds a Tensor and no state_dict"),
            ({"epoch": 3, "lr": 0.1}, "holds a dict with the keys epoch, lr and no state_dict"),
            ([STATE], "holds a list and no state_dict"),
        ],
    )
    def test_none(self, content: Any, text: str) -> None:
        with pytest.raises(LoadError, match=text):
            find_states(content)


class TestFitState:
    @pytest.mark.parametrize("prefix", ["", "module.", "model.", "net._orig_mod.", "a.b.c."])
    def test_prefixes_are_found(self, prefix: str) -> None:
        model = ConvEnergy()
        fit_state(model, {"": {**prefixed(prefix), "loss.weight": torch.ones(2)} if prefix else prefixed(prefix)})
        assert all(torch.equal(value, STATE[name]) for name, value in model.state_dict().items())

    def test_lazy_layers_take_the_shapes_of_the_file(self) -> None:
        def lazy() -> nn.Sequential:
            return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(1)).eval()

        trained, x = lazy(), torch.randn(2, 3, 8, 8)
        trained(x)
        state = trained.state_dict()
        model = lazy()
        fit_state(model, {"critic": {"weight": torch.ones(3)}, "energy": {"net." + k: v for k, v in state.items()}})
        assert torch.equal(model(x), trained(x))
        with pytest.raises(UsageError, match="several state_dicts that fit the model: 'a', 'b'"):
            fit_state(lazy(), {"a": state, "b": dict(state)})
        del state["3.bias"]
        with pytest.raises(LoadError, match="1 missing from the file: 3.bias; check the factory"):
            fit_state(lazy(), {"": state})

    def test_the_one_that_fits_is_taken(self) -> None:
        model = ConvEnergy()
        fit_state(model, {"critic": {"weight": torch.ones(3)}, "energy": prefixed("module.")})
        assert torch.equal(model.head.bias, STATE["head.bias"])

    def test_several_that_fit(self) -> None:
        with pytest.raises(
            UsageError, match=r"several state_dicts that fit.*'ema', 'model'; pick one, such as --state-key ema"
        ):
            fit_state(ConvEnergy(), {"ema": dict(STATE), "model": dict(STATE)})

    def test_several_prefixes_that_fit(self) -> None:
        both = {"": {**prefixed("online."), **prefixed("target.")}}
        with pytest.raises(UsageError, match=r"behind several prefixes: 'online.', 'target.'.*--strip-prefix"):
            fit_state(ConvEnergy(), both)
        model = ConvEnergy()
        fit_state(model, both, strip_prefix="target")
        assert torch.equal(model.head.bias, STATE["head.bias"])

    def test_a_prefix_that_is_not_there(self) -> None:
        with pytest.raises(
            UsageError, match="no name begins with 'net'; they begin with 'token', 'conv', 'norm', 'head'"
        ):
            fit_state(ConvEnergy(), {"": dict(STATE)}, strip_prefix="net")

    def test_old_checkpoints_without_batch_counters(self) -> None:
        fit_state(ConvEnergy(), {"": {k: v for k, v in STATE.items() if "num_batches" not in k}})

    def test_old_names_of_a_parametrization(self) -> None:
        old = nn.utils.spectral_norm(nn.Linear(3, 2))
        new = nn.utils.spectral_norm(nn.Linear(3, 2))
        fit_state(new, {"": dict(old.state_dict())})

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_everything_that_is_different_is_named(self, prefix: str) -> None:
        state = prefixed(prefix)
        del state[prefix + "norm.weight"]
        state[prefix + "extra.bias"] = torch.ones(2)
        state[prefix + "head.weight"] = torch.ones(2, 256)
        text = (
            r"1 missing from the file: norm.weight; 1 unexpected in the file: extra.bias; "
            r"1 of another shape: head.weight \(file 2x256, model 1x256\); check .*--model-arg.*--strip-prefix"
        )
        with pytest.raises(LoadError, match=text):
            fit_state(ConvEnergy(), {"": state})

    def test_long_lists_are_cut(self) -> None:
        with pytest.raises(LoadError, match=r"10 missing from the file: (\S+, ){5}\S+ and 4 more; 1 unexpected"):
            fit_state(ConvEnergy(), {"": {"weight": torch.ones(1)}})

    def test_none_of_several(self) -> None:
        with pytest.raises(LoadError, match="none of the state_dicts .* 'a', 'b': pick one with --state-key.*missing"):
            fit_state(ConvEnergy(), {"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}})
