"""The `query` view: what members engage with after this query.

Enters: deltas of one query. Leaves: its top targets. Called by stage 2, the replay and the scorer.
"""

from features.decay import HALF_LIVES_MS
from features.top_targets import fold_with, top_targets_view

HALF_LIFE = "14d"
HALF_LIFE_MS = HALF_LIVES_MS[HALF_LIFE]

fold_query = fold_with(HALF_LIFE_MS)

VIEW = top_targets_view("query", "query", "what members engage with after this query")
