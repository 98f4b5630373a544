"""Switches: which columns of the vector a configuration lets the network see.

Enters: a `UnicornConfig`. Leaves: a mask over the columns. Called by `unicorn.py`, which gives the others no weight.
"""

import numpy as np
from numpy.typing import NDArray

from features.vector import COLUMNS, Column
from model.config import Personalisation, UnicornConfig

# Columns that another recommender computed.
AUXILIARY = ("_similarity", "_ease")
# Columns that are counted from the stream for anybody; a title's age is not among them.
COUNTED = ("item_", "query_", "source_item_", "country_", "session_next")
NOT_COUNTED = ("item_age_days",)


def is_counted(column: Column) -> bool:
    """Whether a column holds streaming counts that are nobody's own."""
    return column.name.startswith(COUNTED) and column.name not in NOT_COUNTED


def seen_columns(config: UnicornConfig) -> NDArray[np.bool_]:
    """(F,) True for the columns that the network sees."""
    return np.array([_is_seen(column, config) for column in COLUMNS])


def _is_seen(column: Column, config: UnicornConfig) -> bool:
    if is_counted(column) and not config.streaming_counts:
        return False
    if column.part == "context":
        return True
    if not {"long": config.long, "short": config.short}[column.part]:
        return False
    if config.personalisation == Personalisation.SCORES:
        return column.name.endswith(AUXILIARY)
    return config.personalisation == Personalisation.FULL
