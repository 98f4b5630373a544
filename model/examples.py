"""Examples: one for each label, from the state strictly before it.

Enters: a log and a range of time. Leaves: `Examples`, arrays with the label's title first among its candidates. Called
by training.

legend: B examples, K candidates (the label's title and its negatives), F columns of `features.vector`, L/T/Q as in
`features.model_inputs`
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.model_inputs import RequestInputs, request_inputs
from features.vector import COLUMN_NAMES, Context, pair_matrix
from infra.errors import BadInput
from model.aging import AgingNeighbours
from model.co_vectors import co_vectors
from model.negatives import Drawn, NegativeSampler
from model.neighbours import context_sources, similarities
from model.progress import Progress, advancing
from model.replay import Replay
from streams.labels import Label, Log

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# How much of the log is over where the warm-up, the training part and the middle part end.
SHARES = (0.2, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples in time order. `requests` holds the fields of `RequestInputs` by name, stacked; slot 0 among the
    candidates is padding.

    `rates_BK` is how often each candidate is drawn as a negative.
    """

    requests: dict[str, NDArray[Any]]
    slots_BK: Ints
    labels_BK: Floats
    pairs_BKF: Floats
    rates_BK: Floats

    def __len__(self) -> int:
        return len(self.slots_BK)

    def take(self, rows: Ints) -> "Examples":
        """Some of the examples."""
        requests = {name: array[rows] for name, array in self.requests.items()}
        return Examples(requests, self.slots_BK[rows], self.labels_BK[rows], self.pairs_BKF[rows], self.rates_BK[rows])

    def among(self, some: slice) -> "Examples":
        """The examples with some of their candidates."""
        return Examples(
            self.requests,
            self.slots_BK[:, some],
            self.labels_BK[:, some],
            self.pairs_BKF[:, some],
            self.rates_BK[:, some],
        )


class Built(NamedTuple):
    """Examples of the training part, of the middle part, and of the middle part with uniform negatives for calibration;
    the titles' vectors at the end of the training part.
    """

    train: Examples
    middle: Examples
    calibration: Examples
    co_vectors_VD: Floats


@dataclass(frozen=True, slots=True)
class Split:
    """The log cut by time: warm-up and training before `train_end_ms`, the middle part before `middle_end_ms`, then the
    test part.
    """

    warm_up_end_ms: int
    train_end_ms: int
    middle_end_ms: int


def split_by_time(log: Log) -> Split:
    """Cut at labels' times by SHARES, so that no two parts share a millisecond; raises `BadInput` as `cut_times`."""
    return Split(*cut_times([label.ts_ms for label in log.labels], SHARES))


def cut_times(times: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The times at the shares, rising, of rising `times`; cuts that fall on the same time move on to the next later
    ones, or back where there is none, so that something lies between them.

    Raises `BadInput` when there are fewer different times than cuts.
    """
    different = list(dict.fromkeys(times))
    if len(different) < len(shares):
        raise BadInput(
            "too_few_times",
            f"{len(times):,} labels or rankings have {len(different)} different times; to be cut by time into "
            f"training, middle and test part they need at least {len(shares)}: give exact times instead of days",
        )
    places: list[int] = []
    for share in shares:
        place = bisect_left(different, times[min(len(times) - 1, round(share * len(times)))])
        places.append(max(place, places[-1] + 1) if places else place)
    room = len(different) - len(shares)
    return [different[min(place, room + number)] for number, place in enumerate(places)]


def build_examples(
    replay: Replay,
    split: Split,
    chances: dict[str, float],
    negatives: tuple[int, int],
    rng: np.random.Generator,
    progress: Progress,
) -> Built:
    """What training takes of a log, in one replay.

    A label of a part is taken with its chance; `negatives` says how many a mixed and a uniform example get.
    """
    mixed, uniform = negatives
    sampler = NegativeSampler(replay, rng)
    aging = AgingNeighbours(replay, split.warm_up_end_ms, split.middle_end_ms)
    train, middle, calibration = (ExampleList(replay, aging, 1 + count) for count in (mixed, mixed, uniform))
    for label in advancing(progress, replay.labels_until(split.train_end_ms)):
        roll = rng.random()
        if label.ts_ms < split.warm_up_end_ms:
            continue
        aging.keep_up(label.ts_ms)
        if roll < chances["train"]:
            train.add(label, sampler.mixed(label, mixed))
    replay.fold_until(split.train_end_ms)
    size = len(replay.table)
    vectors_VD = co_vectors(replay.co_plays.pairs(size), size)
    for label in advancing(progress, replay.labels_until(split.middle_end_ms)):
        roll = rng.random()
        aging.keep_up(label.ts_ms)
        if roll < chances["middle"]:
            middle.add(label, sampler.mixed(label, mixed))
        if 1 - roll < chances["calibration"]:
            calibration.add(label, sampler.uniform(label, uniform))
    return Built(train.arrays(), middle.arrays(), calibration.arrays(), vectors_VD)


def replay_columns(replay: Replay, aging: AgingNeighbours, context: Context, slots: Ints) -> Floats:
    """The (N, F) columns of candidates, with the similarities of the last fits."""
    sources = context_sources(replay.table, context)
    return pair_matrix(replay.table, slots, context, similarities(aging.co_plays, aging.ease, sources, slots))


class ExampleList:
    """Grows by one example at a time, each taken from the replay as it stands."""

    def __init__(self, replay: Replay, aging: AgingNeighbours, candidates: int) -> None:
        self._replay = replay
        self._aging = aging
        self._candidates = candidates
        self._requests: list[RequestInputs] = []
        self._drawn: list[Drawn] = []
        self._pairs: list[Floats] = []
        self._positive: list[bool] = []

    def add(self, label: Label, drawn: Drawn) -> None:
        """Take the example of a label whose events are not folded yet."""
        context = self._replay.context(label)
        self._requests.append(request_inputs(self._replay.table, context))
        self._drawn.append(drawn)
        self._pairs.append(replay_columns(self._replay, self._aging, context, drawn.slots_K))
        self._positive.append(label.positive)

    def arrays(self) -> Examples:
        """All examples, padded to the same number of candidates."""
        count = len(self._drawn)
        slots_BK = np.zeros((count, self._candidates), np.int64)
        pairs_BKF = np.zeros((count, self._candidates, len(COLUMN_NAMES)), np.float32)
        labels_BK = np.zeros((count, self._candidates), np.float32)
        rates_BK = np.ones((count, self._candidates), np.float32)
        for row, (drawn, pairs_KF) in enumerate(zip(self._drawn, self._pairs, strict=True)):
            slots_BK[row, : len(drawn.slots_K)] = drawn.slots_K
            rates_BK[row, : len(drawn.slots_K)] = drawn.rates_K
            pairs_BKF[row, : len(drawn.slots_K)] = pairs_KF
        if count:
            labels_BK[:, 0] = self._positive
        fields = RequestInputs._fields
        requests = {name: np.array([request[place] for request in self._requests]) for place, name in enumerate(fields)}
        return Examples(requests, slots_BK, labels_BK, pairs_BKF, rates_BK)
