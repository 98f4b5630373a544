"""Moments: what a baseline may look at when it scores a label.

Enters: a replay at a label, candidates. Leaves: `Moment`, with the counts that several baselines share. Called by the
evaluation.

Everything here is live state, from events strictly before the label, as fresh as it can be.

legend: V slots of the item table, N candidates, W windows, S the user's last titles, the newest first
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.decay import DAY_MS
from features.vector import Context, lexical_columns
from model.replay import Replay
from streams.labels import Label

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HOUR_MS = 3_600_000
WINDOWS_MS = tuple(
    round(hours * HOUR_MS) for hours in (0.25, 0.5, 1, 3, 12, 24, 48, 3 * 24, 7 * 24, 14 * 24, 30 * 24)
)  # fmt: skip
WEEK_MS = 7 * DAY_MS
LAST_TITLES = 20


class RecentCounts:
    """How many users took each title for the first time in the last WINDOWS_MS."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._begins = [0] * len(WINDOWS_MS)
        self._end = 0
        self._counts_WV = np.zeros((len(WINDOWS_MS), len(replay.table.sums)), np.float32)

    def counts(self, now_ms: int) -> NDArray[np.float32]:
        """(W, V) counts in [now - window, now) of the events folded so far; `now_ms` must not go back."""
        times, slots = self._replay.counted_ms, self._replay.counted_slots
        if self._counts_WV.shape[1] < len(self._replay.table.sums):
            missing = len(self._replay.table.sums) - self._counts_WV.shape[1]
            self._counts_WV = np.pad(self._counts_WV, ((0, 0), (0, missing)))
        new = np.array(slots[self._end :], np.int64)
        self._end = len(slots)
        for place, window_ms in enumerate(WINDOWS_MS):
            np.add.at(self._counts_WV[place], new, 1)
            begin = bisect_left(times, now_ms - window_ms, self._begins[place])
            np.subtract.at(self._counts_WV[place], np.array(slots[self._begins[place] : begin], np.int64), 1)
            self._begins[place] = begin
        return self._counts_WV


@dataclass(frozen=True)
class Moment:
    """A label's request and its candidates, with what the replay knows then."""

    replay: Replay
    recent: RecentCounts
    label: Label
    context: Context
    slots_N: Ints

    @cached_property
    def plays_N(self) -> Floats:
        """How many users ever took each candidate."""
        return self.replay.co_plays.plays_V[self.slots_N].astype(np.float64)

    @cached_property
    def recent_WN(self) -> Floats:
        """The same in each of the last WINDOWS_MS."""
        return self.recent.counts(self.context.now_ms)[:, self.slots_N].astype(np.float64)

    @cached_property
    def titles_S(self) -> Ints:
        """The user's last LAST_TITLES titles."""
        return np.array(self.replay.recent_titles(self.label.user_id, LAST_TITLES), np.int64)

    @cached_property
    def source(self) -> int:
        """The slot of the source title; 0 when there is none."""
        return self.replay.table.slot_by_id.get(self.label.source_item_id or "", 0)

    @cached_property
    def counts_SN(self) -> Floats:
        """Co-play counts of the last titles with the candidates."""
        return self.replay.co_plays.block(self.titles_S, self.slots_N).astype(np.float64)

    @cached_property
    def source_N(self) -> Floats:
        """Co-play counts of the source with the candidates; zeros when there is no source."""
        if not self.source:
            return np.zeros(len(self.slots_N))
        return np.asarray(self.replay.co_plays.block(np.array([self.source]), self.slots_N)[0], np.float64)

    @cached_property
    def matches_N(self) -> Floats:
        """2 where a title equals the query, 1 where one of its words begins with it."""
        exact_N, _, word_prefix_N, _ = lexical_columns(self.replay.table, self.slots_N, self.context.query)
        return np.asarray(exact_N + word_prefix_N, np.float64)

    def plays(self, slots: Ints) -> Floats:
        """How many users ever took some titles."""
        return np.asarray(self.replay.co_plays.plays_V[slots], np.float64)
