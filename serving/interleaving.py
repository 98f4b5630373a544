"""Team-draft interleaving: one answer from two variants, and which of them its engagements speak for. Pure.

Enters: two orders of candidates; later the teams of shown titles and what was engaged with. Leaves: one order with its
teams; wins, and how sure they are. Called by `ordering.py` and `interleaving_command.py`.

Each member sees both variants in one list, so that what differs between members cancels out: two variants can be told
apart with far fewer answers than by giving each its own members (Radlinski, Kurup, Joachims: How Does Clickthrough Data
Reflect Retrieval Quality?, CIKM 2008).
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Draft:
    """The picks in order; whose each one is (0: the first list's, 1: the second's), and how likely the pick was."""

    picks: list[int]
    teams: list[int]
    propensities: list[float]


def team_draft(first: Sequence[int], second: Sequence[int], draw: random.Random, count: int | None = None) -> Draft:
    """At most `count` of the candidates in both lists: in each round a coin decides which list picks first, and each
    picks its best that is not yet taken; a list that has no more ends the draft.

    A pick's propensity is its chance given those before it: one half for the first of a round on which the lists
    disagree, since until then nothing tells who leads.
    """
    lists, places = (first, second), [0, 0]
    draft, taken = Draft([], [], []), set[int]()
    wanted = len(set(first) | set(second)) if count is None else count
    while len(draft.picks) < wanted:
        leader, is_open = draw.getrandbits(1), True
        for team in (leader, 1 - leader):
            bests = [_advance(lists[side], places, side, taken) for side in (0, 1)]
            best = bests[team]
            if best is None or len(draft.picks) >= wanted:
                return draft
            taken.add(best)
            draft.picks.append(best)
            draft.teams.append(team)
            is_agreed = bests[0] == bests[1]
            draft.propensities.append(0.5 if is_open and not is_agreed else 1.0)
            is_open = is_open and is_agreed
    return draft


def _advance(ranked: Sequence[int], places: list[int], side: int, taken: set[int]) -> int | None:
    """The best of a list that is not taken; None when all are."""
    while places[side] < len(ranked) and ranked[places[side]] in taken:
        places[side] += 1
    return ranked[places[side]] if places[side] < len(ranked) else None


def winner(teams: Mapping[str, str], engaged: Iterable[str]) -> str | None:
    """The team with the most titles engaged with, of an answer's teams by title; None: a tie, or nothing at all."""
    counts = Counter(team for item_id in set(engaged) if (team := teams.get(item_id)))
    (best, most), *others = counts.most_common() or [("", 0)]
    return None if not most or (others and others[0][1] == most) else best


@dataclass(frozen=True, slots=True)
class Verdict:
    """How often the first won of the answers that had a winner, its 95 % interval (Wilson), and how likely so uneven a
    result would be were both equally good (two-sided sign test).
    """

    share: float
    low: float
    high: float
    p_value: float


def judge(wins: int, losses: int) -> Verdict:
    """The verdict on `wins` against `losses`; nothing won and nothing lost says nothing: 0.5 of 0 to 1, p 1."""
    total = wins + losses
    if not total:
        return Verdict(0.5, 0.0, 1.0, 1.0)
    share = wins / total
    middle = (share + Z_95**2 / (2 * total)) / (1 + Z_95**2 / total)
    half = Z_95 / (1 + Z_95**2 / total) * math.sqrt(share * (1 - share) / total + Z_95**2 / (4 * total**2))
    return Verdict(
        share,
        max(0.0, min(share, middle - half)),
        min(1.0, max(share, middle + half)),
        _sign_test(min(wins, losses), total),
    )


def _sign_test(fewer: int, total: int) -> float:
    """Twice the chance of at most `fewer` heads in `total` throws of a fair coin, at most 1."""
    whole = math.lgamma(total + 1) - total * math.log(2)
    terms = (math.exp(whole - math.lgamma(k + 1) - math.lgamma(total - k + 1)) for k in range(fewer + 1))
    return min(1.0, 2 * math.fsum(terms))
