"""How often a title's id is hidden in training: as often as it will be unknown after it."""

from dataclasses import replace

import numpy as np
import pytest

from features.vector import COLUMN_NAMES
from model.batches import LEAST_ID_DROPOUT, MOST_ID_DROPOUT, with_id_dropout
from model.config import TrainConfig
from model.examples import Examples

CONFIG = TrainConfig()


def about(*titles: int, positive: bool = True) -> Examples:
    """An example about each title, among others that are none of the labels' titles."""
    slots_BK = np.array([(title, 7, 8) for title in titles], np.int64).reshape(-1, 3)
    labels_BK = np.zeros(slots_BK.shape, np.float32)
    labels_BK[:, 0] = positive
    return Examples({}, slots_BK, labels_BK, np.zeros((*slots_BK.shape, len(COLUMN_NAMES)), np.float32), labels_BK)


@pytest.mark.parametrize(
    ("later", "share"),
    [
        (about(1, 2, 3, 3), LEAST_ID_DROPOUT),  # all known
        (about(1, 2, 3, 9, 9), 0.4),
        (about(7, 1), 0.5),  # only ever a negative: nothing says who likes it
        (about(10, 11), MOST_ID_DROPOUT),
        (about(10, 11, positive=False), LEAST_ID_DROPOUT),
        (about(), LEAST_ID_DROPOUT),
    ],
)
def test_ids_are_hidden_as_often_as_later_labels_are_about_titles_that_training_has_not(
    later: Examples, share: float
) -> None:
    assert with_id_dropout(CONFIG, about(1, 2, 3), later).id_dropout == pytest.approx(share)


def test_a_share_that_was_asked_for_stays() -> None:
    for asked in (0.0, 0.3):
        config = replace(CONFIG, id_dropout=asked)
        assert with_id_dropout(config, about(1), about(9)) is config
