"""Rules that stand for an operation's value, against that operation; float64 is the referee."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ebm_export.exporter.rules import decompositions

aten = torch.ops.aten
TABLE = decompositions()
EDGES = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 1.0, -1.0, 3.5, -3.5, 20.0, -20.0, 90.0, -90.0])


@pytest.mark.parametrize(
    ("operation", "arguments", "options"),
    [
        (aten.gelu.default, (), {}),
        (aten.gelu.default, (), {"approximate": "tanh"}),
        (aten.elu.default, (1.3,), {}),
        (aten.elu.default, (1.0, 1.05, 0.7), {}),
        (aten.round.decimals, (), {"decimals": 2}),
    ],
)
def test_elementwise_at_the_edges(operation, arguments, options) -> None:
    exact = operation(EDGES.double(), *arguments, **options)
    ours = TABLE[operation](EDGES, *arguments, **options).double()
    theirs = operation(EDGES, *arguments, **options).double()
    # No further from float64 than PyTorch's own float32, but for two units in the last place.
    slack = 2 * torch.finfo(torch.float32).eps * exact.abs() + 1e-37
    assert ((ours - exact).abs() <= (theirs - exact).abs() + slack).all(), (ours - exact, theirs - exact)


def test_atan2_in_every_octant_and_on_the_axes() -> None:
    angles = torch.linspace(-math.pi + 0.01, math.pi, 33, dtype=torch.float64)
    y, x = torch.sin(angles) * 3, torch.cos(angles) * 3
    torch.testing.assert_close(TABLE[aten.atan2.default](y, x), torch.atan2(y, x))
    zero, one = torch.zeros(4), torch.ones(4)
    for a, b in ((zero, one), (one, zero), (-one, zero), (zero, -one), (zero, zero)):
        torch.testing.assert_close(TABLE[aten.atan2.default](a, b), torch.atan2(a, b))


def test_erfc_keeps_its_bits_where_it_is_small() -> None:
    x = torch.linspace(-9, 9, 20_001)
    exact = torch.erfc(x.double())
    error = (TABLE[aten.erfc.default](x).double() - exact).abs() / exact
    # The formula's own 1.2e-7, three units in the last place, and those of the exponent, which is as large as x^2.
    assert (error < 1.2e-7 + torch.finfo(torch.float32).eps * (3 + x.double().clamp(min=0) ** 2)).all()
    at = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 30.0])
    torch.testing.assert_close(TABLE[aten.erfc.default](at), torch.erfc(at), equal_nan=True)


GAMMA = {aten.lgamma.default: torch.lgamma, aten.digamma.default: torch.digamma}


@pytest.mark.parametrize("operation", GAMMA, ids=str)
@pytest.mark.parametrize(
    ("low", "high"),
    [(1e-30, 1e-20), (1e-6, 0.5), (0.5, 2.5), (2.5, 8.0), (8.0, 100.0), (100.0, 1e30), (-0.49, -1e-7), (-60.5, -0.5)],
)
def test_gamma_over_the_real_line(operation, low: float, high: float) -> None:
    x = torch.linspace(low, high, 20_001)
    exact = GAMMA[operation](x.double())
    ours, theirs = (value.double() for value in (TABLE[operation](x), operation(x)))
    known = torch.isfinite(exact) & torch.isfinite(theirs)
    # Four units in the last place of the larger of the result and the terms that it is a sum of, which are at most
    # lgamma(1 - x) below zero and about one between; near the poles PyTorch's own error says what can be had.
    terms = torch.where(x < 0, torch.lgamma(1 - x.double()).abs(), 0.0).clamp(min=1.0)
    slack = 4 * torch.finfo(torch.float32).eps * torch.maximum(exact.abs(), terms)
    assert ((ours - exact).abs() <= 2 * (theirs - exact).abs() + slack)[known].all()


def test_gamma_at_its_zeros_and_poles() -> None:
    at = torch.tensor([0.0, -1.0, -7.0, -1e9, 1.0, 2.0, math.inf, math.nan, 1e-38])
    for operation, function in GAMMA.items():
        torch.testing.assert_close(TABLE[operation](at), function(at), equal_nan=True)


def test_the_sign_of_a_zero_is_looked_at() -> None:
    at = torch.tensor([0.0, -0.0, 1e-40, -1e-40, math.inf, -math.inf, 2.0, -2.0])
    assert torch.equal(TABLE[aten.signbit.default](at), torch.signbit(at))
    for sign in (2.0, -0.0):
        assert torch.equal(1 / TABLE[aten.copysign.Scalar](at, sign), 1 / torch.copysign(at, sign))
    assert torch.equal(1 / TABLE[aten.copysign.Tensor](at, at.flip(0)), 1 / torch.copysign(at, at.flip(0)))


@pytest.mark.parametrize("right", [False, True])
def test_buckets_at_boundaries_and_beyond(right: bool) -> None:
    boundaries = torch.tensor([-1.0, 0.0, 0.0, 2.5])
    at = torch.tensor([-math.inf, -1.0, -0.5, 0.0, 1.0, 2.5, 3.0, math.inf, math.nan])
    ours = TABLE[aten.bucketize.Tensor](at, boundaries, right=right)
    assert torch.equal(ours, torch.bucketize(at, boundaries, right=right))
    shuffled, order = boundaries.flip(0), torch.tensor([3, 2, 1, 0])
    ours = TABLE[aten.searchsorted.Tensor](shuffled, at, right=right, sorter=order, out_int32=True)
    theirs = torch.searchsorted(shuffled, at, right=right, sorter=order, out_int32=True)
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_hypot_does_not_overflow() -> None:
    big = torch.tensor([1e30, 0.0, 3.0])
    torch.testing.assert_close(TABLE[aten.hypot.default](big, big), torch.hypot(big, big))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (4, 3, 2), (2, 3, 0)])
def test_max_pool_gradient_gives_ties_to_the_first(kernel: int, stride: int, padding: int, ceil_mode: bool) -> None:
    x = torch.randint(0, 3, (2, 3, 9, 10)).double().requires_grad_()  # many equal values in a window
    options = (kernel, stride, padding, 1, ceil_mode)
    out, indices = F.max_pool2d(x, *options, return_indices=True)
    grad = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, x, grad)
    rule = TABLE[aten.max_pool2d_with_indices_backward.default]
    lists = ([kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], ceil_mode, indices)
    torch.testing.assert_close(rule(grad.float(), x.detach().float(), *lists).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, math.inf])
def test_distances_where_points_coincide(p: float) -> None:
    a = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 0.0], [1.0, 5.0]], dtype=torch.float64)
    distance = aten._cdist_forward.default(a, b, p, None)
    torch.testing.assert_close(TABLE[aten._cdist_forward.default](a, b, p, None), distance)
    grad = torch.randn_like(distance)
    expected = aten._cdist_backward.default(grad, a, b, p, distance)
    torch.testing.assert_close(TABLE[aten._cdist_backward.default](grad, a, b, p, distance), expected)


@pytest.mark.parametrize("size", [(3, 7), (5, 12), (11, 4)])
def test_upsampling_is_its_matrix(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    for name in ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
        for corners in (False, True):
            operation = getattr(aten, name).default
            expected = operation(x, list(size), corners, None, None)
            torch.testing.assert_close(
                TABLE[operation](x, list(size), corners, None, None), expected, rtol=1e-6, atol=1e-6
            )


def test_running_products_through_zero() -> None:
    x = torch.tensor([[2.0, 0.0, 3.0, -1.0]])
    torch.testing.assert_close(TABLE[aten.cumprod.default](x, 1), torch.cumprod(x, 1))


@pytest.mark.parametrize("operation", [aten.cummax.default, aten.cummin.default], ids=str)
def test_running_extremes_are_at_the_last_of_equal_places(operation) -> None:
    x = torch.randint(0, 3, (4, 7, 5), generator=torch.Generator().manual_seed(0)).float()
    x[0], x[1] = torch.inf, -torch.inf
    for dim in (0, 1, -1):
        for ours, theirs in zip(TABLE[operation](x, dim), operation(x, dim), strict=True):
            assert torch.equal(ours, theirs)


def test_no_rule_is_for_an_operation_that_does_not_exist() -> None:
    assert all(
        isinstance(operation, torch._ops.OpOverload)
        for operation in TABLE
        if operation is not torch.ops.higher_order.out_dtype
    )
