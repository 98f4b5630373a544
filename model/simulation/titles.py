"""The simulated titles: made-up names, genres, vectors, and an appeal that moves with time.

Enters: the law, a count, the time span, a random generator. Leaves: `Titles`. Called by `simulator.py` once, and at
each slice for the appeals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from features.catalogue import Item
from model.simulation.law import DAY_MS, GENRES, Floats, Ints, Law, unit

OLDEST_DAYS = 365
# A watched title must not make a session fall apart: its gap limit is 30 minutes.
SHORTEST_MS, MEDIAN_MS, LONGEST_MS = 60_000, 6 * 60_000, 25 * 60_000
SHORTEST_PERIOD_DAYS, LONGEST_PERIOD_DAYS = 5.0, 40.0
KIND = "episode"

FIRST = (
    "Amber", "Ancient", "Bitter", "Bright", "Broken", "Burning", "Careful", "Clever", "Cold", "Copper", "Crimson",
    "Crooked", "Dancing", "Distant", "Electric", "Empty", "Endless", "Fading", "Falling", "Fearless", "Final",
    "Forgotten", "Frozen", "Gentle", "Golden", "Hidden", "Hollow", "Honest", "Hungry", "Invisible", "Iron", "Jealous",
    "Last", "Laughing", "Little", "Lonely", "Lost", "Lucky", "Marble", "Midnight", "Modern", "Narrow", "Northern",
    "Painted", "Paper", "Patient", "Perfect", "Quiet", "Rapid", "Restless", "Royal", "Rusty", "Sacred", "Scarlet",
    "Secret", "Shining", "Silent", "Silver", "Sleeping", "Southern", "Stolen", "Stubborn", "Sudden", "Tender",
    "Thirsty", "Velvet", "Wandering", "Wicked", "Wild", "Winter", "Wooden",
)  # fmt: skip
SECOND = (
    "Anchor", "Archive", "Attic", "Balcony", "Bakery", "Bridge", "Butterfly", "Candle", "Canyon", "Captain",
    "Carnival", "Castle", "Cathedral", "Circus", "Clock", "Compass", "Corridor", "Daughter", "Desert", "Detective",
    "Diary", "Dragon", "Engine", "Family", "Festival", "Fisherman", "Forest", "Fountain", "Gambler", "Garden", "Ghost",
    "Glacier", "Guitar", "Harbor", "Horizon", "Hotel", "Island", "Jungle", "Keeper", "Kingdom", "Kitchen", "Ladder",
    "Lantern", "Letter", "Library", "Lighthouse", "Machine", "Magician", "Market", "Meadow", "Mirror", "Monsoon",
    "Mountain", "Museum", "Neighbor", "Ocean", "Orchard", "Orchestra", "Parade", "Passenger", "Pilot", "Planet",
    "Prophet", "Railway", "River", "Robot", "Sailor", "School", "Shadow", "Signal", "Singer", "Stranger", "Summer",
    "Teacher", "Theater", "Thunder", "Tiger", "Tower", "Traveler", "Valley", "Village", "Violin", "Volcano", "Waltz",
    "Window", "Zebra",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Titles:
    """All titles in the order in which they become available. T titles, D dimensions."""

    items: list[Item]
    vectors_TD: Floats
    small_vectors_DT: NDArray[np.float32]
    quality_T: Floats
    promotion_T: Floats
    swing_T: Floats
    period_days_T: Floats
    phase_rad_T: Floats
    duration_ms_T: Ints
    available_ms_T: Ints


def make_genre_vectors(law: Law, rng: Generator) -> Floats:
    """One unit vector for each genre, at right angles to each other, (G, D)."""
    q, _ = np.linalg.qr(rng.normal(size=(law.dimensions, law.dimensions)))
    return np.asarray(q.T[: len(GENRES)])


def fewest_titles(law: Law) -> int:
    """How many titles must be available from the begin, so that a session does not run out of them."""
    return 4 * law.list_length


def make_titles(law: Law, genres_GD: Floats, count: int, span_ms: tuple[int, int], rng: Generator) -> Titles:
    """`count` titles; a share of them becomes available within the span, the others were so before it."""
    begin_ms, end_ms = span_ms
    late = min(round(count * law.late_title_share), count - fewest_titles(law))
    before_ms = begin_ms - rng.integers(0, OLDEST_DAYS * DAY_MS, count - late)
    available_ms_T = np.sort(np.concatenate([before_ms, rng.integers(begin_ms, end_ms, late)]))
    weights_TG = draw_mixtures(count, rng)
    noise_TD = rng.normal(size=(count, law.dimensions)) / np.sqrt(law.dimensions)
    minutes_T = MEDIAN_MS * np.exp(0.6 * rng.normal(size=count))
    names = make_names(count, rng)
    vectors_TD = unit(unit(weights_TG @ genres_GD) + law.title_noise * noise_TD)
    return Titles(
        items=[
            Item(
                item_id=f"sim-t{number:06d}",
                title=names[number],
                kind=KIND,
                genres=tuple(GENRES[genre] for genre in np.argsort(-weights_TG[number]) if weights_TG[number, genre]),
                year=int(np.datetime64(int(available_ms_T[number]), "ms").astype("datetime64[Y]").astype(int)) + 1970,
                available_from_ms=int(available_ms_T[number]),
            )
            for number in range(count)
        ],
        vectors_TD=vectors_TD,
        small_vectors_DT=np.ascontiguousarray(vectors_TD.T, np.float32),
        quality_T=law.quality_spread * rng.normal(size=count),
        promotion_T=law.promotion_spread * rng.normal(size=count),
        swing_T=law.swing_spread * np.abs(rng.normal(size=count)),
        period_days_T=rng.uniform(SHORTEST_PERIOD_DAYS, LONGEST_PERIOD_DAYS, count),
        phase_rad_T=rng.uniform(0.0, 2 * np.pi, count),
        duration_ms_T=np.clip(minutes_T, SHORTEST_MS, LONGEST_MS).astype(np.int64),
        available_ms_T=available_ms_T,
    )


def appeals(law: Law, titles: Titles, at_ms: int) -> Floats:
    """Each title's appeal, (T,): quality + swing sin(2 pi days / period + phase) + boost e^(-age / launch_days), days
    since 1970; a title that is still to come has its boost in full.
    """
    days = at_ms / DAY_MS
    age_days_T = np.maximum(0.0, (at_ms - titles.available_ms_T) / DAY_MS)
    wave_T = titles.swing_T * np.sin(2 * np.pi * days / titles.period_days_T + titles.phase_rad_T)
    return np.asarray(titles.quality_T + wave_T + law.launch_boost * np.exp(-age_days_T / law.launch_days))


def draw_mixtures(count: int, rng: Generator) -> Floats:
    """Weights over the genres, (count, G): one, two or three of them (40, 40, 20 %) share 1 by a flat Dirichlet law."""
    number = rng.choice((1, 2, 3), size=count, p=(0.4, 0.4, 0.2))
    order = np.argsort(rng.random((count, len(GENRES))), axis=1)
    raw = rng.exponential(size=(count, len(GENRES)))
    kept = np.where(order < number[:, None], raw, 0.0)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def make_names(count: int, rng: Generator) -> list[str]:
    """Different readable names; a name that would come again gets a number, as sequels do."""
    forms = rng.integers(0, 4, count)
    firsts = rng.integers(0, len(FIRST), count)
    seconds = rng.integers(0, len(SECOND), (count, 2))
    times: dict[str, int] = {}
    names = []
    for form, first, (one, other) in zip(forms, firsts, seconds, strict=True):
        a, b, c = FIRST[first], SECOND[one], SECOND[other]
        name = (f"{a} {b}", f"The {a} {b}", f"{b} of the {c}", f"{b} and {c}")[form]
        times[name] = times.get(name, 0) + 1
        names.append(name if times[name] == 1 else f"{name} {times[name]}")
    return names
