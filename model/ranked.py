"""Ranked labels: one replay of a log, in which the baselines are tuned and then everything is ranked.

Enters: a log, the roles of its labels, and the model's scores, if there is a model. Leaves: `Ranking`s, one per tested
label, by task. Called by `evaluate.py`.

All titles of the catalogue that the user has not engaged yet are ranked, for every model the same ones. A label whose
title the user had engaged before has no rank; how many there were is counted.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.engagement import TASK_NAMES
from features.text import normalise_query
from model.baselines import EVERYWHERE, PREFIX, SOURCE_KNN, Family, Fitted
from model.bm25 import TitleSearch
from model.moments import Floats, Ints, Moment, RecentCounts
from model.progress import Progress, advancing
from model.ranking_metrics import CUT, Rank, middle, rank_of
from model.replay import Replay
from model.roles import Parts, Role, Roles
from model.tuning import TaskTuner
from streams.labels import Label, Log

MODEL = "unicorn"
HEAD, MIDDLE = 0.1, 0.5
CALIBRATED_TITLES = 1000


class ModelScores(NamedTuple):
    """What the model says of the candidates."""

    logits_N: NDArray[np.float32]
    probabilities_N: NDArray[np.float32]


Score = Callable[[Moment], ModelScores]
# Given the replay once, and then moments.
MakeScore = Callable[[Replay], Score]


@dataclass(frozen=True, slots=True)
class Entrants:
    """What is ranked besides the baselines that only count: the model, if there is one, and what is fitted."""

    make_score: MakeScore | None = None
    fitted: tuple[Fitted, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """One tested label: the rank of its title, from 0, and the top of the ranking, by model."""

    user_id: str
    ranks: dict[str, Rank]
    tops: dict[str, Ints]
    candidates: int
    slices: tuple[str, ...]


@dataclass(slots=True)
class Calibration:
    """Probabilities of titles, drawn from tested requests; whether they were engaged; how many titles each is for."""

    probabilities: list[Floats] = field(default_factory=list)
    labels: list[Floats] = field(default_factory=list)
    weights: list[Floats] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ranked:
    """What one replay found, by task. `removed` are searches asked again with their title taken out of the catalogue:
    the title looked for is then the next that the user liked in the session.
    """

    rankings: dict[str, list[Ranking]]
    removed: list[Ranking]
    calibrations: dict[str, Calibration]
    tuned: dict[str, dict[str, Any]]
    catalogue: int
    without_rank: int


def rank_log(
    log: Log, parts: Parts, roles: Roles, entrants: Entrants, rng: np.random.Generator, progress: Progress
) -> Ranked:
    """Replay the log to the end of its last tested label."""
    replay = Replay(log)
    ranker = Ranker(replay, roles, entrants, rng)
    sessions: set[tuple[str, str]] = set()
    ends_ms = {"replay": parts.train_end_ms, "tune": parts.middle_end_ms, "test": log.labels[-1].ts_ms + 1}
    times = [label.ts_ms for label in log.labels]
    begin = 0
    for name, end_ms in ends_ms.items():
        if name != "replay":
            ranker.begin_part(testing=name == "test")
        end = bisect_left(times, end_ms)
        progress.step(name, end - begin)
        for label in advancing(progress, replay.labels_until(end_ms)):
            role = roles.by_label.get(id(label))
            session = (label.user_id, label.session_id)
            if role is not None:
                ranker.take(label, role, opens=session not in sessions)
            sessions.add(session)
        replay.fold_until(end_ms)
        begin = end
    return ranker.ranked()


class Ranker:
    """Tunes on the labels that tune, ranks those that test."""

    def __init__(self, replay: Replay, roles: Roles, entrants: Entrants, rng: np.random.Generator) -> None:
        self._replay, self._roles, self._rng = replay, roles, rng
        self._score = entrants.make_score(replay) if entrants.make_score is not None else None
        self._recent = RecentCounts(replay)
        self._fitted = entrants.fitted
        self._catalogue = replay.table.catalogue_slots()
        search = (PREFIX, TitleSearch(replay.table).family)
        own: dict[str, tuple[Family, ...]] = {"pre_query": (), "more_like_this": (SOURCE_KNN,), "search": search}
        everywhere = (*EVERYWHERE, *(one.family for one in self._fitted))
        self._tuners = {task: TaskTuner((*everywhere, *own[task])) for task in TASK_NAMES}
        self._rankings: dict[str, list[Ranking]] = {task: [] for task in TASK_NAMES}
        self._removed: list[Ranking] = []
        self._calibrations: dict[str, Calibration] = defaultdict(Calibration)
        self._counts: Counter[str] = Counter()

    def begin_part(self, testing: bool) -> None:
        """Fit what is fitted to all that came before; before testing, settle what the middle part has tuned."""
        if testing:
            for tuner in self._tuners.values():
                tuner.settle()
        for one in self._fitted:
            chosen = [tuner.chosen[one.family.name] for tuner in self._tuners.values()]
            one.fit(self._replay, {of.family.grid[of.place] for of in chosen} if testing else one.family.grid)

    def take(self, label: Label, role: Role, opens: bool) -> None:
        """Use a label whose events are not folded yet, in its role."""
        replay = self._replay
        engaged = replay.engaged.get(label.user_id, set())
        slots_N = self._catalogue[~np.isin(self._catalogue, list(engaged))] if engaged else self._catalogue
        own = np.flatnonzero(slots_N == replay.table.slot_by_id.get(label.item_id, 0))
        if len(own) == 0:
            self._counts["without_rank"] += role == "test"
            return
        moment = Moment(replay, self._recent, label, replay.context(label), slots_N)
        tuner = self._tuners[label.task]
        if role == "tune":
            tuner.add(moment, int(own[0]))
        elif role == "blend":
            tuner.add_blend(moment, int(own[0]))
        else:
            self._test(moment, int(own[0]), role, opens)

    def ranked(self) -> Ranked:
        """Everything that was found."""
        tuned = {task: tuner.described() for task, tuner in self._tuners.items()}
        found = {task: rankings for task, rankings in self._rankings.items() if rankings}
        size = len(self._catalogue)
        return Ranked(found, self._removed, self._calibrations, tuned, size, self._counts["without_rank"])

    def _test(self, moment: Moment, own: int, role: Role, opens: bool) -> None:
        label = moment.label
        scores: dict[str, NDArray[Any]] = {}
        if self._score is not None:
            by_model = self._score(moment)
            scores[MODEL] = by_model.logits_N
            self._calibrate(label, by_model.probabilities_N, own)
        if role == "calibrate":
            return
        scores |= self._tuners[label.task].scores(moment)
        popularity_rank = middle(rank_of(scores["popularity"], own))
        slices = (*_slices(moment, own, opens), _band(popularity_rank, len(moment.slots_N)))
        self._rankings[label.task].append(_ranking(moment.slots_N, label, scores, own, slices))
        following = moment.replay.table.slot_by_id.get(self._roles.next_item.get(id(label), ""), 0)
        other = np.flatnonzero(np.delete(moment.slots_N, own) == following)
        if len(other):
            without = {model: np.delete(of_model, own) for model, of_model in scores.items()}
            slots_N = np.delete(moment.slots_N, own)
            self._removed.append(_ranking(slots_N, label, without, int(other[0]), ()))

    def _calibrate(self, label: Label, probabilities_N: NDArray[np.float32], own: int) -> None:
        """Keep the label's own title and a draw of the others, each for as many as it stands for."""
        count = min(CALIBRATED_TITLES, len(probabilities_N) - 1)
        drawn = self._rng.permutation(len(probabilities_N))[: count + 1]
        drawn = drawn[drawn != own][:count]
        kept = self._calibrations[label.task]
        kept.probabilities.append(probabilities_N[np.concatenate([[own], drawn])].astype(np.float64))
        kept.labels.append(np.concatenate([[float(label.positive)], np.zeros(len(drawn))]))
        for_each = (len(probabilities_N) - 1) / max(1, len(drawn))
        kept.weights.append(np.concatenate([[1.0], np.full(len(drawn), for_each)]))


