"""What a comparison of served features found, by column.

Enters: differences of single values. Leaves: `SkewReport`. Filled by `skew`, printed by `nowrank skew`.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.vector import COLUMN_NAMES

SHOWN_EXAMPLES = 20


class SkewColumn(NamedTuple):
    """One column: values that were compared, values that differ, and the largest difference."""

    name: str
    compared: int
    differing: int
    largest: float


class SkewExample(NamedTuple):
    """One value that differs."""

    ranking: str
    item_id: str
    column: str
    served: float
    replayed: float


@dataclass
class SkewReport:
    """What was compared; `not_compared` counts values by the reason why they were not."""

    rankings: int = 0
    compared: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(COLUMN_NAMES), np.int64))
    differing: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(COLUMN_NAMES), np.int64))
    largest: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(COLUMN_NAMES)))
    examples: list[SkewExample] = field(default_factory=list)
    not_compared: Counter[str] = field(default_factory=Counter)

    @property
    def columns(self) -> list[SkewColumn]:
        """The columns in the order of the vector."""
        values = zip(self.compared.tolist(), self.differing.tolist(), self.largest.tolist(), strict=True)
        return [SkewColumn(name, *row) for name, row in zip(COLUMN_NAMES, values, strict=True)]

    @property
    def exit_code(self) -> int:
        """0 when every value that was compared is equal, and there was one."""
        return int(bool(self.differing.any()) or not self.compared.any())
