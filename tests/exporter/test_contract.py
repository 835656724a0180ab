"""The energy contract: each way to break it, and what the error says."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ebm_export.exporter.archive import save_energy
from ebm_export.exporter.contract import check_contract
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.load import load_model
from ebm_export.exporter.more_rows import rows_like
from ebm_export.runtime.config import SamplerConfig
from ebm_export.runtime.errors import ContractError

from .models_to_load import make_classifier

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def net(*layers: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), *layers, nn.SiLU(), nn.Linear(8, 1))


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_an_energy_passes(batch: int) -> None:
    check_contract(make_energy(net().eval(), torch.randn(batch, 6)))


@pytest.mark.parametrize("given", [1, 2, 4])
def test_a_mask_of_infinities_passes_where_few_rows_were_given(given: int) -> None:
    """More rows are made up for the checks, whose infinities are those of the ones given."""
    hidden = (torch.arange(24).reshape(4, 6)[:given] % 5) == 0
    mask = torch.zeros(given, 6).masked_fill(hidden, -torch.inf)
    rows = rows_like(mask, 9, seed=0)
    turns = torch.arange(9) % given
    assert torch.equal(rows == -torch.inf, hidden[turns]) and not rows.isnan().any()
    moved = rows[given:][~hidden[turns[given:]]]
    assert len(moved.unique()) == len(moved), "the others are moved, so that no two rows are equal"

    def attended(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (torch.softmax(x + mask, dim=1) * x).sum(1)

    check_contract(make_energy(attended, X[:given], cond={"mask": mask}))


class Elsewhere(torch.Tensor):
    """Stands for a tensor on a GPU, to which none of another place is added."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.add_:
            assert isinstance(args[1], cls), "Expected all tensors to be on the same device"
        return super().__torch_function__(func, types, args, kwargs)


def test_rows_are_made_up_where_the_given_ones_are() -> None:
    rows = rows_like(torch.ones(2, 3).as_subclass(Elsewhere), 5, seed=0)
    assert isinstance(rows, Elsewhere) and rows.shape == (5, 3)


