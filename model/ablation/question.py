"""The question of a study: what it is to find out, and with how much work.

Enters: nothing. Leaves: `Question` with its defaults. Read by `study.py` and the command.
"""

from dataclasses import dataclass, field

from model.ablation.variants import COMPARISONS
from model.config import TrainConfig

SEEDS = 3
TESTED = 300
# A p-value is never below 2 / (resamples + 1); it must stay below .05 when it is multiplied by some fifty comparisons.
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Question:
    """Which groups of differences; networks of each variant; `max_labels` are tested of each task, drawn at random,
    None: all.
    """

    groups: tuple[str, ...] = tuple(COMPARISONS)
    seeds: int = SEEDS
    max_labels: int | None = TESTED
    resamples: int = RESAMPLES
    config: TrainConfig = field(default_factory=TrainConfig)
