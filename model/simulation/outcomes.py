"""What follows a simulated click: a play, how long it lasts, a thumb, and the time that a member takes.

Enters: a round of requests, a random generator. Leaves: an `Outcome` for each place of each list. Called by
`sessions.py` for each round.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator

from model.simulation.law import Bools, Ints, Law, sigmoid
from model.simulation.requests import Round
from model.simulation.titles import Titles

THINK_MS, LONGEST_THINK_MS = 20_000, 120_000
DOUBLE_UP, UP, DOWN = 2.0, 0.5, -1.0
# A thumb's value by its number.
THUMBS: tuple[Literal["none", "down", "up", "double_up"], ...] = ("none", "down", "up", "double_up")


class Outcome(NamedTuple):
    """Drawn for every place, used where the title was clicked; a thumb of 0 is none."""

    played_NK: Bools
    watched_ms_NK: Ints
    thumb_NK: Ints
    think_ms_NK: Ints


def draw_outcome(law: Law, titles: Titles, drawn: Round, rng: Generator) -> Outcome:
    """Played with `play_share`; watched for the share sigmoid(margin + watch_noise x normal) of the title, where the
    margin is the utility beyond the task's threshold; a thumb, with `thumb_share`, by the margin plus a normal noise:
    above 2 double up, above 0.5 up, below -1 down.
    """
    shape = drawn.utility_NK.shape
    margin_NK = drawn.utility_NK - law.thresholds[drawn.task_N][:, None]
    watched_share_NK = sigmoid(margin_NK + law.watch_noise * rng.normal(size=shape))
    stated_NK = margin_NK + rng.normal(size=shape)
    thumb_NK = np.select([stated_NK > DOUBLE_UP, stated_NK > UP, stated_NK < DOWN], [3, 2, 1], 0)
    played_NK = drawn.clicked_NK & (rng.random(shape) < law.play_share)
    return Outcome(
        played_NK=played_NK,
        watched_ms_NK=(watched_share_NK * titles.duration_ms_T[drawn.lists.titles_NK]).astype(np.int64),
        thumb_NK=np.where(played_NK & (rng.random(shape) < law.thumb_share), thumb_NK, 0),
        think_ms_NK=draw_think_ms(shape[0] * shape[1], rng).reshape(shape),
    )


def draw_think_ms(count: int, rng: Generator) -> Ints:
    """How long a member takes before the next thing: exponential, cut at two minutes."""
    return np.clip(rng.exponential(THINK_MS, count), 1, LONGEST_THINK_MS).astype(np.int64)
