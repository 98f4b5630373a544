"""The `country` view: what members in this country engage with.

Enters: deltas of one country. Leaves: its top targets. Called by stage 2, the replay and the scorer.
"""

from features.decay import HALF_LIVES_MS
from features.top_targets import fold_with, top_targets_view

HALF_LIFE = "1d"
HALF_LIFE_MS = HALF_LIVES_MS[HALF_LIFE]

fold_country = fold_with(HALF_LIFE_MS)

VIEW = top_targets_view("country", "country", "what members in this country engage with")
