"""Encoders: a member's past and present as one vector each.

Enters: item vectors of the history (with weights) and of the session (with kinds and gaps), padded, with masks. Leaves:
u_L and u_S. Called by `unicorn.py`. Both are pooled by attention whose query is learned, so that what is padded weighs
exactly nothing.

legend: B requests, T titles of the history, L events of the session, S either of them, D = 64, A heads
"""

import torch
from torch import Tensor, nn

KINDS = 4
MASKED = -1e9


class AttentionPool(nn.Module):
    """Sum of values with softmax weights by head; zeros when everything is masked."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.hidden = nn.Linear(inputs, width)
        self.attend = nn.Linear(width, heads)
        self.value = nn.Linear(inputs, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BSI: Tensor, mask_BS: Tensor) -> Tensor:
        """(B, D)."""
        logits_BSA = self.attend(torch.tanh(self.hidden(x_BSI))) + (1 - mask_BS[..., None]) * MASKED
        weights_BSA = torch.softmax(logits_BSA, dim=1) * mask_BS[..., None]
        values_BSAV = self.value(x_BSI).unflatten(-1, (self.heads, -1))
        pooled_BD = (weights_BSA[..., None] * values_BSAV).sum(dim=1).flatten(1)
        any_B1 = mask_BS.amax(dim=1, keepdim=True)
        out_BD: Tensor = self.out(pooled_BD) * any_B1
        return out_BD


class HistoryEncoder(nn.Module):
    """u_L: the titles of greatest weight, each with its weight (negative after a thumb down)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pool = AttentionPool(width + 1, width, heads)

    def forward(self, vectors_BTD: Tensor, weights_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """(B, D); zeros without history."""
        u_BD: Tensor = self.pool(torch.cat([vectors_BTD, weights_BT[..., None]], dim=-1), mask_BT)
        return u_BD


class SessionEncoder(nn.Module):
    """u_S: the session's events, the newest last, each with its kind, its age and its place counted from the newest."""

    def __init__(self, width: int, heads: int, events: int) -> None:
        super().__init__()
        self.kind = nn.Embedding(KINDS, 4)
        self.place = nn.Embedding(events, 8)
        self.pool = AttentionPool(width + 4 + 8 + 1, width, heads)

    def forward(self, vectors_BLD: Tensor, kinds_BL: Tensor, gaps_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, D); zeros without a session."""
        places_BL = (mask_BL.sum(dim=1, keepdim=True) - mask_BL.cumsum(dim=1)).long()
        x_BLI = torch.cat([vectors_BLD, self.kind(kinds_BL), self.place(places_BL), gaps_BL[..., None] / 10], dim=-1)
        u_BD: Tensor = self.pool(x_BLI, mask_BL)
        return u_BD
