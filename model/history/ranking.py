"""Full ranking: where the title that really came next stands among the whole catalogue.

Enters: an encoder, histories and the right title of each. Leaves: ranks, from 0. Called by the training (validation)
and at its end (test). Titles of the history are left out of the ranking, as is usual; the right title never is, so that
logs with repeats can be ranked too.

legend: U users, B users of one batch, D width, V titles (0 is padding)
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.history.encoder import HistoryModel
from model.history.histories import Histories, Ints
from model.history.vectors import user_vectors

RANKED_AT_ONCE = 128
NEVER = -torch.inf


@torch.no_grad()
def ranks_of(model: HistoryModel, histories: Histories, right_U: Ints) -> NDArray[np.float64]:
    """The first and the last rank that `right_U[u]` may have after history u, (U, 2): another one only among equal
    scores. A score that is not finite gives the last of all. The model must be evaluating.
    """
    users_UD, items_VD = torch.from_numpy(user_vectors(model, histories)), model.item_vectors()
    ranks = [np.zeros((0, 2))]
    for begin in range(0, len(users_UD), RANKED_AT_ONCE):
        users_B = np.arange(begin, min(begin + RANKED_AT_ONCE, len(users_UD)))
        scores_BV = users_UD[users_B] @ items_VD.T
        right_B1 = torch.from_numpy(right_U[users_B])[:, None]
        right_score_B1 = scores_BV.gather(1, right_B1)
        forbid_seen(scores_BV, histories, users_B)
        scores_BV.scatter_(1, right_B1, right_score_B1)
        above_B = ((scores_BV > right_score_B1) & (scores_BV < torch.inf)).sum(dim=1)
        same_B = (scores_BV == right_score_B1).sum(dim=1)
        ranks_B2 = torch.stack([above_B, above_B + same_B - 1], dim=1).double()
        ranks.append(torch.where(right_score_B1.isfinite(), ranks_B2, len(items_VD) - 2.0).numpy())
    return np.concatenate(ranks)


def forbid_seen(scores_BV: Tensor, histories: Histories, users_B: Ints) -> None:
    """Set the scores of padding and of all that each user has engaged with, however long ago, below every other."""
    scores_BV[:, 0] = NEVER
    for row, user in enumerate(users_B):
        seen = histories.items_N[histories.begins_U1[user] : histories.begins_U1[user + 1]]
        scores_BV[row, torch.from_numpy(seen)] = NEVER