def test_the_module_is_not_touched() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.spectral_norm(nn.Linear(6, 6))
            self.norm = nn.BatchNorm1d(6)
            self.seen: torch.Tensor | None = None
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.seen is None:
                self.seen = torch.ones(6)
            self.calls += 1
            return (self.norm(self.conv(x)) * self.seen).square().sum(1)

    model = Lazy().eval()
    model.conv.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.random.get_rng_state()
    check_contract(make_energy(model, X))
    assert model.seen is None
    assert model.calls == 0
    assert [p.requires_grad for p in model.parameters()] == [
        not name.endswith("conv.bias") for name, _ in model.named_parameters()
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_a_module_that_keeps_a_tensor_with_history_is_copied() -> None:
    model = nn.utils.spectral_norm(nn.Linear(6, 1)).eval()
    model(X)  # leaves model.weight as a result of autograd, which copy.deepcopy refuses
    check_contract(make_energy(model, X))


class TestOutput:
    @pytest.mark.parametrize(
        ("function", "text"),
        [
            (lambda x: x.sum(), r"returns shape \(\) for a batch of 4; expected .*\[4\] or \[4, 1\].*over the batch"),
            (lambda x: x, r"returns shape \(4, 6\).*classifier over 6 classes.*--energy logsumexp"),
            (lambda x: x[:, None], r"returns shape \(4, 1, 6\).*reduce it over all dimensions but the first"),
            (lambda x: (x.sum(1), x), r"returns a tuple of \(4,\), \(4, 6\); expected one energy per sample"),
            (lambda x: x.sum(1).to(torch.complex64), "returns complex64; expected one energy per sample"),
            (lambda x: x.sum(1).long(), "returns int64; expected one energy per sample"),
        ],
    )
    def test_another_output(self, function: object, text: str) -> None:
        with pytest.raises(ContractError, match=text):
            check_contract(make_energy(function, X))  # type: ignore[arg-type]

    def test_logits_with_logsumexp(self) -> None:
        check_contract(make_energy(make_classifier(), torch.randn(3, 4), energy="logsumexp"))
        with pytest.raises(ContractError, match=r"energy=logsumexp expects logits \[4, K\]"):
            check_contract(make_energy(lambda x: x.sum(1), X, energy="logsumexp"))

    def test_the_models_own_error_is_kept(self) -> None:
        with pytest.raises(
            ContractError, match=r"fails on the example \(\(4, 5\) float32\): RuntimeError: mat1 .*\[B, \*S\].*--shape"
        ):
            check_contract(make_energy(net(), torch.randn(4, 5)))

    @pytest.mark.parametrize(
        ("pick", "hint"),
        [
            (lambda t, k: t(k), "--cond k:int64= on the command line"),
            (lambda t, k: t.weight[k], "--cond k:int64= on the command line"),
            (lambda t, k: nn.functional.one_hot(k, 10) @ t.weight, "--cond k:int64= on the command line"),
            (lambda t, k: t.weight.index_select(0, k), "--cond k:int64= on the command line"),
            (lambda t, k: t.weight[0].masked_fill(k, 0.0), "'k' came as floating point: .* a mask, .*--cond k:bool=6"),
        ],
    )
    def test_a_condition_of_another_type(self, pick: Callable[..., torch.Tensor], hint: str) -> None:
        table = nn.Embedding(10, 6)

        def energy(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return (x - pick(table, k)).square().sum(1)

        rows = torch.zeros(4, 6) if "bool" in hint else torch.zeros(4)
        with pytest.raises(ContractError, match=f"fails on the example .*{hint}"):
            check_contract(make_energy(energy, X, cond={"k": rows}))

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda x, k, obs: x @ k,
            lambda x, k, obs: nn.Embedding(3, 6)(k + 9).sum(1) + obs,  # a table that is too small
            lambda x, k, obs: (
                nn.functional.linear(k.reshape(4, 1), torch.ones(2, 1)).sum(1) + obs
            ),  # whole numbers to a layer
        ],
    )
    def test_errors_of_another_kind_get_no_hint(self, wrong: Callable[..., torch.Tensor]) -> None:
        cond = {"k": torch.zeros(4, dtype=torch.int64), "obs": torch.zeros(4)}
        with pytest.raises(ContractError, match="fails on the example") as caught:
            check_contract(make_energy(wrong, X, cond=cond))
        assert "came as floating point" not in str(caught.value)
        assert ("--shape" in str(caught.value)) == (
            "size mismatch" in str(caught.value)
        )  # a table that is too small is none of x

    def test_an_assert_without_a_text_is_told_by_its_place(self) -> None:
        def energy(x: torch.Tensor) -> torch.Tensor:
            raise AssertionError  # as an assert does, of which pytest would make one with a text

        text = r"AssertionError: no message at test_contract\.py:\d+ \(raise AssertionError\b"
        with pytest.raises(ContractError, match=text):
            check_contract(make_energy(energy, X))

    def test_a_batch_size_written_down(self) -> None:
        with pytest.raises(ContractError, match=r"runs at the example's batch of 4 and fails at a batch of 5.*x.shape"):
            check_contract(make_energy(lambda x: x.view(4, 6).sum(1), X))

    @pytest.mark.parametrize("kind", [RuntimeError, ValueError])
    def test_a_batch_size_of_the_checks_own(self, kind: type[Exception]) -> None:
        def energy(x: torch.Tensor) -> torch.Tensor:
            if len(x) != 5:
                raise kind("expected 5 samples")
            return x.square().sum(1)

        text = rf"runs at a batch of 5 and fails at a batch of 4: {kind.__name__}: expected 5 samples; .*x.shape"
        with pytest.raises(ContractError, match=text):
            check_contract(make_energy(energy, torch.randn(5, 6)))

    def test_a_start_that_the_model_does_not_take(self) -> None:
        """The example's own rows at the batch of the checks say that it is not the batch."""

        def energy(x: torch.Tensor) -> torch.Tensor:
            return x.square().sum(1) + torch.arange(10.0)[(x * 10).long()].sum(1)

        inside = torch.rand(4, 6)
        text = (
            r"runs on the example and fails where chains start \(normal\): IndexError: .*check the range .*bounds, init"
        )
        with pytest.raises(ContractError, match=text):
            check_contract(make_energy(energy, inside))
        check_contract(make_energy(energy, inside, sampler=SamplerConfig(init="uniform", bounds=(0.0, 0.99))))


