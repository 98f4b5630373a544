"""Feature crossing: DCN v2's low-rank cross layers.

Enters: the joined input of one candidate. Leaves: a vector of the same size with products of its parts. Called by
`unicorn.py`.

legend: ... leading axes (requests, candidates), D width of the input, R rank
"""

import torch
from torch import Tensor, nn


class CrossLayer(nn.Module):
    """x <- x0 * (U V^T x + b) + x (Wang et al.: DCN V2, WWW 2021, the low-rank form)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)
        nn.init.normal_(self.up.weight, std=0.01)
        nn.init.zeros_(self.up.bias)

    def forward(self, x0_D: Tensor, x_D: Tensor) -> Tensor:
        """One crossing; begins near the identity."""
        crossed_D: Tensor = x0_D * self.up(self.down(x_D)) + x_D
        return crossed_D


class ResidualBlock(nn.Module):
    """h <- h + W2 relu(W1 LN(h))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_H: Tensor) -> Tensor:
        """One block of the deep tower."""
        deeper_H: Tensor = h_H + self.outer(self.dropout(torch.relu(self.inner(self.norm(h_H)))))
        return deeper_H
