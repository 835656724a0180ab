"""Recurrent networks over continuous tokens."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from . import Case
from .op_energy import randomise, seeded

__all__ = ["CASES"]

TOKENS = (4, 3)


class Sequence(nn.Module):
    """A recurrent module over x [B, T, 3]; the outputs and the last states make the energy."""

    def __init__(self, kind: type[nn.RNNBase], learned_start: bool = False, **options: object) -> None:
        super().__init__()
        self.batch_first = bool(options.get("batch_first", False))
        self.network = kind(3, 5, **options)
        states = self.network.num_layers * (2 if self.network.bidirectional else 1)
        self.start = nn.Linear(3, states * 5) if learned_start else None
        self.states = states
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x if self.batch_first else x.transpose(0, 1)
        start = None
        if self.start is not None:
            start = self.start(x.mean(1)).view(-1, self.states, 5).transpose(0, 1).contiguous().tanh()
            if isinstance(self.network, nn.LSTM):
                width = self.network.proj_size or 5
                start = (start[..., :width].contiguous(), start.sin())
        out, state = self.network(tokens, start)
        out = out if self.batch_first else out.transpose(0, 1)
        states = torch.cat(state, dim=-1) if isinstance(state, tuple) else state
        return out.sin().square().sum((1, 2)) + states.square().sum((0, 2))


class ProjectedLstm(Sequence):
    """An LSTM with projected states. torch warns that oneDNN lacks it, which is of no interest here."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM, proj_size=2, learned_start=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LSTM with projections", category=UserWarning)
            return super().forward(x)


class Cells(nn.Module):
    """A cell called in a Python loop over the tokens, its first state a function of x."""

    def __init__(self, kind: type[nn.RNNCellBase], **options: object) -> None:
        super().__init__()
        self.cell = kind(3, 5, **options)
        self.start = nn.Linear(3, 5)
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.start(x[:, -1]).tanh()
        memory = state.sin()
        energy = x.new_zeros(x.shape[0])
        for token in x.unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                state, memory = self.cell(token, (state, memory))
            else:
                state = self.cell(token, state)
            energy = energy + state.sin().square().sum(-1)
        return energy


class OneCell(nn.Module):
    """A cell called once without a state."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell = kind(3, 5)
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.cell(x)
        return (state[0] if isinstance(state, tuple) else state).sin().square().sum(-1)


class MixedStack(nn.Module):
    """A convolution, a GRU and a bidirectional LSTM after each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x.mT).mT.sin()
        h = self.lstm(self.gru(h)[0])[0]
        return self.head(h[:, -1]).squeeze(-1) + h[:, 0].square().sum(-1)


class LeakyIntegrator(nn.Module):
    """A recurrence written out, with in-place writes into a buffer of states."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 3) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = torch.empty_like(x)
        state = x.new_zeros(x.shape[0], 3)
        for step in range(x.shape[1]):
            state = 0.7 * state + torch.tanh(x[:, step] + state @ self.matrix)
            states[:, step] = state
        return states.square().sum((1, 2))


CASES: dict[str, Case] = {
    "rnn_tanh": Case(seeded(lambda: Sequence(nn.RNN)), TOKENS),
    "rnn_relu": Case(seeded(lambda: Sequence(nn.RNN, nonlinearity="relu", batch_first=True)), TOKENS),
    "rnn_two_layers_both_ways": Case(
        seeded(lambda: Sequence(nn.RNN, num_layers=2, bidirectional=True, batch_first=True, learned_start=True)), TOKENS
    ),
    "gru": Case(seeded(lambda: Sequence(nn.GRU)), TOKENS),
    "gru_batch_first": Case(seeded(lambda: Sequence(nn.GRU, batch_first=True, learned_start=True)), TOKENS),
    "gru_both_ways": Case(seeded(lambda: Sequence(nn.GRU, bidirectional=True)), TOKENS),
    "gru_two_layers": Case(seeded(lambda: Sequence(nn.GRU, num_layers=2, batch_first=True, dropout=0.2)), TOKENS),
    "gru_no_bias": Case(seeded(lambda: Sequence(nn.GRU, bias=False, batch_first=True)), TOKENS),
    "lstm": Case(seeded(lambda: Sequence(nn.LSTM)), TOKENS),
    "lstm_batch_first": Case(seeded(lambda: Sequence(nn.LSTM, batch_first=True, learned_start=True)), TOKENS),
    "lstm_both_ways": Case(seeded(lambda: Sequence(nn.LSTM, bidirectional=True, learned_start=True)), TOKENS),
    "lstm_two_layers": Case(seeded(lambda: Sequence(nn.LSTM, num_layers=2, batch_first=True)), TOKENS),
    "lstm_two_layers_both_ways": Case(
        seeded(lambda: Sequence(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True)), TOKENS
    ),
    "lstm_projection": Case(seeded(ProjectedLstm), TOKENS),
    "lstm_no_bias": Case(seeded(lambda: Sequence(nn.LSTM, bias=False)), TOKENS),
    "rnn_cell": Case(seeded(lambda: Cells(nn.RNNCell)), TOKENS),
    "rnn_cell_relu": Case(seeded(lambda: Cells(nn.RNNCell, nonlinearity="relu")), TOKENS),
    "gru_cell": Case(seeded(lambda: Cells(nn.GRUCell)), TOKENS),
    "gru_cell_no_bias": Case(seeded(lambda: Cells(nn.GRUCell, bias=False)), TOKENS),
    "lstm_cell": Case(seeded(lambda: Cells(nn.LSTMCell)), TOKENS),
    "gru_cell_no_state": Case(seeded(lambda: OneCell(nn.GRUCell)), (3,)),
    "lstm_cell_no_state": Case(seeded(lambda: OneCell(nn.LSTMCell)), (3,)),
    "mixed": Case(seeded(MixedStack), TOKENS),
    "written_out": Case(seeded(LeakyIntegrator), TOKENS),
}
