"""The interface of the history encoders, and what they share: the titles' vectors and the way in.

Enters: item indices of histories, oldest first, right-padded with 0, and optional times in seconds. Leaves: a vector
for every place and for every title; their inner product says how likely the title comes next. Called by the training,
the ranking and whoever needs a user's long-term vector.

legend: B histories, T places, D width, H heads, K = D / H, V titles (index 0 is padding)
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from model.history.config import EncoderConfig

START_SCALE = 0.02
GAP_BUCKETS = 64
# Bucket of a gap: floor(log(1 + seconds) / 0.301), as HSTU's authors cut it; 64 buckets reach beyond seven years.
GAP_STEP = 0.301


class HistoryModel(Protocol):
    """What an encoder can do; everything else may differ."""

    config: EncoderConfig

    def states(self, items_BT: Tensor, times_BT: Tensor | None = None) -> Tensor:
        """(B, T, D): after each place, what the user is now; a place knows nothing that comes after it."""

    def item_vectors(self) -> Tensor:
        """(V, D): every title; row 0 is padding and stands for nothing."""

    def encode(self, items_BT: Tensor, times_BT: Tensor | None = None) -> Tensor:
        """(B, D): the user's vector after the whole history; zeros for an empty one."""


class HistoryEncoder(nn.Module):
    """Base of the encoders: subclasses give `blocks_of`, from the embedded history to the states."""

    def __init__(self, config: EncoderConfig, titles: int) -> None:
        super().__init__()
        self.config = config
        self.item = nn.Embedding(titles + 1, config.width)
        self.place = nn.Embedding(config.length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.item.weight, std=START_SCALE)
        nn.init.normal_(self.place.weight, std=START_SCALE)

    def blocks_of(self, x_BTD: Tensor, times_BT: Tensor | None) -> Tensor:
        """(B, T, D); causal."""
        raise NotImplementedError

    def states(self, items_BT: Tensor, times_BT: Tensor | None = None) -> Tensor:
        """See `HistoryModel`."""
        places_T = torch.arange(items_BT.shape[1])
        x_BTD = self.item(items_BT) * self.config.width**0.5 + self.place(places_T)
        states_BTD = self.blocks_of(self.dropout(x_BTD), times_BT if self.config.timed else None)
        if self.config.temperature is None:
            return states_BTD
        return normalize(states_BTD, dim=-1) / self.config.temperature

    def item_vectors(self) -> Tensor:
        """See `HistoryModel`."""
        return self.item.weight if self.config.temperature is None else normalize(self.item.weight, dim=-1)

    def encode(self, items_BT: Tensor, times_BT: Tensor | None = None) -> Tensor:
        """See `HistoryModel`."""
        counts_B = (items_BT > 0).sum(dim=1)
        states_BTD = self.states(items_BT, times_BT)
        last_BD = states_BTD[torch.arange(len(items_BT)), (counts_B - 1).clamp(min=0)]
        return last_BD * (counts_B > 0)[:, None]


def gap_buckets(gaps: Tensor) -> Tensor:
    """The bucket of each gap in seconds, 0 to GAP_BUCKETS - 1; a gap that goes back counts as none."""
    return (torch.log1p(gaps.clamp(min=0).float()) / GAP_STEP).long().clamp(max=GAP_BUCKETS - 1)


def by_head(y_BTD: Tensor, heads: int) -> Tensor:
    """(B, H, T, K): each head's share of the width."""
    return y_BTD.view(*y_BTD.shape[:2], heads, -1).transpose(1, 2)
