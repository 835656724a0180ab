"""Every form of model file, each written by the real tool, and each way it can be no model."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ebm_export.exporter.archive import save_energy
from ebm_export.exporter.contract import check_contract
from ebm_export.exporter.input_spec import InputSpec
from ebm_export.exporter.load import load_model
from ebm_export.runtime.errors import LoadError, UsageError

from .models_to_load import ConditionalEnergy, MlpEnergy, energy_and_gradient, make_classifier, make_conv

MODELS = f"{__package__}.models_to_load"
SHAPE = (1, 8, 8)


def write(path: Path, form: str) -> dict[str, object]:
    """Writes `make_conv()`; returns the options that loading it takes."""
    model = make_conv()
    x = torch.randn(3, *SHAPE)
    weights = {"factory": f"{MODELS}:make_conv", "shape": SHAPE}
    with warnings.catch_warnings(), path.open("wb") as file:
        warnings.simplefilter("ignore")
        if form == "archive":
            torch.export.save(torch.export.export(model, (x,)), file)
            return {}
        if form == "traced":
            torch.jit.save(torch.jit.trace(model, x), file)
            return {"shape": SHAPE}
        if form == "scripted":
            torch.jit.save(torch.jit.script(model), file)
            return {"shape": SHAPE}
        if form == "state_dict":
            torch.save(model.state_dict(), file)
        elif form == "old state_dict":
            torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False)
        elif form == "checkpoint":
            state = {f"model.{name}": value for name, value in model.state_dict().items()}
            torch.save({"epoch": 2, "state_dict": state, "optimizer_states": [{"state": {}}]}, file)
        elif form == "safetensors":
            file.write(safetensors.torch.save(model.state_dict()))
        else:
            torch.save(model, file)
            return {"shape": SHAPE, "trust_pickle": True}
    return weights


FORMS = [
    "archive", "traced", "scripted", "state_dict", "old state_dict", "checkpoint", "safetensors", "module",
]  # fmt: skip


class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    def test_the_energy_is_the_models(self, tmp_path: Path, form: str) -> None:
        path = tmp_path / "model.pt"  # one name for all: the content says what it is
        energy = load_model(path, **write(path, form))  # type: ignore[arg-type]
        assert (energy.inputs, energy.wrt, energy.mode, energy.name) == (("x",), "x", "energy", "model")
        assert energy.x.shape[1:] == SHAPE
        check_contract(energy)
        x = torch.randn(5, *SHAPE)
        torch.testing.assert_close(energy_and_gradient(energy.module, x), energy_and_gradient(make_conv(), x))
        assert dict(energy.module.named_parameters()).keys() == dict(make_conv().named_parameters()).keys()

    def test_conditioning_inputs_by_shape(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(ConditionalEnergy()).save(str(path))
        energy = load_model(path, shape=(2,), cond={"obs": InputSpec((3,))}, wrt="action")
        assert (energy.inputs, energy.wrt) == (("obs", "action"), "action")
        check_contract(energy)
        check_contract(load_model(path, shape=(2,), cond={"obs": (3,)}))
        check_contract(load_model(path, shape=(2,), cond={"obs": torch.randn(7, 3)}))
        with pytest.raises(UsageError, match="also takes 'action'.*--cond action=SHAPE"):
            load_model(path, shape=(3,))

    def test_all_rows_of_a_condition_are_kept(self, tmp_path: Path) -> None:
        """Those that are given, and those that an archive was written with."""
        path, obs = tmp_path / "m.pt", torch.randn(40, 3)
        torch.save(ConditionalEnergy().state_dict(), path)
        options = {"factory": f"{MODELS}:ConditionalEnergy", "shape": (2,), "cond": {"obs": obs}, "wrt": "action"}
        assert torch.equal(load_model(path, **options).observations["obs"], obs)  # type: ignore[arg-type]
        save_energy(ConditionalEnergy(), path, torch.randn(4, 2), cond={"obs": obs})
        found = load_model(path)
        assert torch.equal(found.observations["obs"], obs)
        assert len(found.x) == len(found.cond["obs"]) == 16
        check_contract(found)
        other = torch.randn(30, 3)
        found = load_model(path, cond={"obs": other.double()})
        torch.testing.assert_close(found.observations["obs"], other)
        torch.testing.assert_close(found.cond["obs"], other[:16])
        with pytest.raises(UsageError, match="--cond obs: the archive takes float32, and the rows are int64"):
            load_model(path, cond={"obs": torch.zeros(30, 3, dtype=torch.int64)})
        with pytest.raises(UsageError, match=r"--cond obs: the archive was exported for rows \[R, 3\], got \[30, 4\]$"):
            load_model(path, cond={"obs": torch.zeros(30, 4)})
        with pytest.raises(
            UsageError, match=r"got \[3\]; that is one row without the dimension of rows: array\[None\]"
        ):
            load_model(path, cond={"obs": torch.zeros(3)})

    def test_a_label_of_whole_numbers(self, tmp_path: Path) -> None:
        torch.save(Labelled().state_dict(), tmp_path / "m.pt")
        energy = load_model(
            tmp_path / "m.pt", factory=f"{__name__}:Labelled", shape=(4,), cond={"y": InputSpec((), torch.int64)}
        )
        assert energy.cond["y"].shape == (4,)
        check_contract(energy)

    def test_the_mode_is_the_callers_or_the_archives(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt"
        torch.save(make_classifier().state_dict(), path)
        energy = load_model(path, factory=f"{MODELS}:make_classifier", shape=(4,), energy="logsumexp")
        assert energy.mode == "logsumexp"
        save_energy(make_classifier(), path, torch.randn(2, 4), energy="logsumexp")
        assert load_model(path).mode == "logsumexp"

    def test_factory_arguments(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt"
        torch.save(make_conv(6).state_dict(), path)
        load_model(path, factory=f"{MODELS}:make_conv", factory_args={"width": 6}, shape=SHAPE)
        with pytest.raises(LoadError, match=r"m\.pt, --model .*make_conv: the weights do not fit.*of another shape"):
            load_model(path, factory=f"{MODELS}:make_conv", shape=SHAPE)


class Labelled(nn.Module):
    """E(x, y) with a class label."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - self.table(y)).square().sum(1)


