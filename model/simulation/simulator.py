"""The simulator: a world, and its records one after the other in the order of their times.

Enters: the law, sizes, a seed. Leaves: a `World`, then an iterator of records; what is held at once grows with the
members and with the sessions of half an hour, not with the days. Called by `files.py` and the live simulation. No I/O,
no clock: the same plan gives the same records.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.random import Generator

from features.bounds import MAX_TIMESTAMP_MS
from infra.errors import BadInput
from model.simulation.law import DAY_MS, SLICE_MS, Law
from model.simulation.members import make_members, next_starts
from model.simulation.queries import WordIndex
from model.simulation.records import Numbers, Record, Timed
from model.simulation.requests import World
from model.simulation.sessions import begin_visits, play_visits
from model.simulation.titles import fewest_titles, make_genre_vectors, make_titles

# Scores of this many (session, title) pairs are held at once.
MOST_SCORES = 1_000_000
RUN_CHARS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate. `label` tells apart runs that are the same otherwise; without an end members come for ever."""

    members: int = 2_000
    titles: int = 1_000
    days: int = 14
    seed: int = 0
    begin_ms: int = 1_735_689_600_000
    law: Law = field(default_factory=Law)
    endless: bool = False
    label: str = ""

    def __post_init__(self) -> None:
        least = {"members": 1, "titles": fewest_titles(self.law), "days": 1, "seed": 0, "begin_ms": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise BadInput("invalid_field", f"{name} = {getattr(self, name)}: it must be at least {bound}", name)
        # Sessions of the last day are played out after it.
        if self.span_ms[1] > MAX_TIMESTAMP_MS - DAY_MS:
            raise BadInput(
                "invalid_field",
                f"{self.days} days from {self.begin_ms} ms on end after 9999-12-30, and no event may be of year 10000: "
                "begin earlier, or simulate fewer",
                "days",
            )

    @property
    def span_ms(self) -> tuple[int, int]:
        """The first millisecond, and the one after the last in which a session may begin."""
        return self.begin_ms, self.begin_ms + self.days * DAY_MS

    @property
    def run(self) -> str:
        """A name made from the whole plan: two plans share no id of an event, a ranking or a session."""
        text = msgspec.json.encode(dataclasses.asdict(self), order="deterministic")
        return hashlib.blake2b(text, digest_size=RUN_CHARS // 2).hexdigest()


def make_world(plan: Plan) -> World:
    """Titles and members; each has random numbers of its own, so that more of one does not change the other."""
    genre_rng, title_rng, member_rng = _generators(plan)[:3]
    genres_GD = make_genre_vectors(plan.law, genre_rng)
    titles = make_titles(plan.law, genres_GD, plan.titles, plan.span_ms, title_rng)
    members = make_members(plan.law, genres_GD, plan.members, plan.span_ms, member_rng)
    return World(plan.law, plan.run, plan.span_ms, genres_GD, titles, members, WordIndex(titles.items))


def simulate(plan: Plan, world: World) -> Iterator[tuple[int, Record]]:
    """Every record with its time, in order. A session that has begun before the end is played out."""
    rng = _generators(plan)[3]
    numbers = Numbers(world.run)
    begin_ms, end_ms = plan.span_ms
    everyone = np.arange(len(world.members))
    next_ms_M = next_starts(plan.law, world.members, everyone, world.members.joined_ms_M, rng)
    pending: list[Timed] = []
    slice_ms = begin_ms
    while plan.endless or slice_ms < end_ms:
        until_ms = slice_ms + SLICE_MS if plan.endless else min(slice_ms + SLICE_MS, end_ms)
        coming = np.flatnonzero(next_ms_M < until_ms)
        coming = coming[np.argsort(next_ms_M[coming], kind="stable")]
        block = max(1, MOST_SCORES // len(world.titles.items))
        for first in range(0, len(coming), block):
            who_B = coming[first : first + block]
            visits = begin_visits(world, who_B, next_ms_M[who_B], slice_ms, rng)
            pending += play_visits(world, visits, slice_ms, numbers, rng)
            # The gap after a session is longer than a slice: nobody comes twice in one.
            next_ms_M[who_B] = next_starts(plan.law, world.members, who_B, visits.now_ms_B, rng)
        pending.sort(key=lambda timed: timed[:2])
        ready = next((at for at, timed in enumerate(pending) if timed[0] >= until_ms), len(pending))
        yield from ((ts_ms, record) for ts_ms, _, record in pending[:ready])
        pending = pending[ready:]
        slice_ms = until_ms
    yield from ((ts_ms, record) for ts_ms, _, record in pending)


def _generators(plan: Plan) -> list[Generator]:
    return [np.random.default_rng(seed) for seed in np.random.SeedSequence(plan.seed).spawn(4)]
