"""Functions of one element, or of two at the same place: powers, logarithms, angles, rounding, losses, custom rules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import Case, CondSpec
from .op_energy import op_case, rounded, seeded

__all__ = ["CASES"]

S = (3, 4)
UNIT = (-0.95, 0.95)


class Cube(torch.autograd.Function):
    """x^3 with its own, correct backward rule."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad * 3 * x * x


class StraightThroughSign(torch.autograd.Function):
    """sign(x), whose backward rule is that of hardtanh: what autograd would do by itself is wrong here."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1).to(grad.dtype)


class ScaleGradient(torch.autograd.Function):
    """Identity that multiplies the gradient by a number which is not a tensor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None


def straight_through_round(x: torch.Tensor) -> torch.Tensor:
    """Rounds to tenths, with the gradient of the identity."""
    return x + (torch.round(10 * x) / 10 - x).detach()


def with_no_grad(x: torch.Tensor) -> torch.Tensor:
    """Divides by a norm that counts as a constant."""
    with torch.no_grad():
        norm = x.square().sum(-1, keepdim=True).sqrt()
    return x.sin() / norm


def with_enable_grad(x: torch.Tensor) -> torch.Tensor:
    """Gradient on again inside a block without gradient."""
    with torch.no_grad():
        scale = x.detach().abs().amax(-1, keepdim=True)
        with torch.enable_grad():
            h = x.sin()
    return h * scale


def logit_normalised(x: torch.Tensor) -> torch.Tensor:
    """The logit of data in [0, 1], as flows use it."""
    return torch.logit(0.05 + 0.9 * torch.sigmoid(x))


class Checkpointed(nn.Module):
    """A block under torch.utils.checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4), nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = checkpoint(self.block, x, use_reentrant=False)
        return (h * x).sin().sum(-1)


class Target(nn.Module):
    """A loss between a function of x and a target given as condition."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.net = nn.Linear(4, 5)
        self.loss = loss

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = self.loss(self.net(x.sin()), target)
        return loss if loss.dim() == 1 else loss.sum(-1)


TARGET = {"target": CondSpec((5,))}
TARGET_UNIT = {"target": CondSpec((5,), low=0.05, high=0.95)}
TARGET_CLASS = {"target": CondSpec((), "int64", 0, 5)}


