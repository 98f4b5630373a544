"""HSTU: attention without softmax (Zhai et al., Actions Speak Louder than Words, ICML 2024, section 3).

Enters: embedded histories, optional times. Leaves: states. Called through `HistoryModel`.

    U, V, Q, K = split(SiLU(linear(norm(X))))
    A          = SiLU(Q K^T + bias by distance + bias by time) / length, causal
    Y          = X + linear(norm(A V) * U)

No softmax: the weights do not sum to one, so that how often something happened is not lost. There is no feed-forward
layer; U gates instead.

legend: B histories, T places (twice: asking, asked), D width, H heads, K = D / H
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from model.history.config import EncoderConfig
from model.history.encoder import GAP_BUCKETS, START_SCALE, HistoryEncoder, by_head, gap_buckets

# The sums of SiLU weights over `length` are small at first; a larger epsilon would flatten them.
NORM_EPSILON = 1e-6


class HstuBlock(nn.Module):
    """One layer, with a bias by distance and one by time gap for each head."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.length = config.heads, config.length
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.seen_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.by_distance = nn.Embedding(config.length, config.heads)
        self.by_gap = nn.Embedding(GAP_BUCKETS, config.heads)
        for weight in (self.uvqk.weight, self.by_distance.weight, self.by_gap.weight):
            nn.init.normal_(weight, std=START_SCALE)

    def forward(self, x_BTD: Tensor, distances_TT: Tensor, gaps_BTT: Tensor | None) -> Tensor:
        """(B, T, D); `distances_TT` is negative where a place must not look."""
        mixed_BTD = silu(self.uvqk(self.norm(x_BTD))).chunk(4, dim=-1)
        u_BTD = mixed_BTD[0]
        v_BHTK, q_BHTK, k_BHTK = (by_head(y_BTD, self.heads) for y_BTD in mixed_BTD[1:])
        scores_BHTT = q_BHTK @ k_BHTK.transpose(-1, -2) + self.by_distance(distances_TT.clamp(min=0)).permute(2, 0, 1)
        if gaps_BTT is not None:
            scores_BHTT = scores_BHTT + self.by_gap(gaps_BTT).permute(0, 3, 1, 2)
        weights_BHTT = silu(scores_BHTT) * ((distances_TT >= 0) / self.length)
        seen_BTD = (weights_BHTT @ v_BHTK).transpose(1, 2).flatten(2)
        y_BTD: Tensor = x_BTD + self.out(self.dropout(self.seen_norm(seen_BTD) * u_BTD))
        return y_BTD


class HSTU(HistoryEncoder):
    """The encoder; its item vectors are the ones that the history is read with (tied)."""

    def __init__(self, config: EncoderConfig, titles: int) -> None:
        super().__init__(config, titles)
        self.blocks = nn.ModuleList(HstuBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def blocks_of(self, x_BTD: Tensor, times_BT: Tensor | None) -> Tensor:
        """(B, T, D); causal."""
        places_T = torch.arange(x_BTD.shape[1])
        distances_TT = places_T[:, None] - places_T[None, :]
        gaps_BTT = None if times_BT is None else gap_buckets(times_BT[:, :, None] - times_BT[:, None, :])
        for block in self.blocks:
            x_BTD = block(x_BTD, distances_TT, gaps_BTT)
        states_BTD: Tensor = self.norm(x_BTD)
        return states_BTD
