"""Titles and vectors that nobody made, in any number, and what somebody types who looks for one of them.

Enters: numbers and seeds. Leaves: normalised titles, vectors, beginnings of titles. Called by `candidates.py`. Pure.
"""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VECTOR, TITLES_PER_GROUP, SPREAD = 64, 200, 0.5
SYLLABLES = (
    "ba",
    "ren",
    "to",
    "mi",
    "kal",
    "dor",
    "es",
    "in",
    "ta",
    "lu",
    "pha",
    "zor",
    "kin",
    "ster",
    "gra",
    "the",
    "of",
)

Floats = NDArray[np.float32]


def make_titles(number: int, seed: int = 7) -> list[str]:
    """Titles of one to four words; the words' frequencies fall as 1 / rank."""
    draw = random.Random(seed)
    vocabulary = list(
        dict.fromkeys("".join(draw.choices(SYLLABLES, k=draw.randrange(1, 5))) for _ in range(1_000 + number // 8))
    )
    weights = np.cumsum(1.0 / np.arange(10, 10 + len(vocabulary))).tolist()
    return [" ".join(draw.choices(vocabulary, cum_weights=weights, k=draw.randrange(1, 5))) for _ in range(number)]


def make_vectors(number: int, kind: str, seed: int = 7) -> Floats:
    """Vectors in groups of about TITLES_PER_GROUP, or anywhere."""
    draw = np.random.default_rng(seed)
    vectors_VD = draw.standard_normal((number, VECTOR), np.float32)
    if kind == "grouped":
        centres = draw.standard_normal((max(2, number // TITLES_PER_GROUP), VECTOR), np.float32)
        vectors_VD = centres[draw.integers(0, len(centres), number)] + np.float32(SPREAD) * vectors_VD
    return vectors_VD


def typed(titles: Sequence[str], chars: int, typo: bool, number: int) -> list[tuple[str, int]]:
    """Beginnings of titles drawn at random, with two neighbouring characters exchanged or not, and the slot meant."""
    draw, made = random.Random(chars), list[tuple[str, int]]()
    longer = [slot for slot, title in enumerate(titles) if len(title) >= chars]
    while len(made) < number:
        slot = draw.choice(longer)
        query = titles[slot][:chars].strip()
        if typo:
            at = draw.randrange(len(query) - 1)
            query = query[:at] + query[at + 1] + query[at] + query[at + 2 :]
        if query:
            made.append((query, slot))
    return made
