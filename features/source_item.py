"""The `source_item` view: what members engage with coming from this title.

Enters: deltas of one source_item. Leaves: its top targets. Called by stage 2, the replay and the scorer.
"""

from features.decay import HALF_LIVES_MS
from features.top_targets import fold_with, top_targets_view

HALF_LIFE = "14d"
HALF_LIFE_MS = HALF_LIVES_MS[HALF_LIFE]

fold_source_item = fold_with(HALF_LIFE_MS)

VIEW = top_targets_view("source_item", "source_item_id", "what members engage with coming from this title")
