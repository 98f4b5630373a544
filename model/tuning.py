"""Tuning: every baseline family gets its best setting, by task, on the middle part of the log.

Enters: moments of the middle part, in time order. Leaves: for each task a `TaskTuner`, with the `Chosen` setting
of each family and a linear blend of the two best. Called by the evaluation.

The first half of the labels chooses each family's setting by NDCG@10; the second half chooses how the two best of them
are blended: w * a + (1 - w) * b, both standardised over the candidates.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.baselines import Family
from model.moments import Floats, Moment
from model.ranking_metrics import ndcg, ranks_of

BLEND = "blend"
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A family and the place of its setting."""

    family: Family
    place: int

    def scores(self, moment: Moment) -> Floats:
        """The (N,) scores."""
        return self.family.scores(moment, *self.family.grid[self.place])


class TaskTuner:
    """One task's families while they are tuned, and after."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self.families = families
        self.chosen: dict[str, Chosen] = {family.name: Chosen(family, 0) for family in families}
        self.best: tuple[str, str] | None = None
        self.weight = 0.5
        self._gains: dict[str, list[Floats]] = defaultdict(list)
        self._blends: list[Floats] = []

    def add(self, moment: Moment, own: int) -> None:
        """A label of the first half, its title being candidate `own`: the gain of every setting."""
        for family in self.families:
            scores_CN = np.stack([family.scores(moment, *setting) for setting in family.grid])
            self._gains[family.name].append(ndcg(ranks_of(scores_CN, own)))

    def settle(self) -> None:
        """Fix everything; without a label the first setting of each family stays."""
        if self.best is None:
            self._choose()
        if self._blends:
            self.weight = WEIGHTS[int(np.argmax(np.mean(self._blends, axis=0)))]

    def _choose(self) -> None:
        means = {name: np.mean(gains, axis=0) for name, gains in self._gains.items()}
        for family in self.families:
            if family.name in means:
                self.chosen[family.name] = Chosen(family, int(np.argmax(means[family.name])))
        ordered = sorted(means, key=lambda name: -float(means[name].max()))
        if len(ordered) > 1:
            self.best = ordered[0], ordered[1]

    def add_blend(self, moment: Moment, own: int) -> None:
        """A label of the second half: the gain of every weight; the first one settles the families."""
        if self.best is None:
            self._choose()
        if self.best is not None:
            one_N, other_N = (standardised(self.chosen[name].scores(moment)) for name in self.best)
            scores_CN = np.stack([weight * one_N + (1 - weight) * other_N for weight in WEIGHTS])
            self._blends.append(ndcg(ranks_of(scores_CN, own)))

    def scores(self, moment: Moment) -> dict[str, Floats]:
        """The (N,) scores of every family as tuned, and of the blend."""
        scored = {name: chosen.scores(moment) for name, chosen in self.chosen.items()}
        if self.best is not None:
            one_N, other_N = (standardised(scored[name]) for name in self.best)
            scored[BLEND] = self.weight * one_N + (1 - self.weight) * other_N
        return scored

    def described(self) -> dict[str, Any]:
        """What was chosen, as plain data."""
        found: dict[str, Any] = {name: one.family.described(one.place) for name, one in self.chosen.items()}
        if self.best is not None:
            found[BLEND] = {"of": list(self.best), "weight": self.weight}
        return found | {"labels": len(next(iter(self._gains.values()), [])), "blend_labels": len(self._blends)}


def standardised(scores_N: Floats) -> Floats:
    """The scores with mean 0 and deviation 1; zeros when they are all the same."""
    deviation = float(scores_N.std())
    return (scores_N - scores_N.mean()) / deviation if deviation > 0 else np.zeros(len(scores_N))
