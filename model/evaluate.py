"""Evaluation: an artifact against tuned baselines on the last part of a log, or the baselines alone.

Enters: a log and an artifact. Leaves: NDCG@10, HR@10 and MRR by task and model, with paired intervals, as plain data.
Called by `nowrank evaluate` and the demo.

Each positive label after the artifact's middle part is scored once, from the state strictly before it, through the ONNX
graphs that serve (`ranked.py`). The baselines are tuned on the middle part, in the same replay (`tuning.py`).
`max_labels` draws that many labels per task at random, by seed.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra import clock
from infra.errors import BadInput
from model.artifact import Artifact, load_artifact
from model.baselines import Fitted
from model.ease_baseline import FittedEase
from model.examples import split_by_time
from model.ials_baseline import FittedIals, has_ials
from model.moments import Moment
from model.outcome import RESAMPLES, task_results
from model.progress import Progress, Silent
from model.ranked import Entrants, ModelScores, Score, rank_log
from model.replay import Replay
from model.roles import Parts, draw_roles
from model.scoring import score_candidates
from streams.labels import Log
from streams.sources.log_files import newest_part

QUICK_LABELS = 200
QUICK_EVENTS = 300_000
# An epoch of SASRec costs the product of labels and titles: half a minute for so many on one core.
MOST_SCORES = 2_000_000_000
# A catalogue changes while a log goes on: of a log of the same titles most are still called the same.
LEAST_SHARED = 0.5
# Of a task of which the draw of training labels takes so many on average, it never takes none.
SURE = 10


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is evaluated: at most `max_labels` of each task (None: all), bootstrapped `resamples` times.

    `quick` tests QUICK_LABELS of each task where `max_labels` is None, and of a long log begins with an empty state
    QUICK_EVENTS before the end of the training part; `without` leaves out baselines that take a while to fit, by name:
    "ials", "sasrec".
    """

    max_labels: int | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    quick: bool = False
    without: tuple[str, ...] = ("sasrec",)


def evaluate_artifact(
    log: Log, artifact_dir: Path | None, scope: Scope, progress: Progress | None = None
) -> dict[str, Any]:
    """The result by task (see `outcome.py`) with what it was measured on; without an artifact, of the baselines alone.

    Raises `BadInput` when the log is not the artifact's (`check_log`), and when it has no label to test on, or none of
    a title that is new to its user.
    """
    progress = progress or Silent()
    max_labels = scope.max_labels
    begin_s = clock.monotonic_s()
    artifact = load_artifact(artifact_dir) if artifact_dir is not None else None
    if artifact is not None:
        check_log(artifact, log)
    parts = artifact_parts(artifact, log) if artifact is not None else log_parts(log)
    log = log.as_known((parts.train_end_ms, parts.middle_end_ms))
    labels = len(log.labels)
    if scope.quick:
        max_labels = max_labels or QUICK_LABELS
        log = newest_part(log, parts.train_end_ms, QUICK_EVENTS)
    rng = np.random.default_rng(scope.seed)
    roles = draw_roles(log, parts, max_labels, rng)
    if not roles.tests():
        raise BadInput(
            "too_few_labels", f"the log has no positive label after {parts.middle_end_ms}, where the middle part ends"
        )
    fitted, left_out = fitted_baselines(log, parts, scope, progress)
    make_score = (lambda replay: model_scores(artifact, replay)) if artifact is not None else None
    ranked = rank_log(log, parts, roles, Entrants(make_score, fitted), rng, progress)
    if not ranked.rankings:
        raise BadInput(
            "nothing_to_rank",
            f"none of the {roles.tests():,} tested labels has a rank: each is about a title that its user had engaged "
            "before, or that is not in the catalogue",
        )
    progress.step("intervals", 1)
    return {
        "model_version": artifact.version if artifact is not None else None,
        "derived": log.derived,
        "labels": len(log.labels),
        "labels_left_out": labels - len(log.labels),
        "catalogue": ranked.catalogue,
        "test_begin_ms": parts.middle_end_ms,
        "test_part_labels": sum(label.ts_ms >= parts.middle_end_ms for label in log.labels),
        "max_labels_per_task": max_labels,
        "labels_without_rank": ranked.without_rank,
        "resamples": scope.resamples,
        "seed": scope.seed,
        "tuned": ranked.tuned,
        "baselines_left_out": left_out,
        **task_results(ranked, scope.resamples, rng),
        "took_s": clock.monotonic_s() - begin_s,
    }


