"""Item vectors that begin where a history encoder ended: stage 3 of UniCoRn, fine-tuned end to end.

Enters: the folder of a run of `nowrank train history`, and the data set that training is about to begin with. Leaves: a
`Unicorn` whose titles begin as the encoder's item vectors, and who that encoder was. Called by `train.py`.

A run that may have seen events after the training part is refused: its vectors would know what came next.

legend: V titles, D width of the encoder's vectors
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import BadInput
from model.config import TrainConfig
from model.data_set import DataSet
from model.history.run_folder import ENCODER, load_encoder
from model.unicorn import ID_SCALE, Unicorn


@dataclass(frozen=True, slots=True)
class Pretrained:
    """The encoder's vectors by slot (zeros where it knows no such title), and what the artifact's card says of it."""

    vectors_VD: Tensor
    known_V: Tensor
    identity: dict[str, Any]

    def sized(self, config: TrainConfig) -> TrainConfig:
        """The configuration with ids as wide as the vectors."""
        return replace(config, model=replace(config.model, item_id=self.vectors_VD.shape[1]))

    @torch.no_grad()
    def begin(self, model: Unicorn) -> None:
        """Make the ids' embeddings the encoder's vectors, and item vectors begin as the embeddings; a title that the
        encoder does not know keeps its random one.
        """
        known_V1 = self.known_V[:, None]
        weight_VD = model.items.item_id.weight
        weight_VD.copy_(torch.where(known_V1, self.vectors_VD, weight_VD))
        into = model.items.vector.weight[:, : self.vectors_VD.shape[1]]
        into.copy_(torch.eye(*into.shape))


def narrowed(vectors_VD: Tensor, width: int) -> Tensor:
    """The vectors as they are or, if they are wider, turned so that `width` places hold as much of their inner products
    as so many can.
    """
    if vectors_VD.shape[1] <= width:
        return vectors_VD
    _, _, axes_DD = torch.linalg.svd(vectors_VD, full_matrices=False)
    turned_VD: Tensor = vectors_VD @ axes_DD[:width].T
    return turned_VD


def read_pretrained(folder: Path, data: DataSet, width: int) -> Pretrained:
    """The run's item vectors, less their mean, as long as random ids are and at most `width` wide. Raises `BadInput`
    when the run may have seen what comes after the training part, or knows none of the titles.
    """
    encoder, card = load_encoder(folder)
    end_ms = data.split.train_end_ms - data.shift_ms
    if card.before_ms is None or card.before_ms > end_ms:
        seen = "all of its log" if card.before_ms is None else f"events up to {card.before_ms}"
        raise BadInput(
            "encoder_looks_ahead",
            f"the run in {folder} saw {seen}, and training ends at {end_ms}; train an encoder on the same log with "
            "nowrank train history --part train",
        )
    index = {title: place for place, title in enumerate(card.titles, start=1)}
    rows_V = np.array([index.get(item_id, 0) for item_id in data.table.ids])
    known_V = torch.from_numpy(rows_V > 0)
    if not known_V.any():
        raise BadInput("other_titles", f"the run in {folder} knows none of the log's titles; train it on the same log")
    vectors_VD = encoder.item_vectors().detach()[torch.from_numpy(rows_V)]
    vectors_VD = narrowed((vectors_VD - vectors_VD[known_V].mean(dim=0)) * known_V[:, None], width)
    vectors_VD = vectors_VD * (ID_SCALE / vectors_VD[known_V].std())
    identity = {
        "encoder": card.config.model.encoder,
        "sha256": hashlib.sha256((folder / ENCODER).read_bytes()).hexdigest(),
        "histories": card.histories,
        "before_ms": card.before_ms,
        "titles": int(known_V.sum()),
    }
    return Pretrained(vectors_VD, known_V, identity)
