"""Correcting for the position: what was shown on top is clicked more, however good it is.

Enters: served examples. Leaves: an additive logit per task and position, or weights. Called by `served_fit.py`; at
serving nothing of it is left.

`examination`: Guo et al., PAL: A Position-bias Aware Learning Framework for CTR Prediction (RecSys '19): P(engaged) =
P(examined | task, position) x P(engaged | examined). `position`: the same with an additive part in the logit. In both,
place 1 is the measure: the model itself says what a title would get on top.
`ips`: each shown title weighs 1 over the propensity that the policy logged, so that every position holds the same mix
of titles in the weighted data; it corrects only as far as the policy draws places at random.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from features.engagement import Task
from model.examples import Floats

Correction = Literal["none", "position", "examination", "ips"]
CORRECTIONS: tuple[Correction, ...] = ("none", "position", "examination", "ips")
MOST_POSITIONS = 201
GREATEST_WEIGHT = 10.0
MOST_CERTAIN = 1 - 1e-6


class PositionBias(nn.Module):
    """A learned logit per task and position."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_TP = nn.Parameter(torch.zeros(len(Task), MOST_POSITIONS))

    def forward(self, task_B: Tensor, positions_BK: Tensor) -> Tensor:
        """(B, K); 0 for place 1 and for padding."""
        logits_BK = self.logit_TP[task_B[:, None], positions_BK.clamp(max=MOST_POSITIONS - 1)]
        return logits_BK * (positions_BK > 1).float()

    def examined_loss(self, logits_BK: Tensor, task_B: Tensor, positions_BK: Tensor, labels_BK: Tensor) -> Tensor:
        """Binary cross entropy (B, K) of P(examined) x P(engaged | examined), the latter by the network's logits."""
        raw_BK = self.logit_TP[task_B[:, None], positions_BK.clamp(max=MOST_POSITIONS - 1)]
        log_examined_BK = logsigmoid(raw_BK) * (positions_BK > 1).float()
        log_engaged_BK = logsigmoid(logits_BK) + log_examined_BK
        log_not_BK = torch.log1p(-torch.exp(log_engaged_BK).clamp(max=MOST_CERTAIN))
        return -(labels_BK * log_engaged_BK + (1 - labels_BK) * log_not_BK)


def inverse_propensities(propensities_BK: Floats, is_shown_BK: NDArray[np.bool_]) -> Floats:
    """1 / propensity, at most GREATEST_WEIGHT times the median, mean 1: both of what was shown. Padding gets 0."""
    weights_N = 1.0 / np.maximum(propensities_BK[is_shown_BK], 1e-6)
    weights_N = np.minimum(weights_N, GREATEST_WEIGHT * np.median(weights_N))
    weights_BK = np.zeros(propensities_BK.shape, np.float32)
    weights_BK[is_shown_BK] = weights_N / weights_N.mean()
    return weights_BK
