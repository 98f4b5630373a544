"""Aging neighbours: what examples see is the last fit, and fits see the past only."""

import numpy as np

from model.aging import FITS, AgingNeighbours
from model.neighbours import Sources
from model.replay import Replay
from tests.model.small_log import make_log

SOURCES, CANDIDATES = Sources(np.array([1]), np.ones(1, np.float32)), np.array([2, 3, 10_000])


def test_a_replay_sees_fits_of_its_past_only() -> None:
    replay = Replay(make_log(users=2))
    aging = AgingNeighbours(replay, 0, FITS * 100)
    tables = (aging.co_plays, aging.ease)
    assert not any(table.scores_of_each([SOURCES], CANDIDATES).any() for table in tables)
    aging.keep_up(0)
    for user in range(500):
        replay.engaged[f"u{user}"] = {1, 2}
        replay.co_plays.add(2, [1])
    aging.keep_up(99)
    assert not any(table.scores_of_each([SOURCES], CANDIDATES).any() for table in tables)
    aging.keep_up(100)
    for table in tables:
        [found] = table.scores_of_each([SOURCES], CANDIDATES)
        assert found[0] > 0.1
        assert found[1:].tolist() == [0.0, 0.0]  # the last one came after the fit
