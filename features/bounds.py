"""Bounds of what a row, an event or a title may hold: wide enough for any log, and narrow enough to calculate with.

Leaves: types that msgspec checks while it decodes; folds construct their states without a check. Read by the states of
the rows, the wire events, the catalogue and `item_table.py`.
"""

from typing import Annotated

from msgspec import Meta

MAX_TIMESTAMP_MS = 253_402_300_799_999  # the end of the year 9999, and of protobuf's timestamps
# The greatest numbers are watched milliseconds: all people on earth could not watch one title for that long.
MAX_TOTAL = 10**18
MAX_SUM = 1e18
MAX_WEIGHT = 1e9
MAX_ID_CHARS = 128
ID_PATTERN = r"^[^\x00-\x1f\x7f]*$(?!\n)"

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS, pattern=ID_PATTERN)]
Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}$(?!\n)")]
TimestampMs = Annotated[int, Meta(ge=0, le=MAX_TIMESTAMP_MS)]
Total = Annotated[int, Meta(ge=-MAX_TOTAL, le=MAX_TOTAL)]
Sum = Annotated[float, Meta(ge=-MAX_SUM, le=MAX_SUM)]  # neither NaN nor infinite
Weight = Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]
