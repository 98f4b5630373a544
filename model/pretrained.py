"""Pretrained titles: vectors that were learned before and are fine-tuned end to end; stage 3 of UniCoRn.

Enters: the data set that training is about to begin with, which holds the titles' co-vectors (`co_vectors.py`), or the
folder of a run of `nowrank train history`. Leaves: a `Unicorn` whose titles begin as these vectors, and whose they are.
Called by `train.py` and `train_served.py`.

An encoder that may have seen events after the training part is refused: its vectors would know what came next.

legend: V titles, D width of the vectors
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import BadInput
from model.config import TrainConfig, UnicornConfig
from model.data_set import DataSet
from model.history.run_folder import ENCODER, load_encoder
from model.manifests import sha256_of
from model.neighbours import Floats
from model.unicorn import ID_SCALE, Unicorn

# With fewer titles, or with titles that are all alike, there is nothing to tell apart.
LEAST_KNOWN, LEAST_SCALE = 2, 1e-6


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Vectors by slot, zeros for titles that nothing was learned of, and what the artifact's card says of them."""

    vectors_VD: Tensor
    identity: dict[str, Any]

    def sized(self, config: UnicornConfig) -> UnicornConfig:
        """The configuration with ids as wide as the vectors."""
        return replace(config, item_id=self.vectors_VD.shape[1])

    @torch.no_grad()
    def begin(self, model: Unicorn) -> None:
        """Make the ids' embeddings these vectors, and item vectors begin as the embeddings; a title that nothing was
        learned of begins at zero, like one that training will never see.
        """
        model.items.item_id.weight.copy_(self.vectors_VD)
        into = model.items.vector.weight[:, : self.vectors_VD.shape[1]]
        into.copy_(torch.eye(*into.shape))


def new_network(config: UnicornConfig, vocabulary: int, pretrained: Pretrained | None) -> Unicorn:
    """A network that has learned nothing yet, but where its titles begin."""
    model = Unicorn(pretrained.sized(config) if pretrained is not None else config, vocabulary)
    if pretrained is not None:
        pretrained.begin(model)
    return model


def narrowed(vectors_VD: Tensor, width: int) -> Tensor:
    """The vectors as they are or, if they are wider, turned so that `width` places hold as much of their inner products
    as so many can.
    """
    if vectors_VD.shape[1] <= width:
        return vectors_VD
    _, _, axes_DD = torch.linalg.svd(vectors_VD, full_matrices=False)
    turned_VD: Tensor = vectors_VD @ axes_DD[:width].T
    return turned_VD


def pretrained_titles(data: DataSet, config: TrainConfig) -> Pretrained | None:
    """Where the configuration lets titles begin; None is at random. Raises as `read_pretrained`."""
    if config.history_encoder is not None:
        return read_pretrained(Path(config.history_encoder), data, config.model.vector)
    return of_co_vectors(data.co_vectors_VD, len(data.table), config.model)


def of_co_vectors(co_vectors_VD: Floats, size: int, config: UnicornConfig) -> Pretrained | None:
    """The co-vectors of a table's first titles, `size` being the table's; None when no two titles were played near each
    other, or when the configuration is without.
    """
    vectors_VD = torch.zeros(size, co_vectors_VD.shape[1])
    vectors_VD[: len(co_vectors_VD)] = torch.from_numpy(co_vectors_VD)
    known_V = (vectors_VD != 0).any(dim=1)
    if not config.co_vectors or int(known_V.sum()) < LEAST_KNOWN:
        return None
    vectors_VD = _as_long_as_ids(narrowed(_centred(vectors_VD, known_V), config.vector), known_V)
    return Pretrained(vectors_VD, {"vectors": "co-plays", "titles": int(known_V.sum())})


def read_pretrained(folder: Path, data: DataSet, width: int) -> Pretrained:
    """The run's item vectors, at most `width` wide. Raises `BadInput` when the run may have seen what comes after the
    training part, or knows none of the titles.
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
    vectors_VD = _as_long_as_ids(narrowed(_centred(vectors_VD, known_V), width), known_V)
    identity = {
        "vectors": card.config.model.encoder,
        "sha256": sha256_of(folder / ENCODER),
        "histories": card.histories,
        "before_ms": card.before_ms,
        "titles": int(known_V.sum()),
    }
    return Pretrained(vectors_VD, identity)


def _centred(vectors_VD: Tensor, known_V: Tensor) -> Tensor:
    """The known vectors less their mean; zeros for the others."""
    return (vectors_VD - vectors_VD[known_V].mean(dim=0)) * known_V[:, None]


def _as_long_as_ids(vectors_VD: Tensor, known_V: Tensor) -> Tensor:
    """The vectors, scaled to what random ids begin with."""
    return vectors_VD * (ID_SCALE / vectors_VD[known_V].std().clamp(min=LEAST_SCALE))