class Pairs(nn.Module):
    """E(positions [B, N, 3]) of all pairs' distances, by three functions of each."""

    def __init__(self) -> None:
        super().__init__()
        self.of_distance = nn.Linear(3, 1)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        apart = (positions[:, :, None] - positions[:, None]).square().sum(3, keepdim=True)
        return self.of_distance(torch.cat([apart, apart.exp(), -apart], dim=3)).sum((1, 2, 3))


class TestMissingOptions:
    def test_the_shape_is_told_from_a_convolution(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt"
        options = write(path, "scripted") | {"shape": None}
        with pytest.raises(UsageError, match=r"without the batch, --shape 1,H,W \(the first layer, conv, takes 1 cha"):
            load_model(path, **options)  # type: ignore[arg-type]

    def test_a_layer_that_reads_something_else_is_no_shape(self, tmp_path: Path) -> None:
        """--shape 3 was the advice for particles, of which the first layer sees pairwise distances."""
        torch.save(Pairs().state_dict(), tmp_path / "m.pt")
        with pytest.raises(
            UsageError, match=r"such as --shape 3,32,32 .*layer, of_distance, takes 3 numbers, and the model does"
        ):
            load_model(tmp_path / "m.pt", factory=f"{__name__}:Pairs")

    def test_the_shape_is_told_from_a_linear_layer(self, tmp_path: Path) -> None:
        torch.save(MlpEnergy().state_dict(), tmp_path / "m.pt")
        with pytest.raises(UsageError, match=r"--shape 4 \(the first layer, first, takes 4 numbers\)"):
            load_model(tmp_path / "m.pt", factory=f"{MODELS}:MlpEnergy")

    def test_nothing_to_tell_the_shape_from(self, tmp_path: Path) -> None:
        torch.save(Labelled().state_dict(), tmp_path / "m.pt")
        with pytest.raises(UsageError, match="such as --shape 3,32,32 for an image"):
            load_model(tmp_path / "m.pt", factory=f"{__name__}:Labelled")

    def test_the_first_layer_says_nothing_about_one_of_several_inputs(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt"
        model = ConditionalEnergy().eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(model).save(str(path))
        with pytest.raises(UsageError, match="such as --shape 3,32,32 for an image"):
            load_model(path, wrt="action", cond={"obs": (3,)})
        with pytest.raises(UsageError, match=r"two numbers; it is that of 'action', and beside it --cond obs=SHAPE$"):
            load_model(path, wrt="action")
        torch.save(model.state_dict(), path)
        with pytest.raises(UsageError, match=r"--shape 2 for two numbers$"):
            load_model(path, factory=f"{MODELS}:ConditionalEnergy", wrt="action", cond={"obs": (3,)})
        with pytest.raises(
            UsageError, match=r"'obs', the first input \(--wrt names another\), .* --cond action=SHAPE$"
        ):
            load_model(path, factory=f"{MODELS}:ConditionalEnergy")

    def test_weights_need_a_model(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt"
        write(path, "checkpoint")
        text = r"holds weights under 'state_dict' \(10 tensors, 'model.token' first\) and no code.*--model package"
        with pytest.raises(UsageError, match=text):
            load_model(path, shape=SHAPE)


class TestOptionsThatDoNotBelong:
    @pytest.mark.parametrize(
        ("form", "option", "text"),
        [
            ("archive", {"factory": "a:b"}, "--model is for files of weights; .* is a torch.export archive"),
            ("scripted", {"state_key": "a"}, "--state-key is for files of weights; .* is a TorchScript archive"),
            ("module", {"strip_prefix": "a"}, "--strip-prefix is for files of weights"),
            ("archive", {"factory_args": {"width": 64}}, "--model-arg is for files of weights"),
            ("traced", {"factory_args": {"width": 64}}, "--model-arg is for files of weights"),
            ("module", {"factory_args": {"width": 64}}, "--model-arg is for files of weights"),
            ("archive", {"shape": (3, 8, 8)}, "--shape: the archive was exported for 'x' of shape 1,8,8, got 3,8,8"),
            ("archive", {"cond": {"y": (3,)}}, "--cond: the archive has no conditioning input 'y'; it has none"),
        ],
    )
    def test_it_is_refused(self, tmp_path: Path, form: str, option: dict[str, object], text: str) -> None:
        path = tmp_path / "m.pt"
        with pytest.raises(UsageError, match=text):
            load_model(path, **write(path, form) | option)  # type: ignore[arg-type]

    @pytest.mark.parametrize("inside", [torch.float32, torch.uint8])
    def test_a_type_is_the_archives_own(self, tmp_path: Path, inside: torch.dtype) -> None:
        def energy(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return (x - c).square().sum(1)

        path = tmp_path / "m.pt2"
        save_energy(energy, path, torch.randn(4, 3), cond={"c": torch.zeros(4, 3, dtype=inside)})
        name = str(inside).removeprefix("torch.")
        with pytest.raises(UsageError, match=rf"--cond c: the archive takes {name}, got int64; leave the option out"):
            load_model(path, cond={"c": InputSpec((3,), torch.int64)})
        assert load_model(path, cond={"c": InputSpec((3,), inside)}).cond["c"].dtype == inside
        assert load_model(path, cond={"c": (3,)}).cond["c"].dtype == inside

    def test_the_archives_own_shape_may_be_given(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt"
        write(path, "archive")
        load_model(path, shape=SHAPE)


class TestNoModel:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match="m.pt: there is no such file"):
            load_model(tmp_path / "m.pt")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match="is a folder; expected a model file$"):
            load_model(tmp_path)
        (tmp_path / "manifest.json").write_text("{}")
        with pytest.raises(LoadError, match="is a folder.*it is a bundle that is exported already"):
            load_model(tmp_path)

    @pytest.mark.parametrize("form", ["archive", "scripted", "state_dict", "safetensors", "module"])
    @pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
    def test_a_file_that_is_cut_off(self, tmp_path: Path, form: str, share: float) -> None:
        path = tmp_path / "m.pt"
        options = write(path, form)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(LoadError, match="cut off|cut-off"):
            load_model(path, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
    def test_an_old_file_that_is_cut_off(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "m.pt"
        options = write(path, "old state_dict")
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(LoadError, match="is damaged or cut off"):
            load_model(path, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", "is empty; expected a torch.export archive"),
            (b"hello, world", "is no model file: it begins with b'hello, w'; expected"),
            (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
            (b"\x80\x04junk", "begins like a pickle and breaks off"),
        ],
    )
    def test_other_content(self, tmp_path: Path, content: bytes, text: str) -> None:
        path = tmp_path / "m.pt"
        path.write_bytes(content)
        with pytest.raises(LoadError, match=text):
            load_model(path)

    def test_a_zip_of_something_else(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "m.npz", a=np.ones(3))
        with pytest.raises(LoadError, match="is a zip file and no model: it holds a.npy"):
            load_model(tmp_path / "m.npz")

    def test_a_tensor(self, tmp_path: Path) -> None:
        torch.save(torch.ones(3), tmp_path / "m.pt")
        with pytest.raises(LoadError, match="m.pt: the file holds a Tensor and no state_dict"):
            load_model(tmp_path / "m.pt")

    def test_a_pickled_module(self, tmp_path: Path) -> None:
        torch.save(make_conv(), tmp_path / "m.pt")
        with pytest.raises(LoadError, match="is a pickled .*ConvEnergy. It is refused"):
            load_model(tmp_path / "m.pt", shape=SHAPE)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
class TestScriptsThatReachOut:
    """PyTorch runs some of a TorchScript file when it loads it."""

    def test_a_file_that_is_written_on_loading(self, tmp_path: Path) -> None:
        class Writes(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.target = "nowhere"
                self.kept = torch.zeros(4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.square().sum(1)

            @torch.jit.export
            def __getstate__(self) -> str:
                return self.target

            @torch.jit.export
            def __setstate__(self, state: str) -> None:
                self.target = state
                self.training = False
                if state != "nowhere":
                    self.kept = torch.from_file(state, True, 4).fill_(1.0)

        made = torch.jit.script(Writes())
        made.target = str(tmp_path / "written")
        torch.jit.save(made, tmp_path / "evil.pt")
        with pytest.raises(
            LoadError, match=r"the TorchScript file calls torch.from_file \(code/.*which does more than"
        ):
            load_model(tmp_path / "evil.pt", shape=(3,))
        assert not (tmp_path / "written").exists()
        torch.jit.load(tmp_path / "evil.pt")
        assert (tmp_path / "written").exists()  # so it would have been
