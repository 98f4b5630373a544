"""Several trained encoders side by side as one: their scores are added.

Enters: the sizes of encoders over the same titles. Leaves: an encoder whose vectors are theirs, end to end, so that its
inner products are the sums of theirs. Called by `run_folder.py`; `nowrank train history --join` makes one.

legend: B histories, T places, V titles, D the sum of the parts' widths
"""

from typing import cast

import torch
from torch import Tensor, nn

from model.history.config import EncoderConfig
from model.history.encoder import HistoryEncoder, HistoryModel
from model.history.fit import new_encoder


class Joined(nn.Module):
    """A `HistoryModel` made of others; it is not trained itself."""

    def __init__(self, config: EncoderConfig, titles: int) -> None:
        super().__init__()
        self.config = config
        self.parts = nn.ModuleList(new_encoder(part, titles) for part in config.parts)

    def states(self, items_BT: Tensor, times_BT: Tensor | None = None) -> Tensor:
        """(B, T, D)."""
        return torch.cat([part.states(items_BT, times_BT) for part in self._models()], dim=-1)

    def item_vectors(self) -> Tensor:
        """(V, D)."""
        return torch.cat([part.item_vectors() for part in self._models()], dim=-1)

    def encode(self, items_BT: Tensor, times_BT: Tensor | None = None) -> Tensor:
        """(B, D); zeros for an empty history."""
        return torch.cat([part.encode(items_BT, times_BT) for part in self._models()], dim=-1)

    def _models(self) -> list[HistoryModel]:
        return [cast(HistoryEncoder, part) for part in self.parts]


def joined_config(parts: tuple[EncoderConfig, ...]) -> EncoderConfig:
    """The sizes of several encoders as one; they must look back equally far."""
    return EncoderConfig(
        encoder="joined",
        width=sum(part.width for part in parts),
        heads=1,
        blocks=max(part.blocks for part in parts),
        length=min(part.length for part in parts),
        timed=any(part.timed for part in parts),
        parts=parts,
    )
