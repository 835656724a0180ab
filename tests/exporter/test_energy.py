"""Building energies from modules and functions."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import Energy, make_energy
from ebm_export.runtime.errors import UsageError

from .models_to_load import ConditionalEnergy, MlpEnergy, make_classifier

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_the_first_parameter_is_refined_by_default() -> None:
    energy = make_energy(MlpEnergy().eval(), X)
    assert energy.inputs == ("x",)
    assert energy.wrt == "x"
    assert energy.name == "MlpEnergy"
    assert energy(X).shape == (3,)


def test_inputs_keep_the_order_of_forward_and_defaults_stay() -> None:
    model = ConditionalEnergy()
    obs, action = torch.randn(3, 3), torch.randn(3, 2)
    energy = make_energy(model, action, cond={"obs": obs}, wrt="action")
    assert energy.inputs == ("obs", "action")
    assert energy.wrt == "action"
    assert energy.position == 1
    assert torch.equal(energy.x, action)
    torch.testing.assert_close(energy(obs, action), model(obs, action).squeeze(1))


def test_the_refined_input_is_the_first_that_cond_does_not_name() -> None:
    energy = make_energy(ConditionalEnergy(), torch.randn(3, 2), cond={"obs": torch.randn(3, 3)})
    assert energy.wrt == "action"


def test_an_input_after_a_default_is_passed_by_its_name() -> None:
    def energy_of(x: torch.Tensor, scale: float = 3.0, shift: torch.Tensor | None = None) -> torch.Tensor:
        return scale * x.sum(1) + (shift if shift is not None else 0.0)

    energy = make_energy(energy_of, X, cond={"shift": torch.ones(3)})
    assert energy.inputs == ("x", "shift")
    torch.testing.assert_close(energy(X, torch.ones(3)), 3 * X.sum(1) + 1)


def test_a_shared_conditioning_row_is_repeated() -> None:
    energy = make_energy(ConditionalEnergy(), torch.randn(3, 2), cond={"obs": torch.randn(1, 3)})
    assert energy.cond["obs"].shape == (3, 3)


class TestObservations:
    OBS = torch.arange(30.0).reshape(10, 3)

    def test_all_rows_are_kept_and_as_many_are_examples_as_x_has(self) -> None:
        energy = make_energy(ConditionalEnergy(), torch.randn(4, 2), cond={"obs": self.OBS})
        assert torch.equal(energy.observations["obs"], self.OBS)
        assert torch.equal(energy.cond["obs"], self.OBS[:4])

    def test_few_are_taken_in_turns(self) -> None:
        energy = make_energy(ConditionalEnergy(), torch.randn(7, 2), cond={"obs": self.OBS[:3]})
        assert torch.equal(energy.cond["obs"], self.OBS[[0, 1, 2, 0, 1, 2, 0]])
        assert torch.equal(energy.observations["obs"], energy.cond["obs"])

    def test_a_single_row_goes_with_all_of_another_input(self) -> None:
        def energy_of(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (x + a + b).sum(1)

        rows = {"a": self.OBS, "b": torch.ones(1, 3)}
        energy = make_energy(energy_of, torch.randn(4, 3), cond=rows)
        assert torch.equal(energy.observations["b"], torch.ones(10, 3))

    def test_later_ones_take_the_place_of_the_examples(self) -> None:
        energy = make_energy(ConditionalEnergy(), torch.randn(4, 2), cond={"obs": torch.randn(4, 3)})
        energy.observe({"obs": self.OBS})
        assert torch.equal(energy.observations["obs"], self.OBS)
        assert torch.equal(energy.cond["obs"], self.OBS[:4])
        assert energy.x.shape == (4, 2)

    def test_those_of_other_inputs_stay(self) -> None:
        def energy_of(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (x + a + b).sum(1)

        energy = make_energy(energy_of, torch.randn(4, 3), cond={"a": self.OBS, "b": 2 * self.OBS})
        energy.observe({"a": self.OBS + 1})
        assert torch.equal(energy.observations["b"], 2 * self.OBS)
        energy.observe({"a": self.OBS[:1]})
        assert torch.equal(energy.observations["b"], 2 * self.OBS)
        assert torch.equal(energy.observations["a"], self.OBS[:1].expand(10, 3))

    def test_of_an_input_that_is_not_there(self) -> None:
        energy = make_energy(ConditionalEnergy(), torch.randn(4, 2), cond={"obs": torch.randn(4, 3)})
        with pytest.raises(UsageError, match="cond: 'image' is no conditioning input; the model's are obs"):
            energy.observe({"image": self.OBS})
        with pytest.raises(UsageError, match="cond: 'image' is no conditioning input; the model has none"):
            make_energy(MlpEnergy(), X).observe({"image": self.OBS})


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("energy", torch.tensor([1.0, 2.0])),
        ("negative", torch.tensor([-1.0, -2.0])),
    ],
)
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_reduce_reads_one_number_per_sample(mode: str, expected: torch.Tensor, shape: tuple[int, ...]) -> None:
    energy = Energy(nn.Identity(), ("x",), (X,), "x", mode)  # type: ignore[arg-type]
    assert torch.equal(energy.reduce(torch.tensor([1.0, 2.0]).reshape(shape)), expected)


def test_reduce_of_logits_is_minus_their_logsumexp() -> None:
    model = make_classifier()
    energy = make_energy(model, X, energy="logsumexp")
    torch.testing.assert_close(energy(X), -model(X).exp().sum(1).log())


class TestFunctions:
    def test_modules_in_the_closure_become_submodules(self) -> None:
        net = nn.Linear(4, 1)

        def energy_of(x: torch.Tensor) -> torch.Tensor:
            return net(x).squeeze(1)

        energy = make_energy(energy_of, X)
        assert [name for name, _ in energy.module.named_parameters()] == ["fn_net.weight", "fn_net.bias"]
        copied = copy.deepcopy(energy.module)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        assert torch.equal(copied(X), torch.zeros(3))
        torch.testing.assert_close(energy(X), net(X).squeeze(1))

    def test_a_method_of_a_module_is_called_on_a_copy_of_it(self) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(4))

            def score(self, x: torch.Tensor) -> torch.Tensor:
                return x @ self.weight

        model = Model()
        energy = make_energy(model.score, X)
        copied = copy.deepcopy(energy.module)
        with torch.no_grad():
            model.weight.zero_()
        torch.testing.assert_close(copied(X), X.sum(1))
        assert energy.name == "score"

    def test_partials_and_lambdas(self) -> None:
        def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
            return factor * x.sum(1)

        torch.testing.assert_close(make_energy(functools.partial(scaled, factor=2.0), X)(X), 2 * X.sum(1))
        energy = make_energy(lambda *args: args[0].sum(1), X)
        assert energy.inputs == ("x",)
        assert energy.name == "lambda"


class TestErrors:
    def test_a_missing_input_names_itself_and_the_option(self) -> None:
        with pytest.raises(
            UsageError, match=r"also takes 'action'.*cond=\{'action': \.\.\.\}.*--cond action=SHAPE.*--wrt action"
        ):
            make_energy(ConditionalEnergy(), torch.randn(3, 3))

    def test_an_unknown_cond_names_the_nearest(self) -> None:
        with pytest.raises(UsageError, match=r"'obss' is no parameter of the model; did you mean 'obs'\?"):
            make_energy(ConditionalEnergy(), torch.randn(3, 2), cond={"obss": torch.randn(3, 3)}, wrt="action")

    def test_names_for_star_args(self) -> None:
        with pytest.raises(UsageError, match=r"takes \*args, which have no names"):
            make_energy(lambda *args: args[0].sum(1), X, cond={"y": X}, wrt="x")

    def test_an_unknown_wrt(self) -> None:
        with pytest.raises(UsageError, match="'y' is no parameter of the model; its parameters are x"):
            make_energy(MlpEnergy(), X, wrt="y")

    def test_wrt_in_cond(self) -> None:
        with pytest.raises(UsageError, match="'obs' is both wrt and in cond"):
            make_energy(ConditionalEnergy(), X, cond={"obs": X}, wrt="obs")

    def test_an_unknown_mode(self) -> None:
        with pytest.raises(UsageError, match="expected one of energy, negative, logsumexp, got 'logits'"):
            make_energy(MlpEnergy(), X, energy="logits")  # type: ignore[arg-type]

    def test_different_batches(self) -> None:
        with pytest.raises(UsageError, match=r"different batch sizes \(obs: 2, action: 3\)"):
            Energy(ConditionalEnergy(), ("obs", "action"), (torch.randn(2, 3), torch.randn(3, 2)), "action")

    def test_conditions_that_are_no_pairs(self) -> None:
        cond = {"a": torch.randn(4, 2), "b": torch.randn(6, 2)}
        with pytest.raises(UsageError, match=r"different numbers of rows \(a: 4, b: 6\)"):
            make_energy(lambda x, a, b: (x + a + b).sum(1), torch.randn(3, 2), cond=cond)

    def test_a_scalar_example(self) -> None:
        with pytest.raises(UsageError, match="the example of 'x' is a scalar"):
            make_energy(MlpEnergy(), torch.tensor(1.0))

    def test_no_model(self) -> None:
        with pytest.raises(UsageError, match="expected a module or a function, got str"):
            make_energy("model.pt", X)  # type: ignore[arg-type]
