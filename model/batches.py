"""Batches: examples as the network takes them.

Enters: `Examples` (titles as slots) and the catalogue. Leaves: `Request` and `Candidates` (titles as vectors).
Called by `fit.py`; the scorer's twin of this is `artifact.request_feed`.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from features.item_table import ItemTable
from features.vector import COLUMNS
from model.config import TrainConfig
from model.examples import Examples
from model.unicorn import Candidates, Request, Unicorn

# An id that is never hidden is learned by heart.
LEAST_ID_DROPOUT, MOST_ID_DROPOUT = 0.1, 0.9


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What the target encoder needs of every title, by slot; slot and vocabulary index are the same in training."""

    index_V: Tensor
    title_tokens_VQ: Tensor
    genre_tokens_VG: Tensor

    @classmethod
    def of(cls, table: ItemTable) -> "Catalogue":
        """The catalogue in an item table."""
        size = len(table)
        tokens = (torch.from_numpy(array[:size]).long() for array in (table.title_tokens, table.genre_tokens))
        return cls(torch.arange(size), *tokens)

    def encode(self, model: Unicorn, id_dropout: float | None = None) -> tuple[Tensor, Tensor]:
        """Vectors and biases; slot 0 is zeros.

        A dropped id leaves only the content, as for a title that training never saw.
        """
        index_V = self.index_V
        if id_dropout:
            index_V = torch.where(torch.rand(len(index_V)) < id_dropout, 0, index_V)
        vectors_VD, bias_V = model.items(index_V, self.title_tokens_VQ, self.genre_tokens_VG)
        exists_V = (self.index_V > 0).float()
        return vectors_VD * exists_V[:, None], bias_V * exists_V


def batch_inputs(examples: Examples, vectors_VD: Tensor, bias_V: Tensor) -> tuple[Request, Candidates]:
    """The requests and their candidates, items as vectors."""
    fields = {name: torch.from_numpy(array) for name, array in examples.requests.items()}
    source_B, session_BL, history_BT = (fields[name] for name in ("source_slot", "session_slots_L", "history_slots_T"))
    slots_BK = torch.from_numpy(examples.slots_BK)
    request = Request(
        task=fields["task"],
        country=fields["country"],
        daypart=fields["daypart"],
        query_tokens=fields["query_tokens_Q"],
        query_flags=fields["query_flags_2"],
        source_vector=vectors_VD[source_B],
        source_known=(source_B > 0).float()[:, None],
        session_vectors=vectors_VD[session_BL],
        session_kinds=fields["session_kinds_L"],
        session_gaps=fields["session_gaps_L"],
        session_mask=(session_BL > 0).float(),
        history_vectors=vectors_VD[history_BT],
        history_weights=fields["history_weights_T"],
        history_mask=(history_BT > 0).float(),
    )
    return request, Candidates(vectors_VD[slots_BK], bias_V[slots_BK], torch.from_numpy(examples.pairs_BKF))


def with_id_dropout(config: TrainConfig, train: Examples, later: Examples) -> TrainConfig:
    """The configuration with an `id_dropout`: where it has none, the share of `later`'s positive labels whose title is
    none of `train`'s.

    A network that nearly always sees ids does not learn to do without: of news more than half is newer than the
    network.
    """
    if config.id_dropout is not None:
        return config
    known, asked = (part.slots_BK[part.labels_BK > 0] for part in (train, later))
    unknown = float(np.isin(asked, known, invert=True).mean()) if len(asked) else 0.0
    return replace(config, id_dropout=min(max(unknown, LEAST_ID_DROPOUT), MOST_ID_DROPOUT))


def drop_sides(request: Request, candidates: Candidates, share: float) -> tuple[Request, Candidates]:
    """Take the history from a share of the requests and the session from another, so that each can stand alone.

    The columns of the side go with it.
    """
    requests = len(request.task)
    keep = {side: (torch.rand(requests, 1) >= share).float() for side in ("long", "short")}
    keep["context"] = torch.ones(requests, 1)
    keep_BF = torch.cat([keep[column.part] for column in COLUMNS], dim=1)
    request = request._replace(
        history_mask=request.history_mask * keep["long"], session_mask=request.session_mask * keep["short"]
    )
    return request, candidates._replace(pairs=candidates.pairs * keep_BF[:, None])