def fitted_baselines(
    log: Log, parts: Parts, scope: Scope, progress: Progress
) -> tuple[tuple[Fitted, ...], dict[str, str]]:
    """The baselines that are fitted, and those that are left out, with the reason."""
    fitted: list[Fitted] = [FittedEase()]
    left_out = dict.fromkeys(scope.without, "not asked for")
    if "ials" not in left_out and has_ials():
        fitted.append(FittedIals())
    else:
        left_out.setdefault("ials", "the library implicit is not installed: pip install 'nowrank[evaluate]'")
    if "sasrec" in left_out:
        return tuple(fitted), left_out
    if len(log.labels) * len(log.items) > MOST_SCORES:
        left_out["sasrec"] = f"the log is too long: labels times titles are more than {MOST_SCORES:,}"
    else:
        from model.sasrec_baseline import FittedSasrec

        fitted.append(FittedSasrec(log, parts.train_end_ms, scope.seed, progress))
    return tuple(fitted), left_out


def artifact_parts(artifact: Artifact, log: Log) -> Parts:
    """The parts of the log that the artifact was trained with, in the log's time; raises `BadInput` when the log does
    not go on after them. Whether it is the same log: `check_log`.
    """
    training = artifact.card.training
    moved_ms = log.shift_ms - int(training["shift_ms"])
    parts = Parts(int(training["train_end_ms"]) + moved_ms, int(training["middle_end_ms"]) + moved_ms)
    begin_ms = parts.middle_end_ms
    if not log.labels or not log.labels[0].ts_ms < begin_ms <= log.labels[-1].ts_ms:
        raise BadInput(
            "other_log",
            f"the artifact was trained on a log up to {begin_ms}; this log does not go from before to after that: "
            "train on it first",
        )
    return parts


def check_log(artifact: Artifact, log: Log) -> None:
    """Raise `BadInput` when the log asks something else than the one that the artifact learned from: other titles, or
    a training part with other tasks.
    """
    titles = {item.item_id: item.title for item in log.items}
    same = sum(titles.get(item.item_id) == item.title for item in artifact.items)
    if same < LEAST_SHARED * len(artifact.items):
        raise _other_log(
            f"of the {len(artifact.items):,} titles that the artifact knows, {same:,} are in this log by that name"
        )
    training, train_end_ms = artifact.card.training, artifact_parts(artifact, log).train_end_ms
    begin_ms = train_end_ms - (int(training["train_end_ms"]) - int(training["warm_up_end_ms"]))
    counts = Counter(label.task for label in log.labels if begin_ms <= label.ts_ms < train_end_ms)
    learned = training.get("tasks", list(counts))  # served rankings, and artifacts of before, name none
    enough = SURE * counts.total() / training["labels"]
    unlearned = [task for task in counts if task not in learned and counts[task] > enough]
    if unlearned or not counts.keys() >= set(learned):
        raise _other_log(f"the artifact learned {_listed(learned)}; this log has {_listed(counts)}")


def _listed(tasks: Iterable[str]) -> str:
    return ", ".join(sorted(tasks))


def _other_log(what: str) -> BadInput:
    return BadInput(
        "other_log",
        f"{what}: judge it on the log that it was trained on, with the same --items, --map, --type and --time-unit",
    )


def log_parts(log: Log) -> Parts:
    """The parts that training would cut the log into."""
    if not log.labels:
        raise BadInput("too_few_labels", "the log has no label; give one that has events")
    split = split_by_time(log)
    return Parts(split.train_end_ms, split.middle_end_ms)


def model_scores(artifact: Artifact, replay: Replay) -> Score:
    """The artifact's scores of moments of a replay, by the calls that the scorer makes."""
    encoded = artifact.encode_items(replay.table)

    def score(moment: Moment) -> ModelScores:
        scores = score_candidates(artifact, encoded, replay.table, moment.context, moment.slots_N)
        return ModelScores(scores.logits_N, scores.probabilities_N)

    return score
