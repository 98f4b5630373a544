"""Re-rank rules: what an order by score alone does not know. Pure; every rule can be switched off.

Enters: candidates, the best first, with their scores. Leaves: the order that is shown, and the chance that each place
had of showing what it shows. Called by `ordering.py`; `process.py` reads the rules from the settings.

The rules in their turn: diversity, stability, exploration, pins. What a later rule does the earlier ones do not see: a
pinned title stays on top however alike its neighbours are. Blocked titles are no candidates (`candidates.py`).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.engagement import TASK_NAMES, Task
from infra.errors import SettingsError
from infra.settings import Settings

# Diversity looks at so many times as many titles as it must choose: beyond, relevance would be given away.
POOL_RATIO = 3
MAX_POOL = 150
MAX_COMPARED = 50


@dataclass(frozen=True, slots=True)
class RerankRules:
    """How strong each rule is; the defaults switch all of them off.

    `diversity` is 0 (off) to 1 by task; `exploration` the share of answers whose last place shows a random candidate;
    `stability_places` how far a title that was shown may move, unless the score gap is more than `stability_margin`.
    """

    diversity: Mapping[Task, float] = field(default_factory=dict)
    exploration: float = 0.0
    stability_places: int = 0
    stability_margin: float = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """Indices of candidates in the order shown, and the propensity of each place's choice given the rest (0 to 1]."""

    indices: list[int]
    propensities: list[float]


def parse_rules(settings: Settings) -> RerankRules:
    """The rules that the settings ask for; raises `SettingsError` for a diversity that is none."""
    diversity: dict[Task, float] = {}
    for part in filter(None, settings.diversity.split(",")):
        name, _, text = part.strip().partition("=")
        try:
            task, strength = TASK_NAMES[name], float(text)
        except (KeyError, ValueError) as error:
            raise SettingsError(
                f"NOWRANK_DIVERSITY has {part!r}; it must be task=strength, such as pre_query=0.3"
            ) from error
        if not 0 <= strength <= 1:
            raise SettingsError(f"NOWRANK_DIVERSITY has {part!r}; the strength must be between 0 and 1")
        diversity[task] = strength
    return RerankRules(diversity, settings.exploration, settings.stability_places, settings.stability_margin)


def diversify(
    order: Sequence[int], scores_N: NDArray[np.float32], vectors_ND: NDArray[np.float32], strength: float, count: int
) -> list[int]:
    """The order with its first `count` places chosen by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Each place takes the title with the highest `(1 - strength) x relevance - strength x likeness`: relevance is the
    score scaled to 0..1 over the pool, likeness the highest cosine of its vector with those already chosen. Titles
    beyond the pool keep their places. Costs a matrix product of the pool with itself.
    """
    size = min(len(order), count * POOL_RATIO, MAX_POOL)
    if strength <= 0 or size < 2:
        return list(order)
    pool = np.asarray(order[:size])
    scores_P = scores_N[pool].astype(np.float64)
    spread = scores_P.max() - scores_P.min()
    relevance_P = (scores_P - scores_P.min()) / spread if spread > 0 else np.ones(size)
    units_PD = vectors_ND[pool] / np.maximum(np.linalg.norm(vectors_ND[pool], axis=1, keepdims=True), 1e-9)
    likeness_PP = units_PD @ units_PD.T
    likest_P = np.zeros(size)
    is_left_P = np.ones(size, dtype=bool)
    chosen: list[int] = []
    for _ in range(min(count, size)):
        worth_P = np.where(is_left_P, (1 - strength) * relevance_P - strength * likest_P, -np.inf)
        best = int(np.argmax(worth_P))
        is_left_P[best] = False
        likest_P = np.maximum(likest_P, likeness_PP[best])
        chosen.append(best)
    rest = np.flatnonzero(is_left_P).tolist()
    return [*pool[[*chosen, *rest]].tolist(), *order[size:]]


def stabilise(
    order: Sequence[int], scores_N: NDArray[np.float32], shown_before: Mapping[int, int], places: int, margin: float
) -> list[int]:
    """The order in which no title that was shown moves by more than `places`, unless its score asks for more.

    `shown_before` has the earlier place of each candidate, counted from 0. A title is let go where its score differs
    from that of the title which stands at the end of its leash by more than `margin`. Places are given from the first:
    to whoever must stand there now, else to the first in order that may already: new titles bring nobody's turn nearer.
    """
    if places <= 0 or not shown_before:
        return list(order)
    ranks = {index: rank for rank, index in enumerate(sorted(shown_before, key=lambda index: shown_before[index]))}
    leashes = {
        index: (ranks[index] - places, ranks[index] + places)
        for place, index in enumerate(order)
        if index in ranks and not _breaks_free(order, scores_N, place, ranks[index], places, margin)
    }
    last_calls = {latest: index for index, (_, latest) in leashes.items()}
    left = dict.fromkeys(order)
    settled: list[int] = []
    shown_settled = 0
    for place in range(len(order)):
        index = last_calls.get(place)
        if index is None or index not in left:
            # There is one: the titles that stood before the first of those left are all settled.
            index = next(index for index in left if index not in leashes or leashes[index][0] <= shown_settled)
        del left[index]
        settled.append(index)
        shown_settled += index in ranks
    return settled


def _breaks_free(
    order: Sequence[int], scores_N: NDArray[np.float32], place: int, rank: int, places: int, margin: float
) -> bool:
    """Whether the title at `place` is so much better, or worse, than the one at the end of its leash."""
    end = min(max(place, rank - places), rank + places, len(order) - 1)
    return bool(end != place and abs(float(scores_N[order[place]]) - float(scores_N[order[end]])) > margin)


def explore(order: Sequence[int], count: int, share: float, draw: random.Random) -> Order:
    """The first `count` of the order; in `share` of the answers the last of them is any of the candidates left, drawn
    evenly, so that titles which the model thinks little of are seen too.

    A place that is not drawn has propensity 1; the last has `(1 - share) + share / left` where it shows the next best
    and `share / left` elsewhere, as inverse-propensity estimates need it.
    """
    shown = list(order[:count])
    left = list(order[len(shown) - 1 :])
    if share <= 0 or len(left) < 2:
        return Order(shown, [1.0] * len(shown))
    if draw.random() < share:
        shown[-1] = draw.choice(left)
    chance = share / len(left) + (1 - share if shown[-1] == left[0] else 0.0)
    return Order(shown, [1.0] * (len(shown) - 1) + [chance])


def pin(order: Order, pinned: Sequence[int], count: int) -> Order:
    """The pinned candidates first, in their own order and with propensity 1, then the others."""
    if not pinned:
        return order
    first = set(pinned)
    pairs = zip(order.indices, order.propensities, strict=True)
    others = [(index, chance) for index, chance in pairs if index not in first]
    both = [*((index, 1.0) for index in pinned), *others][:count]
    return Order([index for index, _ in both], [chance for _, chance in both])


def kendall_distance(before: Sequence[str], after: Sequence[str]) -> float | None:
    """The share of pairs of titles in both lists that changed their order (0 the same, 1 reversed); None for fewer than
    two titles in both. Looks at the first MAX_COMPARED of `before`.
    """
    places = {item_id: place for place, item_id in enumerate(after)}
    common = [places[item_id] for item_id in before[:MAX_COMPARED] if item_id in places]
    if len(common) < 2:
        return None
    after_C = np.array(common)
    swapped = np.triu(after_C[:, None] > after_C[None, :], 1).sum()
    return float(swapped) / (len(common) * (len(common) - 1) / 2)
