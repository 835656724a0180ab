"""Every activation of torch.nn, with its options, as a module, as a function and in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from . import Case
from .op_energy import module_case, op_case, rounded

__all__ = ["CASES"]

S = (3, 5)
IMAGE = (4, 5, 4)


def after_linear(activation: nn.Module) -> nn.Sequential:
    """Puts a linear layer before the activation: an in-place one may not write to x itself."""
    return nn.Sequential(nn.Linear(5, 6), activation)


CASES: dict[str, Case] = {
    "relu": module_case(nn.ReLU, S),
    "relu_in_place": module_case(lambda: after_linear(nn.ReLU(inplace=True)), (5,)),
    "relu_functional_in_place": op_case(lambda x: F.relu_(x * 2 - 0.3) + x, S),
    "relu_method": op_case(lambda x: (x + 0.1).relu() * (0.2 - x).relu_(), S),
    "relu_squared": op_case(lambda x: x.relu().square(), S),
    "relu6": module_case(nn.ReLU6, S, x_scale=5.0),
    "relu6_in_place": module_case(lambda: after_linear(nn.ReLU6(inplace=True)), (5,), x_scale=5.0),
    "leaky_relu": module_case(nn.LeakyReLU, S),
    "leaky_relu_slope": module_case(lambda: nn.LeakyReLU(0.3), S),
    "leaky_relu_in_place": module_case(lambda: after_linear(nn.LeakyReLU(0.2, inplace=True)), (5,)),
    "prelu_one": module_case(nn.PReLU, S),
    "prelu_per_channel": module_case(lambda: nn.PReLU(4), IMAGE),
    "prelu_per_feature": module_case(lambda: nn.PReLU(5), (5,)),
    "rrelu": module_case(lambda: nn.RReLU(0.1, 0.4), S),
    "rrelu_in_place": module_case(lambda: after_linear(nn.RReLU(inplace=True)), (5,)),
    "elu": module_case(nn.ELU, S),
    "elu_alpha": module_case(lambda: nn.ELU(0.5), S),
    "elu_in_place": module_case(lambda: after_linear(nn.ELU(1.5, inplace=True)), (5,)),
    "celu": module_case(nn.CELU, S),
    "celu_alpha": module_case(lambda: nn.CELU(0.7), S),
    "celu_in_place": module_case(lambda: after_linear(nn.CELU(2.0, inplace=True)), (5,)),
    "selu": module_case(nn.SELU, S),
    "selu_in_place": module_case(lambda: after_linear(nn.SELU(inplace=True)), (5,)),
    "gelu": module_case(nn.GELU, S),
    "gelu_tanh": module_case(lambda: nn.GELU("tanh"), S),
    "silu": module_case(nn.SiLU, S),
    "silu_in_place": module_case(lambda: after_linear(nn.SiLU(inplace=True)), (5,)),
    "mish": module_case(nn.Mish, S),
    "mish_in_place": module_case(lambda: after_linear(nn.Mish(inplace=True)), (5,)),
    "sigmoid": module_case(nn.Sigmoid, S),
    "sigmoid_in_place": op_case(lambda x: (x * 2).sigmoid_(), S),
    "swish_by_hand": op_case(lambda x: x * torch.sigmoid(1.7 * x), S),
    "log_sigmoid": module_case(nn.LogSigmoid, S, x_scale=4.0),
    "softplus": module_case(nn.Softplus, S),
    "softplus_beta": module_case(lambda: nn.Softplus(beta=3.0), S),
    "softplus_threshold": module_case(lambda: nn.Softplus(beta=2.0, threshold=2.0), S, x_scale=2.0),
    "softplus_wide": module_case(nn.Softplus, S, x_scale=20.0),
    "softsign": module_case(nn.Softsign, S),
    "tanh": module_case(nn.Tanh, S),
    "tanh_in_place": op_case(lambda x: (x * 2).tanh_(), S),
    "tanhshrink": module_case(nn.Tanhshrink, S),
    "hardshrink": module_case(nn.Hardshrink, S),
    "hardshrink_lambda": module_case(lambda: nn.Hardshrink(0.9), S),
    "softshrink": module_case(nn.Softshrink, S),
    "softshrink_lambda": module_case(lambda: nn.Softshrink(0.2), S),
    "threshold": module_case(lambda: nn.Threshold(0.2, 1.5), S),
    "threshold_in_place": module_case(lambda: after_linear(nn.Threshold(-0.1, -3.0, inplace=True)), (5,)),
    "hardtanh": module_case(nn.Hardtanh, S),
    "hardtanh_limits": module_case(lambda: nn.Hardtanh(-0.5, 2.0), S, x_scale=2.0),
    "hardtanh_in_place": module_case(lambda: after_linear(nn.Hardtanh(inplace=True)), (5,)),
    "hardswish": module_case(nn.Hardswish, S, x_scale=3.0),
    "hardswish_in_place": module_case(lambda: after_linear(nn.Hardswish(inplace=True)), (5,), x_scale=4.0),
    "hardsigmoid": module_case(nn.Hardsigmoid, S, x_scale=3.0),
    "hardsigmoid_in_place": module_case(lambda: after_linear(nn.Hardsigmoid(inplace=True)), (5,), x_scale=4.0),
    "glu": module_case(nn.GLU, (3, 6)),
    "glu_channel": module_case(lambda: nn.GLU(1), IMAGE),
    "swiglu_by_hand": op_case(lambda x, w, v: F.silu(x @ w) * (x @ v), (4,), (4, 5), (4, 5)),
    "softmax": module_case(lambda: nn.Softmax(-1), S),
    "softmax_middle_dim": module_case(lambda: nn.Softmax(1), IMAGE),
    "softmax_large_logits": module_case(lambda: nn.Softmax(-1), S, x_scale=8.0),
    "softmin": module_case(lambda: nn.Softmin(1), S),
    "softmax2d": module_case(nn.Softmax2d, IMAGE),
    "log_softmax": module_case(lambda: nn.LogSoftmax(-1), S),
    "log_softmax_middle_dim": module_case(lambda: nn.LogSoftmax(1), IMAGE),
    "logsumexp": op_case(lambda x: torch.logsumexp(x, dim=-1), S),
    "logsumexp_dims_keepdim": op_case(lambda x: torch.logsumexp(x, dim=(1, 3), keepdim=True) - x, IMAGE),
    "logsumexp_large": op_case(lambda x: torch.logsumexp(x, dim=1) / 50, S, x_scale=50.0),
    "softmax_temperature": op_case(lambda x: F.softmax(x / 0.3, dim=1) * x, S),
    "normalize_softmax": op_case(lambda x: F.normalize(F.softmax(x, dim=-1), dim=-1), S),
    "crelu": op_case(lambda x: torch.cat([x.relu(), (-x).relu()], dim=1), S),
    "maxout": op_case(lambda x: x.unflatten(1, (3, 2)).amax(2), (6, 5)),
    "snake": op_case(lambda x, a: x + torch.sin(a * x).square() / (a.square() + 0.1).sqrt(), S, (3, 1)),
    "sine": op_case(lambda x, w: torch.sin(3.0 * (x @ w)), (4,), (4, 6)),
    # exactly at the kink
    "relu_at_zero": op_case(lambda x: F.relu(rounded(x)) + x.sin(), S),
    "relu6_at_bounds": op_case(lambda x: F.relu6(rounded(x)) / 6 + x.sin(), S, x_scale=4.0),
    "leaky_relu_at_zero": op_case(lambda x: F.leaky_relu(rounded(x), 0.3) + x.sin(), S),
    "elu_at_zero": op_case(lambda x: F.elu(rounded(x), 0.5) + x.sin(), S),
    "prelu_at_zero": op_case(lambda x, w: F.prelu(rounded(x), w) + x.sin(), S, (1,)),
    "hardtanh_at_bounds": op_case(lambda x: F.hardtanh(rounded(x)) + x.sin(), S),
    "hardsigmoid_at_bounds": op_case(lambda x: F.hardsigmoid(rounded(x)) + x.sin(), S, x_scale=3.0),
    "hardswish_at_bounds": op_case(lambda x: F.hardswish(rounded(x)) + x.sin(), S, x_scale=3.0),
    "softshrink_at_bounds": op_case(lambda x: F.softshrink(rounded(x), 1.0) + x.sin(), S),
    "hardshrink_at_bounds": op_case(lambda x: F.hardshrink(rounded(x), 1.0) + x.sin(), S),
    "threshold_at_bound": op_case(lambda x: F.threshold(rounded(x), 1.0, 0.3) + x.sin(), S),
}
