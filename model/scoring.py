"""Scoring offline: an artifact's scores of candidates, by the calls that the scorer makes.

Enters: an artifact, the vectors of a table's items, a context, candidates. Leaves: `Scores`. Called by the evaluation
and the offline gate.
"""

from features.item_table import ItemTable
from features.model_inputs import request_inputs
from features.vector import Context, Slots, pair_matrix
from model.artifact import Artifact, ItemVectors, Scores


def score_candidates(
    artifact: Artifact, encoded: ItemVectors, table: ItemTable, context: Context, slots_N: Slots
) -> Scores:
    """The scores of the candidates in `slots_N` for one context; `encoded` is of the same table."""
    pairs_NF = pair_matrix(table, slots_N, context, artifact.similarities(encoded, table, context, slots_N))
    return artifact.score(encoded, request_inputs(table, context), slots_N, pairs_NF)
