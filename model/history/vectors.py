"""Users as vectors: what the encoder makes of whole histories.

Enters: an encoder and histories of any log. Leaves: one vector by user, to be multiplied with `item_vectors()`. Called
by the ranking, and by whoever stores long-term vectors.

legend: U users, B users of one batch, D width
"""

import numpy as np
import torch
from numpy.typing import NDArray

from model.history.encoder import HistoryModel
from model.history.histories import Histories
from model.history.windows import newest_batches

ENCODED_AT_ONCE = 128


@torch.no_grad()
def user_vectors(model: HistoryModel, histories: Histories) -> NDArray[np.float32]:
    """(U, D): each user after the newest `model.config.length` engagements; zeros for a user without any. The model
    must be evaluating.
    """
    users_UD = np.empty((len(histories.users), model.config.width), np.float32)
    for users_B, batch in newest_batches(histories, model.config.length, ENCODED_AT_ONCE):
        users_UD[users_B] = model.encode(batch.items_BT, batch.times_BT).numpy()
    return users_UD
