"""Evaluation: an artifact against the baselines on the last part of a log.

Enters: a log and an artifact. Leaves: NDCG@10, HR@10 and MRR by task and model, with paired intervals, as plain data.
Called by `nowrank evaluate` and the demo.

Each positive label after the artifact's middle part is scored once, from the state strictly before it, through the ONNX
graphs that serve: all titles of the catalogue that its user has not engaged yet are ranked, by every model the same
ones. A label whose title the user had engaged before, or that is not in the catalogue, has no rank; how many there were
is counted. `max_labels` draws that many labels per task at random, by seed.
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.engagement import TASK_NAMES
from features.model_inputs import request_inputs
from features.vector import pair_matrix
from infra import clock
from infra.errors import BadInput
from model.artifact import Artifact, ItemVectors, load_artifact
from model.baselines import BASELINES, Moment, RecentPlays
from model.progress import Progress, Silent, advancing
from model.ranking_metrics import ndcg, paired_interval, rank_of, summarise
from model.replay import Replay
from streams.labels import Label, Log

MODEL = "unicorn"
RESAMPLES = 1000

Floats = NDArray[np.float64]


def evaluate_artifact(
    log: Log,
    artifact_dir: Path,
    *,
    max_labels: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The result by task (see `task_result`) with what it was measured on; raises `BadInput` when the log has no label
    to test on.
    """
    progress = progress or Silent()
    begin_s = clock.monotonic_s()
    artifact = load_artifact(artifact_dir)
    begin_ms = test_begin_ms(artifact, log)
    rng = np.random.default_rng(seed)
    chosen = choose_labels(
        [label for label in log.labels if label.ts_ms >= begin_ms and label.positive], max_labels, rng
    )
    if not chosen:
        raise BadInput(
            "too_few_labels", f"the log has no positive label after {begin_ms}, where the artifact's training ends"
        )
    ranks, users, skipped = rank_labels(log, artifact, chosen, progress)
    user_numbers = {
        user: number for number, user in enumerate(sorted({user for of_task in users.values() for user in of_task}))
    }
    tasks = {
        task: task_result(
            {model: np.array(of_model) for model, of_model in of_task.items()},
            np.array([user_numbers[user] for user in users[task]]),
            resamples,
            rng,
        )
        for task, of_task in ranks.items()
    }
    return {
        "model_version": artifact.version,
        "test_begin_ms": begin_ms,
        "max_labels_per_task": max_labels,
        "labels_without_rank": skipped,
        "resamples": resamples,
        "seed": seed,
        "took_s": clock.monotonic_s() - begin_s,
        "tasks": tasks,
    }


def test_begin_ms(artifact: Artifact, log: Log) -> int:
    """Where the artifact's middle part ends, in the log's time; raises `BadInput` when the artifact was trained on
    another log.
    """
    training = artifact.card.training
    begin_ms = int(training["middle_end_ms"]) - int(training["shift_ms"]) + log.shift_ms
    if not log.labels or not log.labels[0].ts_ms < begin_ms <= log.labels[-1].ts_ms:
        raise BadInput(
            "other_log",
            f"the artifact was trained on a log up to {begin_ms}; this log does not go from before to after that: "
            "train on it first",
        )
    return begin_ms


def choose_labels(labels: list[Label], max_labels: int | None, rng: np.random.Generator) -> set[int]:
    """The object ids of at most `max_labels` labels of each task."""
    by_task: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        by_task[label.task].append(label)
    chosen: set[int] = set()
    for of_task in by_task.values():
        count = len(of_task) if max_labels is None else min(max_labels, len(of_task))
        chosen |= {id(of_task[index]) for index in rng.permutation(len(of_task))[:count]}
    return chosen


def rank_labels(
    log: Log, artifact: Artifact, chosen: set[int], progress: Progress
) -> tuple[dict[str, dict[str, list[float]]], dict[str, list[str]], int]:
    """The rank of each chosen label's title, by task and model, the label's user by task, and how many labels had no
    rank.
    """
    replay = Replay(log)
    recent = RecentPlays(log, replay)
    encoded = artifact.encode_items(replay.table)
    catalogue = np.array([slot for slot, item in enumerate(replay.table.items) if item is not None], np.int64)
    ranks: dict[str, dict[str, list[float]]] = {task: defaultdict(list) for task in TASK_NAMES}
    users: dict[str, list[str]] = {task: [] for task in TASK_NAMES}
    counts: Counter[str] = Counter()
    progress.step("evaluate", len(log.labels))
    for label in advancing(progress, replay.labels_until(log.labels[-1].ts_ms + 1)):
        if id(label) not in chosen:
            continue
        engaged = replay.engaged.get(label.user_id, set())
        slots = catalogue[~np.isin(catalogue, list(engaged))] if engaged else catalogue
        own = np.flatnonzero(slots == replay.table.slot_by_id.get(label.item_id, 0))
        if len(own) == 0:
            counts["skipped"] += 1
            continue
        moment = Moment(replay, recent, label, replay.context(label), slots)
        ranks[label.task][MODEL].append(rank_of(model_scores(artifact, encoded, moment), int(own[0])))
        for name, baseline in BASELINES[label.task].items():
            ranks[label.task][name].append(rank_of(baseline(moment), int(own[0])))
        users[label.task].append(label.user_id)
    return {task: dict(of_task) for task, of_task in ranks.items() if of_task}, users, counts["skipped"]


def model_scores(artifact: Artifact, encoded: ItemVectors, moment: Moment) -> NDArray[np.float32]:
    """The artifact's logits, by the calls that the scorer makes."""
    table, context, slots = moment.replay.table, moment.context, moment.slots
    pairs_NF = pair_matrix(table, slots, context, artifact.similarities(encoded, table, context, slots))
    return artifact.score(encoded, request_inputs(table, context), slots, pairs_NF).logits_N


def task_result(
    ranks: dict[str, Floats], users: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Each model's means, the best baseline by NDCG@10, and the interval of UniCoRn's NDCG@10 minus each baseline's,
    paired by label.
    """
    result: dict[str, Any] = {model: summarise(of_model) for model, of_model in ranks.items()}
    baselines = [model for model in ranks if model != MODEL]
    gains = ndcg(ranks[MODEL])
    intervals = {model: paired_interval(gains - ndcg(ranks[model]), users, resamples, rng) for model in baselines}
    best = max(baselines, key=lambda model: result[model]["ndcg10"])
    for model, interval in intervals.items():
        result[model] |= {"unicorn_minus_low": interval.low, "unicorn_minus_high": interval.high}
    return result | {
        "labels": len(users),
        "users": len(np.unique(users)),
        "best_baseline": best,
        "paired_low": intervals[best].low,
        "paired_high": intervals[best].high,
    }


def result_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = [
        "| task | model | NDCG@10 | HR@10 | MRR | UniCoRn minus this, NDCG@10, 95 % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task, of_task in result["tasks"].items():
        for model, means in of_task.items():
            if not isinstance(means, dict):
                continue
            interval = (
                "" if model == MODEL else f"{means['unicorn_minus_low']:+.3f} .. {means['unicorn_minus_high']:+.3f}"
            )
            name = f"**{model}**" if model == MODEL else model
            lines.append(
                f"| {task} | {name} | {means['ndcg10']:.3f} | {means['hr10']:.3f} | {means['mrr']:.3f} | {interval} |"
            )
    return "\n".join(lines) + "\n"
