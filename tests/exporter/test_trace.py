"""Every model of the zoo, exported and compared with float64 autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_padded_sequence

from ebm_export.exporter.batch import generalize
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.trace import input_names, trace
from ebm_export.runtime.errors import ContractError, UnsupportedOperation

from .cases import FAMILIES, REFUSED, all_cases
from .referee import check_case, score_graph

CASES = all_cases()


@pytest.mark.parametrize("name", [name for name in CASES if name not in REFUSED])
def test_gradient_is_that_of_float64_autograd(name: str) -> None:
    check_case(CASES[name])


def test_no_family_is_left_out() -> None:
    assert {name.partition("/")[0] for name in CASES} == set(FAMILIES)


class Recorded(nn.Module):
    """Records what forward is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.square()).squeeze(1)


class TestBatch:
    def test_batch_is_symbolic_in_every_input_and_output(self) -> None:
        model = score_graph(make_energy(Recorded(), torch.zeros(4, 3)))
        for value in (*model.graph.inputs, *model.graph.outputs):
            assert str(value.shape[0]) == "B", value

    def test_a_shape_written_for_one_batch_is_refused(self) -> None:
        class Fixed(Recorded):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x.reshape(4, 3))

        with pytest.raises(ContractError, match="cannot be traced"):
            trace(make_energy(Fixed(), torch.zeros(4, 3)))

    def test_operations_that_depend_on_the_batch_size_are_refused(self) -> None:
        class Unrolled(Recorded):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                rows = [super(Unrolled, self).forward(row[None]) for row in x]
                return torch.cat(rows)

        with pytest.raises(ContractError, match="computes differently at different batch sizes"):
            trace(make_energy(Unrolled(), torch.zeros(4, 3)))


def dispatched(x: torch.Tensor) -> torch.Tensor:
    """Only some samples go through a function."""
    mask = x[:, 0] > 0
    out = x.new_zeros(len(x))
    out[mask] = x[mask].cos().sum(1)
    return out


SIZES_FROM_DATA = {
    "mask": dispatched,
    "nonzero": lambda x: 0 * x[torch.nonzero(x[:, 0] > 0).squeeze(1)].sum(),
    "masked_select": lambda x: 0 * x.masked_select(x > 0).sum(),
    "unique": lambda x: 0 * torch.unique((x > 0).float()).sum(),
    "repeat_interleave": lambda x: 0 * x.repeat_interleave((x[:, 0] > 0).long(), 0).sum(),
}