class TestSamples:
    def test_batch_norm_in_training_mode(self) -> None:
        model = net(nn.BatchNorm1d(8)).train()
        with pytest.raises(ContractError, match=r"1 \(BatchNorm1d\) in training mode; call model.eval\(\)"):
            check_contract(make_energy(model, X))
        assert model.training
        check_contract(make_energy(model.eval(), X))

    def test_dropout_left_on(self) -> None:
        with pytest.raises(ContractError, match=r"two calls.*: 1 \(Dropout\) in training mode; call model.eval\(\)"):
            check_contract(make_energy(net(nn.Dropout(0.5)).train(), X))

    def test_noise_in_forward(self) -> None:
        with pytest.raises(ContractError, match="two calls .* the model draws random numbers"):
            check_contract(make_energy(lambda x: (x + torch.randn_like(x)).sum(1), X))

    def test_a_mean_over_the_batch(self) -> None:
        with pytest.raises(ContractError, match=r"energy of sample 0 changes with the other samples.*dimension 0"):
            check_contract(make_energy(lambda x: (x - x.mean(0)).square().sum(1), X))

    def test_a_condition_that_broadcasts_over_the_batch(self) -> None:
        images, others = torch.randn(4, 1, 4, 4), torch.randn(4, 4, 4)
        with pytest.raises(ContractError, match=r"energy of sample 0 changes .*different rank that broadcast over it"):
            check_contract(make_energy(lambda x, y: (x - y).square().sum((1, 2, 3)), images, cond={"y": others}))

    def test_a_division_by_the_batch_size(self) -> None:
        with pytest.raises(
            ContractError, match=r"change with the number of samples in the batch \(.*do not divide by B"
        ):
            check_contract(make_energy(lambda x: x.square().sum(1) / x.shape[0], X))


