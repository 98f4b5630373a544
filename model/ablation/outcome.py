"""The outcome of a study: means by task and variant, and the differences that were asked for.

Enters: the ranks of every variant and seed, and of the baselines. Leaves: plain data. Called by `study.py`.

What is paired is the NDCG@10 of a label, its HR@10 and its reciprocal rank, averaged over seeds; resamples draw users
with all their labels. So an interval says how sure the difference is on other users, for the mean of these seeds'
networks; how far apart the seeds are stands beside. Holm's correction is over all differences of the study in NDCG@10;
the other metrics' intervals are before any correction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.ablation.networks import Ranks
from model.ablation.requests import Recorded
from model.ablation.variants import BASELINES, COMPARISONS, FULL, Comparison
from model.intervals import holm, paired_interval
from model.outcome import SIGNIFICANT
from model.ranking_metrics import METRICS

STRONGEST = 3
# What verdicts are about, and by what the strongest are chosen.
FIRST = "ndcg10"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gains:
    """A metric of one variant by seed and label (S, B); a baseline has one seed, and NaN where it has no rank."""

    by_seed: Floats

    @property
    def mean_B(self) -> Floats:
        """The mean over seeds."""
        return np.asarray(self.by_seed.mean(axis=0), np.float64)


def gains_of(recorded: Recorded, ranks: list[Ranks], metric: Callable[[Floats], Floats]) -> dict[str, Gains]:
    """Everything that ranked, by name: the variants in their order, then the baselines."""
    seeds: dict[str, list[Floats]] = {}
    for one in ranks:
        for name, ranks_B2 in one.items():
            seeds.setdefault(name, []).append(metric(ranks_B2))
    gains = {name: Gains(np.stack(of_seeds)) for name, of_seeds in seeds.items()}
    tasks = np.array(recorded.names.tasks)
    for task, names in recorded.names.baselines.items():
        for place, name in enumerate(names):
            found = gains.setdefault(name, Gains(np.full((1, len(tasks)), np.nan)))
            rows = tasks == task
            found.by_seed[0, rows] = metric(recorded.ranks_BM2[rows, place])
    return gains


def outcome(
    recorded: Recorded, ranks: list[Ranks], groups: tuple[str, ...], resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """`models`: each one's metrics by task, NDCG@10 also by seed; `comparisons`: each difference in NDCG@10, with its
    interval, and under `metrics` those in the others.
    """
    by_metric = {name: gains_of(recorded, ranks, metric) for name, metric in METRICS.items()}
    gains = by_metric[FIRST]
    tasks = np.array(recorded.names.tasks)
    by_task = {task: np.flatnonzero(tasks == task) for task in recorded.names.baselines}
    models: dict[str, Any] = {name: {} for name in gains}
    for name, of_model in gains.items():
        for task, rows in by_task.items():
            seeds = of_model.by_seed[:, rows].mean(axis=1)
            if not np.isnan(seeds).any():
                spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
                means = {metric: float(of[name].by_seed[:, rows].mean()) for metric, of in by_metric.items()}
                models[name][task] = {**means, "by_seed": seeds.tolist(), "deviation": spread}
    numbers = {user: number for number, user in enumerate(dict.fromkeys(recorded.names.users))}
    users = np.array([numbers[user] for user in recorded.names.users])
    found: list[dict[str, Any]] = []
    for group in groups:
        for task, rows in by_task.items():
            for one in COMPARISONS[group] if group != BASELINES else _strongest(models, recorded, task):
                inside = [row for row in rows if one.inside is None or one.inside in recorded.names.slices[row]]
                if inside:
                    paired = {
                        name: _paired((of[one.of].mean_B - of[one.minus].mean_B)[inside], users[inside], resamples, rng)
                        for name, of in by_metric.items()
                    }
                    about = {"group": group, "task": task, "of": one.of, "minus": one.minus, "inside": one.inside}
                    counted = {"labels": len(inside), "users": len(np.unique(users[inside]))}
                    found.append(about | counted | paired.pop(FIRST) | {"metrics": paired})
    for one_found, adjusted in zip(found, holm([each["p"] for each in found]), strict=True):
        one_found |= {"p_holm": adjusted, "significant": adjusted < SIGNIFICANT}
    counts = {task: len(rows) for task, rows in by_task.items()}
    return {"labels": counts, "users": len(numbers), "models": models, "comparisons": found}


def _paired(difference: Floats, users: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> dict[str, float]:
    interval = paired_interval(difference, users, resamples, rng)
    return {"difference": float(difference.mean()), **interval._asdict()}


def _strongest(models: dict[str, Any], recorded: Recorded, task: str) -> list[Comparison]:
    """The whole network minus each of the STRONGEST baselines of a task, of the test part, the best first."""
    names = sorted(recorded.names.baselines[task], key=lambda name: -float(models[name][task][FIRST]))
    return [Comparison(FULL, name) for name in names[:STRONGEST]]