class TestModule:
    def test_a_value_read_through_numpy_is_refused(self) -> None:
        def leaky(x: torch.Tensor) -> torch.Tensor:
            return x.square().sum(1) * torch.from_numpy(x.detach().numpy()[:1]).sum().abs()

        with pytest.raises(ContractError, match="into a constant"):
            trace(make_energy(leaky, torch.ones(2, 3)))

    @pytest.mark.parametrize(
        "make", [lambda x: torch.zeros(x.shape[0], 3), lambda x: x.detach().abs()], ids=["batch size", "values"]
    )
    def test_a_parameter_made_in_forward_is_refused(self, make) -> None:
        with pytest.raises(ContractError, match=r"into a constant .*nn\.Parameter"):
            trace(make_energy(lambda x: (x * nn.Parameter(make(x))).sum(1), torch.ones(2, 3)))

    def test_what_is_captured_and_no_tensor_is_refused(self) -> None:
        root, graph = nn.Module(), torch.fx.Graph()
        root.drawn = torch.Generator()
        graph.output(graph.get_attr("drawn"))
        traced = torch.fx.GraphModule(root, graph)
        with pytest.raises(ContractError, match="forward uses a Generator object; a graph holds tensors only"):
            generalize(traced, traced, (5, 7))

    def test_the_users_module_is_left_alone(self) -> None:
        module = Recorded().train()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        trace(make_energy(module, torch.zeros(2, 3)))
        assert module.training
        assert all(parameter.requires_grad for parameter in module.parameters())
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

    def test_constants_are_copies_on_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With no GPU at hand, `cpu` copies as it does from one; then nothing of the graph may lie where the module's own weights do."""
        monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor.clone())
        module = Recorded()
        module.register_buffer("scale", torch.rand(3))
        own = {value.data_ptr() for value in module.state_dict().values()}
        traced = trace(make_energy(lambda x: module(x * module.scale), torch.zeros(2, 3)))
        assert {"layer.weight", "layer.bias", "scale"} <= {
            name.rpartition("module.")[2] for name in traced.origins.values()
        }
        assert not own & {value.data_ptr() for value in traced.constants.values()}

    def test_control_flow_on_data_is_refused_with_its_place(self) -> None:
        class Branching(Recorded):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if x.sum() > 0:
                    x = -x
                return super().forward(x)

        with pytest.raises(ContractError, match=r"decides by the value of a tensor.*test_trace\.py:\d+, in forward"):
            trace(make_energy(Branching(), torch.zeros(2, 3)))

    def test_packed_sequences_are_refused_and_the_way_out_traces(self) -> None:
        layer = nn.GRU(3, 5, batch_first=True)
        x, lengths = torch.randn(4, 6, 3), torch.tensor([6, 2, 4, 6])

        def packed(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return layer(rows)[1][0].square().sum(1)

        def padded(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            out = layer(x)[0]
            return out[torch.arange(out.shape[0]), lengths - 1].square().sum(1)

        text = r"packs sequences by their lengths in .*test_trace\.py:\d+, in packed\).*leave pack_padded_sequence out"
        with pytest.raises(ContractError, match=text):
            trace(make_energy(packed, x, cond={"lengths": lengths}))
        torch.testing.assert_close(padded(x, lengths), packed(x, lengths))
        trace(make_energy(padded, x, cond={"lengths": lengths}))

    @pytest.mark.parametrize("name", SIZES_FROM_DATA)
    def test_a_size_that_depends_on_data_is_refused_with_its_place(self, name: str) -> None:
        function = SIZES_FROM_DATA[name]
        text = r"the shape of what aten\.\S+ gives depends on the data.*test_trace\.py:\d+, in .*torch\.where\(mask, a, b\)"
        with pytest.raises(ContractError, match=text):
            trace(make_energy(lambda x: x.square().sum(1) + function(x), torch.randn(8, 3)))

    @pytest.mark.parametrize(
        ("operation", "function"),
        [
            (
                "_ctc_loss",
                lambda x: F.ctc_loss(
                    x.T[:, :, None].expand(-1, -1, 4).log_softmax(2),
                    torch.ones(x.shape[0], 2, dtype=torch.long),
                    torch.full((x.shape[0],), 3),
                    torch.full((x.shape[0],), 1),
                    reduction="none",
                ),
            ),
            ("linalg_lstsq", lambda x: torch.linalg.lstsq(torch.eye(3)[:, :2], x.T).solution.sum(0)),
            ("masked_select", lambda x: torch.vmap(lambda one: one.sum())(x) + 0 * torch.combinations(x[0]).sum()),
        ],
        ids=["ctc_loss", "lstsq", "combinations"],
    )
    def test_an_operation_whose_sizes_do_not_depend_on_data_has_no_rule(self, operation: str, function) -> None:
        with pytest.raises(UnsupportedOperation, match=rf"aten\.{operation}.*test_trace\.py:\d+, in .*has no rule"):
            score_graph(make_energy(lambda x: x.square().sum(1) + function(x.sin()), torch.randn(2, 3)))

    def test_one_hot_without_a_count_is_refused_with_the_remedy(self) -> None:
        def energy(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return (x * F.one_hot(label)).sum(1)

        with pytest.raises(ContractError, match=r"test_trace\.py:\d+, in energy.*F\.one_hot\(index, count\)"):
            trace(make_energy(energy, torch.zeros(2, 3), cond={"label": torch.tensor([0, 2])}))

    @pytest.mark.parametrize(
        "part", [lambda mask: (mask,), lambda mask: (slice(None), mask[0])], ids=["alone", "behind"]
    )
    def test_values_for_the_places_of_a_mask_are_refused_with_the_remedy(self, part) -> None:
        def energy(x: torch.Tensor) -> torch.Tensor:
            first = x[..., 0]
            mask = first == first.amax(1, keepdim=True)  # one place in each sample
            h = x.sin()
            places = part(mask)
            h[places] = x.mean(1) if len(places) == 1 else 2 * x[:, :1]
            return h.sum((1, 2))

        with pytest.raises(
            ContractError, match=r"each place of a mask that .*test_trace\.py:\d+, in energy.*x\[mask\] = token"
        ):
            trace(make_energy(energy, torch.randn(8, 4, 3)))

    def test_masks_that_keep_shapes_are_taken(self) -> None:
        keep = torch.tensor([True, False, True])

        def masked(x: torch.Tensor) -> torch.Tensor:
            h = x.sin()
            h[x > 0] = 0.0
            return h[:, keep].sum(1)

        trace(make_energy(masked, torch.randn(8, 3)))


class TestGraph:
    def test_energy_head_can_be_left_out(self) -> None:
        energy = make_energy(Recorded(), torch.zeros(2, 3))
        full, bare = score_graph(energy), score_graph(energy, with_energy=False)
        assert [value.name for value in full.graph.outputs] == ["energy", "grad"]
        assert [value.name for value in bare.graph.outputs] == ["grad"]
        assert "Gemm" in {node.op_type for node in full.graph}
        assert "Gemm" not in {node.op_type for node in bare.graph}

    def test_names_lead_back_to_the_users_modules(self) -> None:
        model = score_graph(make_energy(Recorded(), torch.zeros(2, 3)))
        assert any(node.name.startswith("layer/") for node in model.graph)
        assert any(name.startswith("layer.weight") for name in model.graph.initializers)
        origins = [node.metadata_props.get("ebm_export.origin", "") for node in model.graph]
        assert any("module 'layer' (test_trace.py:" in origin for origin in origins)

    def test_value_and_gradient_share_one_forward_pass(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.b(torch.sigmoid(self.a(x))).sum((1, 2, 3))

        kinds = [node.op_type for node in score_graph(make_energy(Two(), torch.zeros(2, 1, 8, 8))).graph]
        # Two layers and the gradients of both; the gradient of the second needs no forward of it.
        assert kinds.count("Conv") == 4
        assert kinds.count("Sigmoid") == 1
        assert "ConvTranspose" not in kinds


class TestFolding:
    @pytest.mark.parametrize(
        "wrap",
        [
            nn.utils.spectral_norm,
            nn.utils.parametrizations.spectral_norm,
            nn.utils.parametrizations.weight_norm,
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*deprecated")
    def test_normalised_weights_are_constants(self, wrap) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = wrap(nn.Conv2d(1, 4, 3))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.conv(x).tanh().sum((1, 2, 3))

        net = Net().eval()
        net(torch.randn(2, 1, 6, 6))
        model = score_graph(make_energy(net, torch.zeros(2, 1, 6, 6)))
        for node in model.graph:
            if node.op_type == "Conv":
                assert node.inputs[1].is_initializer()
        assert len(model.graph) <= 12

    def test_batch_norm_disappears_into_the_convolution(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 1)
        )
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
        model = score_graph(make_energy(net.eval(), torch.zeros(2, 1, 6, 6)))
        assert not [node for node in model.graph if node.name.startswith("1/")]


def test_one_fake_mode_describes_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each value, which is what the tracer does by itself, takes half of the time of an export."""
    made: list[int] = []
    create = FakeTensorMode.__init__

    def counted(self: FakeTensorMode, *args: object, **options: object) -> None:
        made.append(1)
        create(self, *args, **options)

    monkeypatch.setattr(FakeTensorMode, "__init__", counted)
    net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))
    trace(make_energy(net, torch.zeros(2, 3)))
    assert 1 <= len(made) <= 4


def test_names_that_clash_with_ours_and_with_one_another() -> None:
    def energy(
        action: torch.Tensor, x: torch.Tensor, x_: torch.Tensor, grad: torch.Tensor, sample: torch.Tensor
    ) -> torch.Tensor:
        return (action * x + x_ * grad + sample * action.square()).sum(1)

    rows = {name: torch.randn(4, 3) for name in ("x", "x_", "grad", "sample")}
    made = make_energy(energy, torch.randn(4, 3), cond=rows, wrt="action")
    wanted = {"action": "x", "x": "x__", "x_": "x_", "grad": "grad_", "sample": "sample_"}
    assert input_names(made) == wanted
    assert trace(made).inputs == ("x", "x__", "x_", "grad_", "sample_", "grad_scale")