class TestConditions:
    """They change from sample to sample, within what was given."""

    @staticmethod
    def scaled(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x.square().sum(1) / torch.linspace(0.1, 1, 10)[t.long()]

    def test_a_place_in_a_table_that_is_given_in_floats(self) -> None:
        check_contract(make_energy(self.scaled, X, cond={"t": torch.tensor([9.0, 8.0, 7.0, 6.0])}))

    def test_each_number_has_a_range_of_its_own(self) -> None:
        rows = torch.stack([torch.arange(12) % 10, 100.0 + torch.arange(12)], 1)
        check_contract(
            make_energy(lambda x, c: self.scaled(x, c[:, 0]) * c[:, 1], torch.randn(12, 3), cond={"c": rows})
        )

    def test_one_row_that_nothing_is_known_around(self) -> None:
        text = r"fails at other rows in the range of those that it ran on: IndexError: .*--cond NAME=FILE\.npy"
        with pytest.raises(ContractError, match=text):
            check_contract(make_energy(self.scaled, torch.randn(6, 3), cond={"t": torch.full((6,), 9.0)}))

    @pytest.mark.parametrize("given", [torch.full((6,), 0.5), torch.linspace(0.5, 1, 6)], ids=["one", "many"])
    def test_a_mean_over_the_conditions_of_a_batch(self, given: torch.Tensor) -> None:
        with pytest.raises(ContractError, match="changes with the other samples of its batch"):
            check_contract(make_energy(lambda x, s: x.square().sum(1) / s.mean(), torch.randn(6, 3), cond={"s": given}))


class TestStart:
    def test_energies_that_are_not_finite(self) -> None:
        with pytest.raises(ContractError, match=r"energies are not finite \(nan\) where chains start \(normal\)"):
            check_contract(make_energy(lambda x: x.sqrt().sum(1), X.abs()))

    def test_the_samplers_start_is_the_one_that_counts(self) -> None:
        sampler = SamplerConfig(init="uniform", bounds=(0.0, 1.0))
        check_contract(make_energy(lambda x: (x + 0.1).sqrt().sum(1), X.abs(), sampler=sampler))

    def test_a_given_start(self) -> None:
        check_contract(make_energy(lambda x: (x + 0.1).sqrt().sum(1), X.abs()), start=X.abs())

    def test_a_gradient_that_is_not_finite(self) -> None:
        with pytest.raises(ContractError, match=r"gradient of 5 of 5 samples is not finite"):
            check_contract(
                make_energy(lambda x: (x - x.detach()).norm(dim=1) + x.sum(1) * 0 + (x * 0).sqrt().sum(1), X)
            )


class TestGradient:
    def test_no_gradient(self) -> None:
        with pytest.raises(ContractError, match=r"no gradient in 'x'.*detach\(\), no_grad"):
            check_contract(make_energy(lambda x: x.detach().sum(1), X))

    def test_a_gradient_in_the_parameters_only(self) -> None:
        model = net().eval()

        def energy_of(x: torch.Tensor) -> torch.Tensor:
            return model(x.detach())

        with pytest.raises(ContractError, match="no gradient in 'x'"):
            check_contract(make_energy(energy_of, X))

    def test_a_gradient_of_zero(self) -> None:
        with pytest.raises(ContractError, match="gradient in 'x' is zero for all 5 samples"):
            check_contract(make_energy(lambda x: (x * 0).sum(1), X))

    def test_rounding_and_casts_are_named_where_their_errors_are(self) -> None:
        with pytest.raises(ContractError, match=r"gradient in 'x' is zero .*\(saturated, rounded, or"):
            check_contract(make_energy(lambda x: x.round().square().sum(1), X))
        with pytest.raises(ContractError, match="no gradient in 'x'.*argmax or a cast to whole numbers"):
            check_contract(make_energy(lambda x: x.long().sum(1).float(), X))

    def test_an_input_of_whole_numbers(self) -> None:
        with pytest.raises(ContractError, match="refined input 'x' is int64; expected floating point"):
            check_contract(make_energy(lambda x: x.sum(1).float(), torch.ones(3, 2, dtype=torch.int64)))


def test_one_number_per_sample_can_be_refined() -> None:
    """x [B] has no dimension but the batch."""
    check_contract(make_energy(lambda x: x**4 / 4 - x**2, torch.randn(3)))


def test_a_model_may_take_gradients_by_its_input() -> None:
    def force(x: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad((x**4).sum(), x, create_graph=True)
        return slope.square().sum(1)

    check_contract(make_energy(force, torch.randn(3, 4)))


def test_a_complex_condition_is_refused_by_name() -> None:
    def energy(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return (x * z.real + x.cos() * z.imag).sum(1)

    rows = torch.zeros(4, 6, dtype=torch.complex64)
    with pytest.raises(
        ContractError, match=r"the conditioning input 'z' is complex64; expected real numbers, .* parts"
    ):
        check_contract(make_energy(energy, X, cond={"z": rows}))


class TestOfAnotherDevice:
    """Whatever PyTorch says of it, which depends on the machine: the remedy is the same."""

    TEXT = r"makes tensors on a GPU, .* \(device=x\.device\); .*write it again from model\.cpu\(\)$"

    def test_a_tensor_made_in_forward(self) -> None:
        with pytest.raises(ContractError, match=self.TEXT):
            check_contract(make_energy(lambda x: (x * torch.arange(6, device="cuda")).sum(1), X))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_torchscript_file_that_was_written_on_a_gpu(self, tmp_path: Path) -> None:
        class OnGpu(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (x * torch.arange(6, device=torch.device("cuda:0"))).sum(1)

        torch.jit.script(OnGpu()).save(str(tmp_path / "m.pt"))
        with pytest.raises(ContractError, match=self.TEXT):
            check_contract(load_model(tmp_path / "m.pt", shape=(6,)))

    def test_an_archive_that_was_written_on_a_gpu(self, tmp_path: Path) -> None:
        save_energy(lambda x: (x * torch.arange(6, device=x.device)).sum(1), tmp_path / "cpu.pt2", X)
        with zipfile.ZipFile(tmp_path / "cpu.pt2") as written, zipfile.ZipFile(tmp_path / "m.pt2", "w") as made:
            for entry in written.infolist():
                content = written.read(entry)
                if entry.filename.endswith("models/model.json"):
                    assert b'"as_device": {"type": "cpu", "index": null}' in content
                    content = content.replace(
                        b'"as_device": {"type": "cpu", "index": null}', b'"as_device": {"type": "cuda", "index": 0}'
                    )
                made.writestr(entry, content)
        with pytest.raises(ContractError, match=self.TEXT):
            check_contract(load_model(tmp_path / "m.pt2"))


class Doubled(nn.Module):
    """Computes in float64, with a matrix that is a buffer or that no call of .float() reaches."""

    def __init__(self, as_buffer: bool) -> None:
        super().__init__()
        self.net = net()
        matrix = torch.eye(6, dtype=torch.float64)
        if as_buffer:
            self.register_buffer("matrix", matrix)
        else:
            self.matrix = matrix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.double() if "matrix" in dict(self.named_buffers()) else x
        return self.net((x @ self.matrix).to(self.net[0].weight.dtype)).squeeze(1)


@pytest.mark.parametrize("as_buffer", [True, False])
def test_a_model_of_float64_is_told_that_its_copy_is_float32(as_buffer: bool) -> None:
    model, x = (Doubled(True), X) if as_buffer else (Doubled(False).double(), X.double())
    model(x)
    with pytest.raises(
        ContractError, match=r"a copy whose parameters and buffers are float32, .* \(k\.to\(x\.dtype\)\)"
    ):
        check_contract(make_energy(model, x))


def test_other_failures_say_nothing_of_float64() -> None:
    with pytest.raises(ContractError, match="the model fails on the example") as caught:
        check_contract(make_energy(net(), X[:, :5]))
    assert "float64" not in str(caught.value)
