"""Layer-normalized recurrent layers in PyTorch, for TorchScript: cells in a loop over time."""

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """LN-LSTM over (T, B, D), as PyTorch's own benchmark of custom LSTMs writes it."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        self.features = features
        self.input = nn.Linear(inputs, 4 * features, bias=False)
        self.recurrent = nn.Linear(features, 4 * features, bias=False)
        self.norm_x, self.norm_h = nn.LayerNorm(4 * features), nn.LayerNorm(4 * features)
        self.norm_c = nn.LayerNorm(features)

    def forward(self, xs: Tensor) -> Tensor:
        h = torch.zeros(xs.shape[1], self.features)
        c = torch.zeros(xs.shape[1], self.features)
        ys: list[Tensor] = []
        for x in xs.unbind(0):
            summed = self.norm_x(self.input(x)) + self.norm_h(self.recurrent(h))
            i, f, g, o = summed.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_c(c))
            ys += [h]
        return torch.stack(ys)


class GRU(nn.Module):
    """LN-GRU over (T, B, D)."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        self.features = features
        self.input = nn.Linear(inputs, 3 * features, bias=False)
        self.recurrent = nn.Linear(features, 3 * features, bias=False)
        self.gates_x, self.gates_h = nn.LayerNorm(2 * features), nn.LayerNorm(2 * features)
        self.candidate_x, self.candidate_h = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, xs: Tensor) -> Tensor:
        h = torch.zeros(xs.shape[1], self.features)
        ys: list[Tensor] = []
        for x in xs.unbind(0):
            of_x, of_h = self.input(x), self.recurrent(h)
            width = 2 * self.features
            gates = self.gates_x(of_x[:, :width]) + self.gates_h(of_h[:, :width])
            r, z = torch.sigmoid(gates).chunk(2, 1)
            n = torch.tanh(
                self.candidate_x(of_x[:, width:]) + r * self.candidate_h(of_h[:, width:])
            )
            h = (1 - z) * h + z * n
            ys += [h]
        return torch.stack(ys)


class Simple(nn.Module):
    """Simple RNN over (T, B, D), its summed inputs normalized once."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        self.features = features
        self.input = nn.Linear(inputs, features, bias=False)
        self.recurrent = nn.Linear(features, features, bias=False)
        self.norm = nn.LayerNorm(features)

    def forward(self, xs: Tensor) -> Tensor:
        h = torch.zeros(xs.shape[1], self.features)
        ys: list[Tensor] = []
        for x in xs.unbind(0):
            h = torch.tanh(self.norm(self.input(x) + self.recurrent(h)))
            ys += [h]
        return torch.stack(ys)


LAYERS = {"lstm": LSTM, "gru": GRU, "simple": Simple}
