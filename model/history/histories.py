"""Histories: what each user engaged with, in order, as item indices.

Enters: (item index, time) by user, a log, or a MovieLens file that holds the order only. Leaves: `Histories`, and what
is held out of them. Called by the commands; the encoders and the training see nothing of where a log came from.

legend: N engagements of all users in one line, U users; item index 0 is padding, titles count from 1
"""

import csv
import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from streams.labels import Log

Ints = NDArray[np.int64]

LEAST_EVENTS = 3
MOVIELENS_FILE = "ratings_ordered.tsv.gz"
MOVIELENS_COLUMNS = ["user_id", "pos", "movie_id", "rating"]

# A user, a title, and the time in seconds where it is known.
Row = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True)
class Histories:
    """The engagements of user u are `items_N[begins_U1[u]:begins_U1[u + 1]]`, oldest first.

    `titles[i - 1]` is the id of item index i; `times_N` are seconds, None where only the order is known.
    """

    users: tuple[str, ...]
    titles: tuple[str, ...]
    items_N: Ints
    begins_U1: Ints
    times_N: Ints | None = None

    @classmethod
    def of(cls, by_user: Mapping[str, Sequence[tuple[int, int | None]]], titles: Sequence[str]) -> "Histories":
        """From (item index, time in seconds or None) by user, each user's oldest first."""
        lengths = [len(events) for events in by_user.values()]
        events = [event for one in by_user.values() for event in one]
        timed = bool(events) and all(time_s is not None for _, time_s in events)
        return cls(
            users=tuple(by_user),
            titles=tuple(titles),
            items_N=np.array([item for item, _ in events], np.int64),
            begins_U1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            times_N=np.array([time_s for _, time_s in events], np.int64) if timed else None,
        )

    @property
    def lengths_U(self) -> Ints:
        """How many engagements each user has."""
        return np.diff(self.begins_U1)

    def without_last(self, count: int) -> "Histories":
        """The same users without the newest `count` engagements of each; a user with fewer keeps none."""
        kept_U = np.maximum(0, self.lengths_U - count)
        place_N = np.arange(len(self.items_N)) - np.repeat(self.begins_U1[:-1], self.lengths_U)
        kept_N = place_N < np.repeat(kept_U, self.lengths_U)
        return Histories(
            users=self.users,
            titles=self.titles,
            items_N=self.items_N[kept_N],
            begins_U1=np.concatenate([[0], np.cumsum(kept_U)]).astype(np.int64),
            times_N=None if self.times_N is None else self.times_N[kept_N],
        )

    def last_U(self) -> Ints:
        """The newest item of each user; every user must have one."""
        return self.items_N[self.begins_U1[1:] - 1]

    def fingerprint(self) -> str:
        """A name that two runs share only when they saw the same histories."""
        digest = hashlib.sha256(repr((self.users, self.titles)).encode())
        for array in (self.items_N, self.begins_U1, self.times_N):
            digest.update(b"-" if array is None else array.tobytes())
        return digest.hexdigest()[:16]


class LeaveOneOut(NamedTuple):
    """The usual protocol: a user's last item is the test, the one before it the validation, the rest trains.

    Validation is asked after `train`, the test after `before_test`, which holds the validation's item too.
    """

    train: Histories
    validation_U: Ints
    before_test: Histories
    test_U: Ints


def leave_one_out(histories: Histories) -> LeaveOneOut:
    """Split histories; there are users, and each has at least LEAST_EVENTS engagements, or `BadInput` is raised."""
    if not histories.users:
        raise BadInput(
            "short_history",
            "nothing is left to train on: no users and titles have as many engagements with each other as --core asks "
            "for; use a smaller --core, or a longer log",
        )
    short = int((histories.lengths_U < LEAST_EVENTS).sum())
    if short:
        raise BadInput(
            "short_history",
            f"{short} of {len(histories.users)} users have fewer than {LEAST_EVENTS} engagements; leave-one-out needs "
            "that many of everybody: use a larger --core",
        )
    before_test = histories.without_last(1)
    train = histories.without_last(2)
    return LeaveOneOut(train, before_test.last_U(), before_test, histories.last_U())


def load_movielens_order(folder: Path, core: int) -> Histories:
    """MovieLens in order, (user, position, movie, rating) by line of MOVIELENS_FILE; every rating is an engagement.

    Users and titles with fewer than `core` engagements are left out, until none is left that has fewer. Raises
    `BadInput` when the file is missing or is something else.
    """
    path = folder / MOVIELENS_FILE
    if not path.is_file():
        raise BadInput("no_such_file", f"there is no {path}; give the folder that holds {MOVIELENS_FILE}")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t")
        header = next(rows, [])
        if header != MOVIELENS_COLUMNS:
            raise BadInput("wrong_columns", f"{path} has the columns {header}, not {MOVIELENS_COLUMNS}")
        try:
            ordered = sorted((int(user), int(place), movie) for user, place, movie, _ in rows)
        except ValueError as error:
            raise BadInput("wrong_line", f"{path} holds a line that is not {MOVIELENS_COLUMNS}: {error}") from error
    return _indexed(_core([(str(user), movie, None) for user, _, movie in ordered], core))


def histories_of_log(log: Log, core: int, before_ms: int | None = None) -> Histories:
    """A log with its times, every label an engagement, in the order of the labels; with `before_ms` only what came
    before it. Users and titles are left out as from a MovieLens file.
    """
    labels = [label for label in log.labels if before_ms is None or label.ts_ms < before_ms]
    return _indexed(_core([(label.user_id, label.item_id, label.ts_ms // 1000) for label in labels], core))


def _core(rows: list[Row], least: int) -> list[Row]:
    while True:
        users, titles = Counter(user for user, _, _ in rows), Counter(title for _, title, _ in rows)
        kept = [row for row in rows if users[row[0]] >= least and titles[row[1]] >= least]
        if len(kept) == len(rows):
            return kept
        rows = kept


def _indexed(rows: Iterable[Row]) -> Histories:
    index: dict[str, int] = {}
    by_user: dict[str, list[tuple[int, int | None]]] = {}
    for user, title, time_s in rows:
        by_user.setdefault(user, []).append((index.setdefault(title, len(index) + 1), time_s))
    return Histories.of(by_user, list(index))
