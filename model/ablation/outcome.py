"""The outcome of a study: means by task and variant, and the differences that were asked for.

Enters: the ranks of every variant and seed, and of the baselines. Leaves: plain data. Called by `study.py`.

What is paired is the NDCG@10 of a label, averaged over seeds; resamples draw users with all their labels. So an
interval says how sure the difference is on other users, for the mean of these seeds' networks; how far apart the seeds
are stands beside. Holm's correction is over all differences of the study.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.ablation.networks import Ranks
from model.ablation.requests import Recorded
from model.ablation.variants import BASELINES, COMPARISONS, FULL, Comparison
from model.intervals import holm, paired_interval
from model.outcome import SIGNIFICANT
from model.ranking_metrics import ndcg

STRONGEST = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gains:
    """NDCG@10 of one variant by seed and label (S, B); a baseline has one seed, and NaN where it has no rank."""

    by_seed: Floats

    @property
    def mean_B(self) -> Floats:
        """The mean over seeds."""
        return np.asarray(self.by_seed.mean(axis=0), np.float64)


def gains_of(recorded: Recorded, ranks: list[Ranks]) -> dict[str, Gains]:
    """Everything that ranked, by name: the variants in their order, then the baselines."""
    seeds: dict[str, list[Floats]] = {}
    for one in ranks:
        for name, ranks_B2 in one.items():
            seeds.setdefault(name, []).append(ndcg(ranks_B2))
    gains = {name: Gains(np.stack(of_seeds)) for name, of_seeds in seeds.items()}
    tasks = np.array(recorded.names.tasks)
    for task, names in recorded.names.baselines.items():
        for place, name in enumerate(names):
            found = gains.setdefault(name, Gains(np.full((1, len(tasks)), np.nan)))
            rows = tasks == task
            found.by_seed[0, rows] = ndcg(recorded.ranks_BM2[rows, place])
    return gains


def outcome(
    recorded: Recorded, ranks: list[Ranks], groups: tuple[str, ...], resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """`models`: each one's NDCG@10 by task, and by seed; `comparisons`: each difference, with its interval."""
    gains = gains_of(recorded, ranks)
    tasks = np.array(recorded.names.tasks)
    by_task = {task: np.flatnonzero(tasks == task) for task in recorded.names.baselines}
    models: dict[str, Any] = {name: {} for name in gains}
    for name, of_model in gains.items():
        for task, rows in by_task.items():
            seeds = of_model.by_seed[:, rows].mean(axis=1)
            if not np.isnan(seeds).any():
                spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
                models[name][task] = {"ndcg10": float(seeds.mean()), "by_seed": seeds.tolist(), "deviation": spread}
    numbers = {user: number for number, user in enumerate(dict.fromkeys(recorded.names.users))}
    users = np.array([numbers[user] for user in recorded.names.users])
    found: list[dict[str, Any]] = []
    for group in groups:
        for task, rows in by_task.items():
            for one in COMPARISONS[group] if group != BASELINES else _strongest(models, recorded, task):
                inside = [row for row in rows if one.inside is None or one.inside in recorded.names.slices[row]]
                if inside:
                    difference = (gains[one.of].mean_B - gains[one.minus].mean_B)[inside]
                    interval = paired_interval(difference, users[inside], resamples, rng)
                    about = {"group": group, "task": task, "of": one.of, "minus": one.minus, "inside": one.inside}
                    counted = {"labels": len(inside), "users": len(np.unique(users[inside]))}
                    found.append(about | counted | {"difference": float(difference.mean()), **interval._asdict()})
    for one_found, adjusted in zip(found, holm([each["p"] for each in found]), strict=True):
        one_found |= {"p_holm": adjusted, "significant": adjusted < SIGNIFICANT}
    counts = {task: len(rows) for task, rows in by_task.items()}
    return {"labels": counts, "users": len(numbers), "models": models, "comparisons": found}


def _strongest(models: dict[str, Any], recorded: Recorded, task: str) -> list[Comparison]:
    """The whole network minus each of the STRONGEST baselines of a task, of the test part, the best first."""
    names = sorted(recorded.names.baselines[task], key=lambda name: -float(models[name][task]["ndcg10"]))
    return [Comparison(FULL, name) for name in names[:STRONGEST]]
