"""Folds with a bug: some events and some deltas break theirs, after half of the work, every time.

Enters: the real folds. Leaves: folds that raise for what is poison here. Called by `simulation_run.py`, which puts them
into the stages; the oracle only asks what is poison.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from unittest import mock

import streams.session_agent
from features.delta import Delta, Entity
from features.engagement import Coordinate, Engagement
from features.rows import FOLDS
from features.top_targets import TopTargetsState
from features.user import Folded, UserState

POISON_COUNTRY = "XX"
UserFold = Callable[[UserState, Coordinate, Engagement], Folded]


def is_poison(delta: Delta) -> bool:
    """One title in one country: its row has other titles too."""
    return delta.entity is Entity.COUNTRY and delta.key == "FR" and delta.item_id == "i1"


def breaking(fold: UserFold) -> UserFold:
    """The fold of stage 1, which breaks on events from POISON_COUNTRY."""

    def fold_or_break(state: UserState, coordinate: Coordinate, engagement: Engagement) -> Folded:
        folded = fold(state, coordinate, engagement)
        if engagement.country == POISON_COUNTRY:
            raise ZeroDivisionError("a fold with a bug")
        return folded

    return fold_or_break


def breaking_folds() -> AbstractContextManager[object]:
    """Both stages with folds that break on poison."""
    real = FOLDS[Entity.COUNTRY]

    def fold_or_break(state: TopTargetsState, delta: Delta) -> None:
        real(state, delta)
        if is_poison(delta):
            raise ZeroDivisionError("a fold with a bug")

    patches = ExitStack()
    patches.enter_context(mock.patch.dict(FOLDS, {Entity.COUNTRY: fold_or_break}))
    user_fold = breaking(streams.session_agent.fold_user)  # type: ignore[attr-defined]
    patches.enter_context(mock.patch.object(streams.session_agent, "fold_user", user_fold))
    return patches