def _ranking(
    slots_N: Ints, label: Label, scores: dict[str, NDArray[Any]], own: int, slices: tuple[str, ...]
) -> Ranking:
    tops = {}
    for model, of_model in scores.items():
        size = min(CUT, len(of_model))
        top = np.argpartition(-of_model, size - 1)[:size]
        tops[model] = slots_N[top[np.argsort(-of_model[top], kind="stable")]]
    ranks = {model: rank_of(of_model, own) for model, of_model in scores.items()}
    return Ranking(label.user_id, ranks, tops, len(slots_N), slices)


def _band(popularity_rank: float, candidates: int) -> str:
    share = popularity_rank / candidates
    return "head" if share < HEAD else "middle" if share < MIDDLE else "tail"


def _slices(moment: Moment, own: int, opens: bool) -> tuple[str, ...]:
    """The groups that a label belongs to, besides its title's popularity."""
    label, query, table = moment.label, moment.context.query, moment.replay.table
    known = () if moment.context.user.recent else ("no_history",)
    if label.task == "pre_query":
        return ("first_of_session" if opens else "in_session", *known)
    if label.task != "search" or query is None:
        return known
    length = "typed_1_2" if len(query) <= 2 else "typed_3_4" if len(query) <= 4 else "typed_5_or_more"
    slot = int(moment.slots_N[own])
    item = table.items[slot]
    if any(word.startswith(query) for word in table.titles[slot].split()) or table.titles[slot].startswith(query):
        return (length, *known)
    is_genre = item is not None and query in {normalise_query(genre) for genre in item.genres}
    return (length, "genre" if is_genre else "typo", *known)
