"""SASRec: a causal transformer over the history (Kang and McAuley, Self-Attentive Sequential Recommendation, 2018).

Enters: embedded histories, optional times. Leaves: states. Called through `HistoryModel`. Pre-norm blocks; where times
exist, the gap since the engagement before is added to each place.

legend: B histories, T places, D width, H heads, K = D / H
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from model.history.config import EncoderConfig
from model.history.encoder import GAP_BUCKETS, START_SCALE, HistoryEncoder, by_head, gap_buckets

WIDER = 4


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D)."""
        mixed_BTD = self.qkv(self.attention_norm(x_BTD)).chunk(3, dim=-1)
        q_BHTK, k_BHTK, v_BHTK = (by_head(y_BTD, self.heads) for y_BTD in mixed_BTD)
        seen_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        x_BTD = x_BTD + self.dropout(self.out(seen_BHTK.transpose(1, 2).flatten(2)))
        y_BTD: Tensor = x_BTD + self.dropout(self.narrow(gelu(self.wide(self.forward_norm(x_BTD)))))
        return y_BTD


class SASRec(HistoryEncoder):
    """The encoder; its item vectors are the ones that the history is read with (tied)."""

    def __init__(self, config: EncoderConfig, titles: int) -> None:
        super().__init__(config, titles)
        self.gap = nn.Embedding(GAP_BUCKETS, config.width)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.gap.weight, std=START_SCALE)

    def blocks_of(self, x_BTD: Tensor, times_BT: Tensor | None) -> Tensor:
        """(B, T, D); causal."""
        if times_BT is not None:
            x_BTD = x_BTD + self.gap(gap_buckets(torch.diff(times_BT, dim=1, prepend=times_BT[:, :1])))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        states_BTD: Tensor = self.norm(x_BTD)
        return states_BTD
