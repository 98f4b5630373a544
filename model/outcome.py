"""The outcome of an evaluation: what the rankings of one replay add up to.

Enters: `Ranked`. Leaves: means by task, model and slice, paired intervals with Holm's correction, as plain data. Called
by `evaluate.py`.

Differences are those of UniCoRn to each baseline; without a model, those of the best baseline to the others. The
correction is over all of them, in all tasks.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.calibration import expected_calibration_error
from model.exposure import coverage, gini, overlap
from model.intervals import CONFIDENCE, Interval, holm, paired_interval
from model.ranked import MODEL, Calibration, Ranked, Ranking
from model.ranking_metrics import METRICS, middle, summarise

RESAMPLES = 2000
SIGNIFICANT = 1 - CONFIDENCE

Floats = NDArray[np.float64]


def task_results(ranked: Ranked, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """`tasks`, and `title_removed`: searches whose title was taken out of the catalogue."""
    tasks = {
        task: task_result(rankings, ranked.catalogue, resamples, rng) for task, rankings in ranked.rankings.items()
    }
    for task, calibration in ranked.calibrations.items():
        if task in tasks:
            tasks[task][MODEL] |= calibrated(calibration)
    correct(tasks)
    removed = means_by_model(ranked.removed)
    return {"tasks": tasks, "title_removed": {"labels": len(ranked.removed), **removed} if removed else {"labels": 0}}


def task_result(
    rankings: Sequence[Ranking], catalogue: int, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Each model's means and slices, the best baseline by NDCG@10, and the intervals of the reference's metrics minus
    each other one's, paired by label, also by slice (`minus`); the one that is tested is that of NDCG@10.
    """
    result: dict[str, Any] = means_by_model(rankings)
    for model in result:
        tops = [ranking.tops[model] for ranking in rankings]
        result[model] |= {
            "auc_user": user_auc(rankings, model),
            "coverage": coverage(tops, catalogue),
            "gini": gini(tops, catalogue),
            "rbo_next": next_overlap(rankings, model),
            "slices": {},
        }
    best = max((model for model in result if model != MODEL), key=lambda model: float(result[model]["ndcg10"]))
    reference = MODEL if MODEL in result else best
    for name in sorted({name for ranking in rankings for name in ranking.slices}):
        inside = [ranking for ranking in rankings if name in ranking.slices]
        minus = differences(inside, reference, resamples, rng)
        for model, means in means_by_model(inside).items():
            result[model]["slices"][name] = {"labels": len(inside), **means, **_ends(minus.get(model, {}))}
    prefix = "unicorn" if MODEL in result else "best"
    for model, intervals in differences(rankings, reference, resamples, rng).items():
        tested = intervals["ndcg10"]
        ends = {f"{prefix}_minus_low": tested.low, f"{prefix}_minus_high": tested.high}
        result[model] |= {**ends, "p": tested.p, **_ends(intervals)}
    users = {ranking.user_id for ranking in rankings}
    result |= {"labels": len(rankings), "users": len(users), "best_baseline": best}
    if reference == MODEL:
        ends = {"paired_low": result[best]["unicorn_minus_low"], "paired_high": result[best]["unicorn_minus_high"]}
        result |= {**ends, "paired_p": result[best]["p"]}
    return result


def differences(
    rankings: Sequence[Ranking], reference: str, resamples: int, rng: np.random.Generator
) -> dict[str, dict[str, Interval]]:
    """The interval of the reference minus each other model, by model and metric."""
    users = _numbered([ranking.user_id for ranking in rankings])
    ranks = {model: _ranks(rankings, model) for model in rankings[0].ranks}
    return {
        model: {
            name: paired_interval(of(ranks[reference]) - of(of_model), users, resamples, rng)
            for name, of in METRICS.items()
        }
        for model, of_model in ranks.items()
        if model != reference
    }


def correct(tasks: dict[str, dict[str, Any]]) -> None:
    """Holm's correction over every comparison of the table: adds `p_holm` and `significant`, in place."""
    compared = [means for of_task in tasks.values() for means in of_task.values() if _is_compared(means)]
    for means, adjusted in zip(compared, holm([means["p"] for means in compared]), strict=True):
        means |= {"p_holm": adjusted, "significant": adjusted < SIGNIFICANT}


def means_by_model(rankings: Sequence[Ranking]) -> dict[str, dict[str, Any]]:
    """NDCG@10, HR@10 and MRR by model; nothing without rankings."""
    models = rankings[0].ranks if rankings else ()
    return {model: dict(summarise(_ranks(rankings, model))) for model in models}


def user_auc(rankings: Sequence[Ranking], model: str) -> float:
    """The mean over users of their own AUC: the share of the other candidates that stand below a liked title."""
    by_user: dict[str, list[float]] = defaultdict(list)
    for ranking in rankings:
        if ranking.candidates > 1:
            by_user[ranking.user_id].append(1.0 - middle(ranking.ranks[model]) / (ranking.candidates - 1))
    return float(np.mean([np.mean(of_user) for of_user in by_user.values()])) if by_user else 0.5


def next_overlap(rankings: Sequence[Ranking], model: str) -> float | None:
    """Rank-biased overlap of a user's tested ranking with the one before it in the task; None when nobody has two."""
    last: dict[str, list[int]] = {}
    found = []
    for ranking in rankings:
        top = ranking.tops[model].tolist()
        if ranking.user_id in last:
            found.append(overlap(last[ranking.user_id], top))
        last[ranking.user_id] = top
    return float(np.mean(found)) if found else None


def calibrated(calibration: Calibration) -> dict[str, float]:
    """The expected calibration error, the rate of positives, and their ratio."""
    probabilities, labels, weights = (
        np.concatenate(parts) for parts in (calibration.probabilities, calibration.labels, calibration.weights)
    )
    error = expected_calibration_error(probabilities, labels, weights)
    rate = float((labels * weights).sum() / weights.sum())
    return {"ece": error, "positive_rate": rate, "ece_per_rate": error / rate if rate else 0.0}


def _ends(intervals: dict[str, Interval]) -> dict[str, dict[str, list[float]]]:
    """Both ends of each metric's interval; nothing for the reference itself."""
    return {"minus": {name: [one.low, one.high] for name, one in intervals.items()}} if intervals else {}


def _is_compared(means: Any) -> bool:
    return isinstance(means, dict) and "p" in means


def _ranks(rankings: Sequence[Ranking], model: str) -> Floats:
    """(X, 2), as the metrics take them."""
    return np.array([ranking.ranks[model] for ranking in rankings])


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
