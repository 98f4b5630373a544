"""The gate: how much of the moment and how much of the member's past a request is answered with.

Enters: the long-term and the short-term vector, and which of them exist. Leaves: g in [0, 1] and the blended user
vector. Called by `unicorn.py`.

legend: B requests, D = 64, C size of the task embedding
"""

import torch
from torch import Tensor, nn

HIDDEN = 32


class Gate(nn.Module):
    """g = sigmoid(MLP[LN u_L, LN u_S, task, lengths]); no session: g = 0; no history: g = 1; neither: a learned
    anonymous vector.
    """

    def __init__(self, width: int, task_width: int) -> None:
        super().__init__()
        self.norm_long = nn.LayerNorm(width)
        self.norm_short = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(2 * width + task_width + 2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.anonymous_D = nn.Parameter(torch.zeros(width))

    def forward(
        self, long_BD: Tensor, short_BD: Tensor, task_BC: Tensor, long_length_B1: Tensor, short_length_B1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """g (B, 1), the blended vector, and its two addends (1-g) LN(u_L) and g LN(u_S), all (B, D); lengths are counts
        of what was there.
        """
        has_long_B1, has_short_B1 = (long_length_B1 > 0).float(), (short_length_B1 > 0).float()
        long_BD = self.norm_long(long_BD) * has_long_B1
        short_BD = self.norm_short(short_BD) * has_short_B1
        lengths_B2 = torch.log1p(torch.cat([long_length_B1, short_length_B1], dim=1))
        learned_B1 = torch.sigmoid(self.mlp(torch.cat([long_BD, short_BD, task_BC, lengths_B2], dim=1)))
        g_B1 = has_short_B1 * (has_long_B1 * learned_B1 + (1 - has_long_B1))
        long_BD = (1 - g_B1) * long_BD
        short_BD = g_B1 * short_BD
        nobody_B1 = (1 - has_long_B1) * (1 - has_short_B1)
        return g_B1, long_BD + short_BD + nobody_B1 * self.anonymous_D, long_BD, short_BD
