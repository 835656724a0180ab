"""Energies in torch.export archives."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - to write the files that are refused
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ebm_export.exporter.archive import SETTINGS_FILE, read_archive, save_energy
from ebm_export.exporter.contract import check_contract
from ebm_export.exporter.provenance import origin_of
from ebm_export.exporter.trace import trace
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.errors import ContractError, LoadError, UsageError

from .models_to_load import ConditionalEnergy, energy_and_gradient, make_classifier, make_conv

SAMPLER = SamplerConfig(steps=7, step_size=[1.0, 0.5], noise=0.005, bounds=(-1, 1), init="uniform")


def edited(source: Path, target: Path, part: str, edit: Any) -> Path:
    """Copies an archive with one of its records changed; `edit` takes and returns bytes."""
    reader = torch._C.PyTorchFileReader(str(source))
    writer = torch._C.PyTorchFileWriter(str(target))
    for name in reader.get_all_records():
        if name.startswith(".data/") or name in ("byteorder", "version"):
            continue
        content = reader.get_record(name)
        content = edit(content) if name == part else content
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return target


class Flow(nn.Module):
    """Minus the log density of a flow of one layer."""

    def __init__(self, prior: torch.distributions.Distribution) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.prior = nn.Parameter(0.1 * torch.randn(4)), prior

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.prior.log_prob(x * self.scale.exp()) - self.scale.sum()


PRIORS = {
    "normal": torch.distributions.MultivariateNormal(torch.zeros(4), torch.eye(4)),
    "told to check": torch.distributions.MultivariateNormal(torch.zeros(4), torch.eye(4), validate_args=True),
    "expanded": torch.distributions.Independent(torch.distributions.Normal(0.0, 1.0).expand([4]), 1),
}


class TestSaveEnergy:
    def test_settings_may_be_a_dictionary(self, tmp_path: Path) -> None:
        save_energy(make_conv(), tmp_path / "m.pt2", torch.randn(2, 1, 8, 8), sampler={"steps": 7, "noise": 0.005})
        assert read_archive(tmp_path / "m.pt2").sampler == SamplerConfig(steps=7, noise=0.005)
        with pytest.raises(
            UsageError, match="sampler: expected a SamplerConfig or a dictionary of its fields, got int"
        ):
            save_energy(make_conv(), tmp_path / "m.pt2", torch.randn(2, 1, 8, 8), sampler=7)  # type: ignore[arg-type]

    def test_everything_comes_back(self, tmp_path: Path) -> None:
        model = make_conv()
        path = tmp_path / "deep" / "model.pt2"
        save_energy(model, path, torch.randn(2, 1, 8, 8), sampler=SAMPLER, name="digits")
        energy = read_archive(path)
        assert (energy.name, energy.inputs, energy.wrt, energy.mode) == ("digits", ("x",), "x", "energy")
        assert energy.sampler == SAMPLER
        assert energy.x.shape[1:] == (1, 8, 8)
        check_contract(energy)
        x = torch.randn(5, 1, 8, 8)
        torch.testing.assert_close(energy_and_gradient(energy.module, x), energy_and_gradient(model, x))
        assert [p.name for p in path.parent.iterdir()] == ["model.pt2"]

    @pytest.mark.parametrize("batch", [1, 3])
    def test_the_batch_is_free_whatever_the_example_has(self, tmp_path: Path, batch: int) -> None:
        save_energy(make_conv(), tmp_path / "m.pt2", torch.randn(batch, 1, 8, 8))
        assert read_archive(tmp_path / "m.pt2")(torch.randn(4, 1, 8, 8)).shape == (4,)

    def test_the_plain_loader_reads_it_too(self, tmp_path: Path) -> None:
        save_energy(make_conv(), tmp_path / "m.pt2", torch.randn(2, 1, 8, 8))
        x = torch.randn(3, 1, 8, 8)
        torch.testing.assert_close(torch.export.load(str(tmp_path / "m.pt2")).module()(x), make_conv()(x))

    def test_conditioning_and_wrt(self, tmp_path: Path) -> None:
        model = ConditionalEnergy().eval()
        save_energy(model, tmp_path / "m.pt2", torch.randn(3, 2), cond={"obs": torch.randn(3, 3)}, wrt="action")
        energy = read_archive(tmp_path / "m.pt2")
        assert (energy.inputs, energy.wrt) == (("obs", "action"), "action")
        obs, action = torch.randn(5, 3), torch.randn(5, 2)
        torch.testing.assert_close(energy(obs, action), model(obs, action).squeeze(1))

    def test_modes_functions_and_classifiers(self, tmp_path: Path) -> None:
        classifier = make_classifier()
        x = torch.randn(3, 4)
        save_energy(classifier, tmp_path / "m.pt2", x, energy="logsumexp")
        torch.testing.assert_close(read_archive(tmp_path / "m.pt2")(x), -classifier(x).logsumexp(1))
        save_energy(lambda x: -classifier(x)[:, 0], tmp_path / "f.pt2", x, energy="negative")
        energy = read_archive(tmp_path / "f.pt2")
        torch.testing.assert_close(energy(x), classifier(x)[:, 0])
        assert energy.name == "lambda"
        assert read_archive(tmp_path / "f.pt2", energy="energy").mode == "energy"

    def test_the_model_is_left_alone(self, tmp_path: Path) -> None:
        model = make_conv()
        model.head.bias.requires_grad_(False)
        before = [p.requires_grad for p in model.parameters()]
        save_energy(model, tmp_path / "m.pt2", torch.randn(2, 1, 8, 8))
        assert [p.requires_grad for p in model.parameters()] == before
        assert all(p.grad is None for p in model.parameters())

    def test_no_energy_writes_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ContractError, match="call model.eval"):
            save_energy(make_conv().train(), tmp_path / "m.pt2", torch.randn(2, 1, 8, 8))
        with pytest.raises(ContractError, match=r"the model decides by the value of a tensor .*use torch.where"):
            save_energy(
                lambda x: x.sum(1) * (1 if float(x[0, 0].detach()) == 1.25 else 2), tmp_path / "m.pt2", torch.ones(2, 2)
            )
        assert list(tmp_path.iterdir()) == []

    def test_a_gradient_that_torch_export_loses(self, tmp_path: Path) -> None:
        class Doubled(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
                return 2 * grad

        with pytest.raises(ContractError, match="archive's gradient differs .* custom autograd functions"):
            save_energy(lambda x: Doubled.apply(x).square().sum(1), tmp_path / "m.pt2", torch.randn(2, 3))

    @pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
    def test_distributions_that_check_their_arguments_by_default(
        self, prior: torch.distributions.Distribution, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        flow = Flow(prior)
        save_energy(flow, tmp_path / "flow.pt2", torch.randn(3, 4))
        assert not capfd.readouterr().err
        kind = torch.distributions.Distribution
        assert kind._validate_args == __debug__ and kind._validate_sample.__name__ == "_validate_sample", "as before"
        loaded = read_archive(tmp_path / "flow.pt2")
        x = torch.randn(7, 4)
        torch.testing.assert_close(loaded.reduce(loaded.module(x)), flow(x))

    def test_what_torch_export_cannot_write_is_said_in_the_models_words(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(ContractError, match="the model decides by the value of a tensor"):
            save_energy(
                lambda x: Flow(PRIORS["normal"])(x) if x.sum() > 9 else x.sum(1), tmp_path / "f.pt2", torch.randn(3, 4)
            )
        assert len(capfd.readouterr().err.splitlines()) < 5, "and not in a thousand lines of a graph"

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is a folder; expected the name of a file"):
            save_energy(make_conv(), tmp_path, torch.randn(2, 1, 8, 8))


class TestPlainArchives:
    def test_settings_are_the_defaults(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.bin"
        example = torch.randn(3, 1, 8, 8)
        with path.open("wb") as file:
            torch.export.save(torch.export.export(make_conv(), (example,)), file)
        energy = read_archive(path)
        assert (energy.name, energy.inputs, energy.wrt, energy.sampler) == ("plain", ("x",), "x", None)
        assert torch.equal(energy.x, example)
        check_contract(energy)

    def test_keyword_and_constant_inputs(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pt2"
        obs, action = torch.randn(4, 3), torch.randn(4, 2)
        torch.export.save(torch.export.export(ConditionalEnergy(), (obs,), {"action": action, "scale": 3.0}), path)
        energy = read_archive(path, wrt="action")
        assert energy.inputs == ("obs", "action")
        torch.testing.assert_close(energy.x, action)
        with pytest.raises(UsageError, match="wrt: 'act' is no input of the model; its inputs are obs, action"):
            read_archive(path, wrt="act")


class TestRefused:
    @pytest.fixture
    def plain(self, tmp_path: Path) -> Path:
        save_energy(make_conv(), tmp_path / "plain.pt2", torch.randn(2, 1, 8, 8))
        return tmp_path / "plain.pt2"

    def test_an_operation_that_is_none(self, plain: Path, tmp_path: Path) -> None:
        def edit(content: bytes) -> bytes:
            return content.replace(b"torch.ops.aten.conv2d.default", b"torch.os.system")

        with pytest.raises(LoadError, match="the archive calls 'torch.os.system', which is no operation of PyTorch"):
            read_archive(edited(plain, tmp_path / "bad.pt2", "models/model.json", edit))

    def test_a_function_that_an_operation_calls(self, tmp_path: Path) -> None:
        """`wrap` is an operation of PyTorch, and calls what it is given: found by name among all that `torch` holds."""
        path, ran = tmp_path / "m.pt2", tmp_path / "ran"
        save_energy(lambda x: (x.square() * x).sum(1), path, torch.randn(2, 3))

        def edit(content: bytes) -> bytes:
            whole = json.loads(content)
            graph = whole["graph_module"]["graph"]
            product = next(node for node in graph["nodes"] if "mul" in node["target"])
            command = {"as_string": f"touch {ran}"}
            call = product | {
                "target": "torch.ops.higher_order.wrap",
                "name": "called",
                "inputs": [
                    {"name": "", "arg": arg, "kind": 1} for arg in ({"as_operator": "torch.os.system"}, command)
                ],
                "outputs": [{"as_tensor": {"name": "called"}}],
                "is_hop_single_tensor_return": True,
            }
            graph["tensor_values"]["called"] = next(iter(graph["tensor_values"].values()))
            graph["nodes"].insert(0, call)
            product["inputs"][1]["arg"] = {"as_tensor": {"name": "called"}}
            return json.dumps(whole).encode()

        bad = edited(path, tmp_path / "bad.pt2", "models/model.json", edit)
        with pytest.raises(LoadError, match="the archive calls 'torch.os.system', which is no operation of PyTorch"):
            check_contract(read_archive(bad))
        assert not ran.exists()

    @pytest.mark.parametrize("name", ["aten.from_file.default", "aten.save.default", "debugprims.load_tensor.default"])
    def test_an_operation_on_files(self, plain: Path, tmp_path: Path, name: str) -> None:
        def edit(content: bytes) -> bytes:
            return content.replace(b"torch.ops.aten.conv2d.default", f"torch.ops.{name}".encode())

        with pytest.raises(LoadError, match=f"the archive calls 'torch.ops.{name}', which does more than compute"):
            read_archive(edited(plain, tmp_path / "bad.pt2", "models/model.json", edit))

    def test_a_size_that_is_code(self, plain: Path, tmp_path: Path) -> None:
        def edit(content: bytes) -> bytes:
            text = json.dumps(json.loads(content))
            start = text.index('"expr_str": "') + len('"expr_str": "')
            return (text[:start] + "eval(chr(49))" + text[text.index('"', start) :]).encode()

        with pytest.raises(LoadError, match="a size in the archive is no arithmetic expression"):
            read_archive(edited(plain, tmp_path / "bad.pt2", "models/model.json", edit))

    def test_a_pickle_beside_the_tensors(self, plain: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        evil = pickle.dumps(Evil())
        with pytest.raises(LoadError, match="cannot read: "):
            read_archive(edited(plain, tmp_path / "bad.pt2", "data/sample_inputs/model.pt", lambda _: evil))

        def object_beside(content: bytes) -> bytes:
            config = json.loads(content)
            config["config"]["thing"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
            return json.dumps(config).encode()

        part = "data/constants/model_constants_config.json"
        with pytest.raises(LoadError, match=r"an object beside its tensors \('thing'.*--trust-pickle"):
            read_archive(edited(plain, tmp_path / "bad2.pt2", part, object_beside))
        assert not (tmp_path / "ran").exists()

    def test_other_settings(self, plain: Path, tmp_path: Path) -> None:
        part = f"extra/{SETTINGS_FILE}"
        with pytest.raises(LoadError, match="has schema version 9, this version reads 1; use a newer ebm-export"):
            read_archive(edited(plain, tmp_path / "new.pt2", part, lambda _: b'{"schema_version": 9}'))
        with pytest.raises(LoadError, match="is not what save_energy writes"):
            read_archive(edited(plain, tmp_path / "odd.pt2", part, lambda _: b"[1"))

    def test_a_damaged_archive(self, plain: Path, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.pt2"
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(damaged, "w") as target, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in source.namelist():
                if "weight_0" not in name:
                    target.writestr(name, source.read(name))
        with pytest.raises(LoadError, match=r"is a torch.export archive that PyTorch 2.* cannot read"):
            read_archive(damaged)


def test_nn_modules_in_a_sequential_keep_their_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    save_energy(model, tmp_path / "m.pt2", torch.randn(2, 4))
    module = read_archive(tmp_path / "m.pt2").module
    assert dict(module.named_parameters()).keys() == dict(model.named_parameters()).keys()


class Traced(nn.Module):
    """One operation of its own, and one inside a module of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).tanh().sum(1)


def test_the_file_names_source_lines_and_no_folder(tmp_path: Path) -> None:
    save_energy(Traced(), tmp_path / "m.pt2", torch.zeros(2, 3))
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(__file__).parent).encode() not in content
    graph = trace(read_archive(tmp_path / "m.pt2")).graph
    origins = [origin.source for node in graph.nodes if (origin := origin_of(node)) is not None]
    assert any("test_archive.py:" in source and "in forward" in source for source in origins)
