"""The `query` view: what members engage with after this query.

Enters: deltas of one query. Leaves: its top targets. Called by stage 2, the replay and the scorer.
"""

from features.decay import HALF_LIVES_MS
from features.top_targets import fold_with, top_targets_view

HALF_LIFE_MS = HALF_LIVES_MS["14d"]

fold_query = fold_with(HALF_LIFE_MS)

VIEW = top_targets_view("query", "query", HALF_LIFE_MS, "14d", "what members engage with after this query")
