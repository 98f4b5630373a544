"""Encoders: a member's past and present as one vector each.

Enters: item vectors of the history (with weights) and of the session (with kinds and gaps), padded, with masks. Leaves:
u_L and u_S. Called by `unicorn.py`. Whatever the form, what is padded weighs exactly nothing.

legend: B requests, T titles of the history, L events of the session, S either of them, I input of one, D = 64, A heads
of V each
"""

import torch
from torch import Tensor, nn

from model.config import SessionForm

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


class LongTermEncoder(nn.Module):
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

    def __init__(self, width: int, heads: int, events: int, form: SessionForm) -> None:
        super().__init__()
        self.kind = nn.Embedding(KINDS, 4)
        self.place = nn.Embedding(events, 8)
        inputs = width + 4 + 8 + 1
        self.pool: AttentionPool | RecurrentPool | CausalBlock
        if form == SessionForm.GRU:
            self.pool = RecurrentPool(inputs, width)
        elif form == SessionForm.CAUSAL:
            self.pool = CausalBlock(inputs, width, heads)
        else:
            self.pool = AttentionPool(inputs, width, heads)

    def forward(self, vectors_BLD: Tensor, kinds_BL: Tensor, gaps_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, D); zeros without a session."""
        places_BL = (mask_BL.sum(dim=1, keepdim=True) - mask_BL.cumsum(dim=1)).long()
        x_BLI = torch.cat([vectors_BLD, self.kind(kinds_BL), self.place(places_BL), gaps_BL[..., None] / 10], dim=-1)
        u_BD: Tensor = self.pool(x_BLI, mask_BL)
        return u_BD


class RecurrentPool(nn.Module):
    """What a GRU holds after the last event."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, batch_first=True)
        self.width = width

    def forward(self, x_BLI: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, D); zeros when everything is masked."""
        states_BLD, _ = self.gru(x_BLI, x_BLI.new_zeros(1, x_BLI.shape[0], self.width))
        last_BD: Tensor = (states_BLD * newest(mask_BL)[..., None]).sum(dim=1)
        return last_BD


class CausalBlock(nn.Module):
    """The newest event's place in one causal transformer block: it attends to all events before it and to itself."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.enter = nn.Linear(inputs, width)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.deep = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x_BLI: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, D); zeros when everything is masked."""
        x_BLD = self.enter(x_BLI)
        newest_BL1 = newest(mask_BL)[..., None]
        normed_BLD = self.norm(x_BLD)
        query_BAV = self.query((normed_BLD * newest_BL1).sum(dim=1)).unflatten(-1, (self.heads, -1))
        keys_BLD, values_BLD = self.key_value(normed_BLD).chunk(2, dim=-1)
        keys_BLAV, values_BLAV = (part.unflatten(-1, (self.heads, -1)) for part in (keys_BLD, values_BLD))
        logits_BLA = (keys_BLAV * query_BAV[:, None]).sum(dim=-1) / query_BAV.shape[-1] ** 0.5
        weights_BLA = torch.softmax(logits_BLA + (1 - mask_BL[..., None]) * MASKED, dim=1)
        pooled_BD = (weights_BLA[..., None] * values_BLAV).sum(dim=1).flatten(1)
        u_BD = (x_BLD * newest_BL1).sum(dim=1) + self.attended(pooled_BD)
        out_BD: Tensor = (u_BD + self.deep(u_BD)) * mask_BL.amax(dim=1, keepdim=True)
        return out_BD


def newest(mask_BL: Tensor) -> Tensor:
    """(B, L) 1 at the last event, 0 elsewhere; events stand before the padding."""
    return mask_BL * (mask_BL.cumsum(dim=1) == mask_BL.sum(dim=1, keepdim=True)).float()