CASES: dict[str, Case] = {
    # choosing
    "where": op_case(lambda x: torch.where(x > 0.2, x.sin(), x.square()), S),
    "where_scalar": op_case(lambda x: torch.where(x > 0, x, 0.1) * x, S),
    "where_safe_log": op_case(lambda x: torch.where(x > 0.1, x, 1.0).log() + x, S),
    "where_other_is_x": op_case(lambda x, w: torch.where(w > 0, w, x), S, S),
    "clamp": op_case(lambda x: x.clamp(-0.7, 0.9), S),
    "clamp_min": op_case(lambda x: x.clamp(min=-0.2), S),
    "clamp_max": op_case(lambda x: x.clamp(max=0.3), S),
    "clamp_tensor_bounds": op_case(lambda x, w: torch.clamp(x, -w.abs(), w.abs()), S, (4,)),
    "clamp_bounds_from_x": op_case(lambda x: torch.clamp(x[:, :1] * 2, x[:, 1:2], x[:, 1:2] + x[:, 2:].exp()), S),
    "clamp_in_place": op_case(lambda x: (x * 2).clamp_(-1, 1) + x, S),
    "clamp_at_bounds": op_case(lambda x: rounded(x).clamp(-1, 1) + x.sin(), S),
    "abs_at_zero": op_case(lambda x: rounded(x).abs() + x.sin(), S),
    "clip": op_case(lambda x: torch.clip(x, -0.5, 0.5), S),
    "hinge": op_case(lambda x: F.relu(1 - x * x), S),
    # powers
    "abs": op_case(torch.abs, S),
    "sqrt": op_case(torch.sqrt, S, positive=True),
    "sqrt_of_square": op_case(lambda x: (x.square() + 1e-3).sqrt(), S),
    "rsqrt": op_case(torch.rsqrt, S, positive=True),
    "square": op_case(torch.square, S),
    "reciprocal": op_case(torch.reciprocal, S, positive=True),
    "divide": op_case(lambda x: x / (1 + x.square()), S),
    "divide_scalar_by": op_case(lambda x: 1.5 / (2 + x.sin()), S),
    "pow_2": op_case(lambda x: x**2, S),
    "pow_3": op_case(lambda x: x.pow(3), S),
    "pow_4": op_case(lambda x: x**4, S),
    "pow_minus_2": op_case(lambda x: x**-2, S, positive=True),
    "pow_half": op_case(lambda x: x**0.5, S, positive=True),
    "pow_float": op_case(lambda x: x.pow(1.7), S, positive=True),
    "pow_zero_and_one": op_case(lambda x: x**0 + x**1.0, S),
    "pow_tensor_exponent": op_case(lambda x, w: torch.pow(x, w), S, (4,), positive=True),
    "pow_exponent_is_x": op_case(lambda x, w: torch.pow(w.abs() + 0.5, x), S, (4,)),
    "pow_scalar_base": op_case(lambda x: 2.5**x, S),
    "pow_both": op_case(lambda x: x[:, 0] ** x[:, 1], (2, 4), positive=True),
    # exponentials
    "exp": op_case(torch.exp, S),
    "exp2": op_case(torch.exp2, S),
    "expm1": op_case(torch.expm1, S),
    "log": op_case(torch.log, S, positive=True),
    "log1p": op_case(torch.log1p, S, positive=True),
    "log2": op_case(torch.log2, S, positive=True),
    "log10": op_case(torch.log10, S, positive=True),
    "logit": op_case(torch.logit, S, range=(0.05, 0.95)),
    "logit_eps": op_case(lambda x: torch.logit(x, eps=0.2), S, range=(0.05, 0.95)),
    "logit_normalised": op_case(logit_normalised, S),
    "sigmoid": op_case(torch.sigmoid, S),
    "logaddexp": op_case(lambda x: torch.logaddexp(x[:, 0], x[:, 1] * 2), (2, 4)),
    "logaddexp2": op_case(lambda x: torch.logaddexp2(x[:, 0], x[:, 1] * 2), (2, 4)),
    "xlogy": op_case(lambda x: torch.xlogy(x, x.square() + 0.5), S),
    "xlogy_scalar": op_case(lambda x: torch.special.xlog1py(2.0, x), S, positive=True),
    "entropy_by_hand": op_case(lambda x: (torch.softmax(x, -1) * torch.log_softmax(x, -1)).sum(-1), S),
    # angles
    "sin": op_case(torch.sin, S),
    "cos": op_case(torch.cos, S),
    "tan": op_case(torch.tan, S, range=(-1.2, 1.2)),
    "asin": op_case(torch.asin, S, range=UNIT),
    "acos": op_case(torch.acos, S, range=UNIT),
    "atan": op_case(torch.atan, S),
    "sinh": op_case(torch.sinh, S),
    "cosh": op_case(torch.cosh, S),
    "tanh": op_case(torch.tanh, S),
    "asinh": op_case(torch.asinh, S),
    "acosh": op_case(torch.acosh, S, range=(1.2, 4.0)),
    "atanh": op_case(torch.atanh, S, range=UNIT),
    "atan2": op_case(lambda x: torch.atan2(x[:, 0], x[:, 1]), (2, 6)),
    "hypot": op_case(lambda x: torch.hypot(x[:, 0], x[:, 1]), (2, 6)),
    "lgamma": op_case(torch.lgamma, S, range=(0.05, 12.0)),
    "lgamma_negative": op_case(torch.lgamma, S, range=(-3.9, -3.1)),
    "digamma_of_constant": op_case(lambda x, c: x.sin() * torch.digamma(c.abs() + 0.1), S, S),
    "gamma_density": op_case(
        lambda x: torch.distributions.Gamma(x, x + 1).log_prob(x.new_tensor(0.7)), S, positive=True
    ),
    "copysign": op_case(lambda x, c: torch.copysign(x.sin(), c), S, S),
    "copysign_of_x": op_case(lambda x: torch.copysign(x[:, 0], x[:, 1]), (2, 6)),
    "copysign_number": op_case(lambda x: torch.copysign(x.sin(), -2.0), S),
    "signbit": op_case(lambda x: torch.where(torch.signbit(x), x.sin(), x.square()), S),
    "sinc": op_case(torch.sinc, S),
    "deg2rad": op_case(lambda x: torch.sin(torch.deg2rad(100 * x)), S),
    "erf": op_case(torch.erf, S),
    "erfc": op_case(torch.erfc, S),
    "normal_cdf": op_case(lambda x: 0.5 * (1 + torch.erf(x / 2**0.5)), S),
    # rounding
    "sign": op_case(lambda x: torch.sign(x) * x.sin(), S),
    "round_straight_through": op_case(straight_through_round, S),
    "round_decimals": op_case(lambda x: torch.round(x, decimals=1) * x, S),
    "floor": op_case(lambda x: (x - torch.floor(x)) * x, S),
    "ceil_trunc_frac": op_case(lambda x: torch.ceil(x) * x + torch.trunc(x) * x.sin() + torch.frac(x), S),
    "fmod": op_case(lambda x: torch.fmod(x, 0.7), S),
    "remainder": op_case(lambda x: torch.remainder(x, 0.7), S),
    "remainder_tensor": op_case(lambda x, w: torch.remainder(x, w.abs() + 0.5), S, (4,)),
    "periodic_box": op_case(lambda x: (x - 2.0 * torch.round(x / 2.0)).square(), S, x_scale=2.0),
    "floor_divide": op_case(
        lambda x: torch.floor_divide(x.detach(), 0.3) * x + torch.div(x, 0.4, rounding_mode="trunc") * x, S
    ),
    "heaviside_by_comparison": op_case(lambda x: (x > 0.1).to(x.dtype) * x.square(), S),
    "logical": op_case(lambda x: ((x > -0.5) & ~(x > 0.5) | (x < -1.5)).to(x.dtype) * x.sin() + x, S),
    "extrema_of_truths": op_case(
        lambda x: torch.maximum(x > 0.2, x < -1) * x.sin() + torch.minimum(x > -0.5, x < 1) * x, S
    ),
    "fmax_of_truths": op_case(lambda x: torch.fmax(x > 0.2, x < -1) * x.sin() + x, S),
    "choice_of_truths": op_case(lambda x: torch.where(x > 0, x < 1, x < -1) * x.sin() + x, S),
    "isfinite_nan_to_num": op_case(lambda x: torch.nan_to_num(x.sin(), nan=0.0) * torch.isfinite(x), S),
    # combinations
    "lerp": op_case(lambda x, w: torch.lerp(x, w, 0.3), S, (4,)),
    "lerp_weight_is_x": op_case(lambda x, a, b: torch.lerp(a, b, x), S, S, S),
    "addcmul": op_case(lambda x, w: torch.addcmul(w, x, x.sin(), value=0.7), S, (4,)),
    "addcdiv": op_case(lambda x: torch.addcdiv(x, x.sin(), 1 + x.square(), value=-0.4), S),
    "add_alpha": op_case(lambda x: torch.add(x, x.sin(), alpha=0.3) - torch.sub(x.cos(), x, alpha=2), S),
    "rsub": op_case(lambda x: torch.rsub(x.sin(), 2.0) * (1 - x), S),
    "neg_positive": op_case(lambda x: -x.exp() + torch.neg(x), S),
    "broadcast": op_case(lambda x, w: x.unsqueeze(1) * w + w, (3, 4), (2, 1, 1)),
    "broadcast_batch_free": op_case(lambda x, w: w * x.mean(1, keepdim=True), (3, 4), (5, 4)),
    "in_place_chain": op_case(lambda x: (x * 1.0).mul_(2).add_(0.3).sin_().div_(1.5), S),
    "integer_arithmetic": op_case(lambda x: x * torch.arange(4) + torch.arange(1, 5) / 3, S),
    "double_inside": op_case(lambda x: torch.sin(x.double()).to(x.dtype) * x, S),
    "scalar_tensor": op_case(lambda x, w: x * w + torch.tensor(0.3, dtype=x.dtype) * x.sin(), S, ()),
    "ones_zeros_full_like": op_case(
        lambda x: (x + torch.ones_like(x)) * torch.full_like(x, 0.7) - torch.zeros_like(x) + x.new_full((4,), 0.2), S
    ),
    "linspace_grid": op_case(lambda x: torch.exp(-(x.unsqueeze(-1) - torch.linspace(-1, 1, 5).to(x)).square()), S),
    # losses
    "mse_loss": Case(seeded(lambda: Target(lambda h, t: F.mse_loss(h, t, reduction="none"))), (4,), TARGET),
    "l1_loss": Case(seeded(lambda: Target(lambda h, t: F.l1_loss(h, t, reduction="none"))), (4,), TARGET),
    "huber_loss": Case(
        seeded(lambda: Target(lambda h, t: F.huber_loss(h, t, reduction="none", delta=0.6))), (4,), TARGET
    ),
    "smooth_l1_loss": Case(
        seeded(lambda: Target(lambda h, t: F.smooth_l1_loss(h, t, reduction="none", beta=0.5))), (4,), TARGET
    ),
    "bce_with_logits": Case(
        seeded(lambda: Target(lambda h, t: F.binary_cross_entropy_with_logits(h, t, reduction="none"))),
        (4,),
        TARGET_UNIT,
    ),
    "bce": Case(
        seeded(lambda: Target(lambda h, t: F.binary_cross_entropy(h.sigmoid(), t, reduction="none"))), (4,), TARGET_UNIT
    ),
    "cross_entropy": Case(
        seeded(lambda: Target(lambda h, t: F.cross_entropy(h, t, reduction="none"))), (4,), TARGET_CLASS
    ),
    "cross_entropy_label_smoothing": Case(
        seeded(lambda: Target(lambda h, t: F.cross_entropy(h, t, reduction="none", label_smoothing=0.1))),
        (4,),
        TARGET_CLASS,
    ),
    "cross_entropy_probabilities": Case(
        seeded(lambda: Target(lambda h, t: F.cross_entropy(h, t, reduction="none"))), (4,), TARGET_UNIT
    ),
    "nll_loss": Case(
        seeded(lambda: Target(lambda h, t: F.nll_loss(h.log_softmax(-1), t, reduction="none"))), (4,), TARGET_CLASS
    ),
    "kl_div": Case(
        seeded(lambda: Target(lambda h, t: F.kl_div(h.log_softmax(-1), t, reduction="none"))), (4,), TARGET_UNIT
    ),
    "gaussian_nll": Case(
        seeded(lambda: Target(lambda h, t: F.gaussian_nll_loss(h, t, F.softplus(h) + 0.1, reduction="none"))),
        (4,),
        TARGET,
    ),
    "poisson_nll": Case(
        seeded(lambda: Target(lambda h, t: F.poisson_nll_loss(h, t, reduction="none"))), (4,), TARGET_UNIT
    ),
    "soft_margin": Case(
        seeded(lambda: Target(lambda h, t: F.soft_margin_loss(h, t.sign(), reduction="none"))), (4,), TARGET
    ),
    # what stops or replaces the gradient
    "custom_function": op_case(Cube.apply, S),
    "custom_function_other_gradient": op_case(lambda x: StraightThroughSign.apply(x) * x.cos(), S),
    "custom_function_scalar_argument": op_case(lambda x: ScaleGradient.apply(x.sin(), 0.3) + x, S),
    "detach": op_case(lambda x: x.sin() * x.cos().detach(), S),
    "detach_target": op_case(
        lambda x, w: (torch.tanh(x @ w) - torch.tanh(x @ w).detach() * 0.5).square(), (4,), (4, 5)
    ),
    "no_grad_block": op_case(with_no_grad, S),
    "enable_grad_block": op_case(with_enable_grad, S),
    "checkpoint": Case(seeded(Checkpointed), (4,)),
}
