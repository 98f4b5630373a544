"""What two models found and scored, put together for an interleaved answer.

Enters: both models' candidates, columns and scores; whose pick each shown title is. Leaves: one of each, as if one
model had made them. Called by `rank.py`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from serving.candidates import Found
from serving.scorer import Prepared, Scored

SECOND = 1


def merge_found(first: Found, second: Found) -> Found:
    """Everything that either found; both models score all of it. Counted are the first's sources, and what the second
    adds by its own.
    """
    known = set(first.item_ids)
    added = [item_id for item_id in second.item_ids if item_id not in known]
    by_source = {name: max(first.by_source.get(name, 0), count) for name, count in second.by_source.items()}
    return Found([*first.item_ids, *added], {**first.by_source, **by_source})


def merge_scored(
    prepared: tuple[Prepared, Prepared], scored: tuple[Scored, Scored], teams: Mapping[int, int]
) -> tuple[Prepared, Scored]:
    """The first's columns and scores, and the second's where a title is its pick, so that what is logged of a title is
    what its own model saw.
    """
    of_second = [index for index, team in teams.items() if team == SECOND]
    pairs_NF, scores_N = prepared[0].pairs_NF.copy(), scored[0].scores_N.copy()
    pairs_NF[of_second] = prepared[1].pairs_NF[of_second]
    scores_N[of_second] = scored[1].scores_N[of_second]
    chances = [side.probabilities_N for side in scored]
    if chances[0] is None or chances[1] is None:
        probabilities_N = None
    else:
        is_second_N = np.zeros(len(scores_N), bool)
        is_second_N[of_second] = True
        probabilities_N = np.where(is_second_N, chances[1], chances[0])
    return replace(prepared[0], pairs_NF=pairs_NF), Scored(scores_N, probabilities_N, None)
