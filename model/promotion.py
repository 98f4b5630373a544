"""The offline gate: may a candidate take the current artifact's place?

Enters: two artifacts and held-out data, served or of a log. Leaves: a verdict by task. Called by `nowrank promote`.

Both artifacts score the same titles of the same requests, after the time at which either of them stopped learning. A
task passes when the candidate's NDCG@10 is not worse (the lower end of the paired interval, as a share of the current
mean, is at least -margin, of at least LEAST_USERS users) and its probabilities are calibrated (expected calibration
error at most the bound, as a share of the mean label: what is rare in a catalogue is common among what is shown).
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.engagement import TASK_NAMES
from features.model_inputs import RequestInputs
from infra.errors import BadInput
from model.artifact import Artifact, Scores
from model.calibration import expected_calibration_error
from model.intervals import paired_interval
from model.progress import Progress, advancing
from model.ranking_metrics import CUT
from model.replay import Replay
from model.scoring import score_candidates
from model.served_examples import build_served, replay_of
from streams.labels import Log
from streams.served_log import ServedLog

TASKS = {int(task): name for name, task in TASK_NAMES.items()}
# Below it the interval says nothing: one user's has no width.
LEAST_USERS = 3

Floats = NDArray[np.float64]


class Bounds(NamedTuple):
    """What a candidate must keep to."""

    margin: float = 0.01
    ece: float = 0.5
    resamples: int = 1000
    seed: int = 0


@dataclass(slots=True)
class Tally:
    """What was seen of one task: users and gains of requests with a positive, probabilities and labels of all titles,
    and for how many titles the candidate's logit or probability is not finite.

    Gains and probabilities are lists by artifact: the candidate's first, then the current one's.
    """

    users: list[str] = field(default_factory=list)
    gains: list[list[float]] = field(default_factory=lambda: [[], []])
    probabilities: list[list[Floats]] = field(default_factory=lambda: [[], []])
    labels: list[Floats] = field(default_factory=list)
    not_finite: int = 0

    def add(self, user_id: str, labels_N: Floats, scores: list[tuple[Floats, Floats]]) -> None:
        """Take one request: the logits and probabilities of its titles by artifact."""
        self.labels.append(labels_N)
        self.not_finite += int((~np.isfinite(scores[0]).all(axis=0)).sum())
        for place, (_, probabilities_N) in enumerate(scores):
            self.probabilities[place].append(probabilities_N)
        if labels_N.any():
            self.users.append(user_id)
            for place, (logits_N, _) in enumerate(scores):
                self.gains[place].append(list_ndcg(logits_N, labels_N))


class TaskVerdict(NamedTuple):
    """One task: means, the paired interval of the difference as a share of the current mean, and what forbids."""

    task: str
    requests: int
    candidate: float
    current: float | None
    low: float | None
    high: float | None
    base_rate: float
    ece: float
    current_ece: float | None
    reasons: tuple[str, ...]


def judge_on_served(
    candidate: Artifact, current: Artifact | None, served: ServedLog, bounds: Bounds, progress: Progress
) -> list[TaskVerdict]:
    """The verdicts on rankings after both artifacts' middle parts; raises `BadInput` when there are none."""
    artifacts = [candidate] if current is None else [candidate, current]
    begin_ms = max(int(one.card.training.get("middle_end_ms", 0)) for one in artifacts)
    replay = replay_of(served)
    data = build_served(served, replay, progress)
    rows = np.flatnonzero(data.times_ms_B >= begin_ms)
    encoded = [one.encode_items(replay.table) for one in artifacts]
    tallies: dict[str, Tally] = defaultdict(Tally)
    progress.step("judge", len(rows))
    for row in advancing(progress, rows.tolist()):
        real = data.examples.slots_BK[row] > 0
        slots, pairs_NF = data.examples.slots_BK[row][real], data.examples.pairs_BKF[row][real]
        inputs = _inputs(data.examples.requests, row)
        scores = []
        for artifact, vectors in zip(artifacts, encoded, strict=True):
            scores.append(_as_doubles(artifact.score(vectors, inputs, slots, pairs_NF)))
        labels_N = data.examples.labels_BK[row][real].astype(np.float64)
        tallies[TASKS[inputs.task]].add(str(data.users_B[row]), labels_N, scores)
    return judge(tallies, current is not None, bounds)


def judge_on_log(
    candidate: Artifact, current: Artifact | None, log: Log, chosen: set[int], bounds: Bounds, progress: Progress
) -> list[TaskVerdict]:
    """The verdicts on chosen labels (object ids): for positive ones all titles that a user has not engaged yet are
    ranked, the others only check the calibration.
    """
    artifacts = [candidate] if current is None else [candidate, current]
    replay = Replay(log)
    catalogue = replay.table.catalogue_slots()
    encoded = [one.encode_items(replay.table) for one in artifacts]
    tallies: dict[str, Tally] = defaultdict(Tally)
    progress.step("judge", len(log.labels))
    for label in advancing(progress, replay.labels_until(log.labels[-1].ts_ms + 1)):
        if id(label) not in chosen:
            continue
        slots = catalogue[~np.isin(catalogue, list(replay.engaged.get(label.user_id, set())))]
        own_N = slots == replay.table.slot_by_id.get(label.item_id, 0)
        if own_N.any():
            context = replay.context(label)
            scores = [
                _as_doubles(score_candidates(*one, replay.table, context, slots))
                for one in zip(artifacts, encoded, strict=True)
            ]
            tallies[label.task].add(label.user_id, (own_N & label.positive).astype(np.float64), scores)
    return judge(tallies, current is not None, bounds)


def judge(tallies: dict[str, Tally], has_current: bool, bounds: Bounds) -> list[TaskVerdict]:
    """A verdict for each task that was seen with a positive; raises `BadInput` when none was."""
    rng = np.random.default_rng(bounds.seed)
    seen = {task: tally for task, tally in tallies.items() if tally.users}
    if not seen:
        raise BadInput(
            "too_few_labels",
            "there is no engaged title after the time at which the artifacts stopped learning: nothing to judge by",
        )
    return [_judge_task(task, seen[task], has_current, bounds, rng) for task in TASK_NAMES if task in seen]


def list_ndcg(logits_N: Floats, labels_N: Floats) -> float:
    """NDCG@10 of a list with any number of right titles. Equal scores are worth the mean of their places: the list
    itself is in the order of the model that served it. A score that is not finite is worth the last place.
    """
    discounts_N = np.where(np.arange(len(labels_N)) < CUT, 1.0 / np.log2(np.arange(len(labels_N)) + 2.0), 0.0)
    is_finite_N = np.isfinite(logits_N)
    _, group_N, sizes = np.unique(-np.where(is_finite_N, logits_N, -np.inf), return_inverse=True, return_counts=True)
    means = np.add.reduceat(discounts_N, np.cumsum(sizes) - sizes) / sizes
    expected_N = np.where(is_finite_N, means[group_N], discounts_N[-1])
    best_N = np.sort(labels_N)[::-1]
    return float((labels_N * expected_N).sum() / (best_N * discounts_N).sum())


def _judge_task(task: str, tally: Tally, has_current: bool, bounds: Bounds, rng: np.random.Generator) -> TaskVerdict:
    labels = np.concatenate(tally.labels)
    eces = [
        expected_calibration_error(np.concatenate(of_one), labels, np.ones(len(labels)))
        for of_one in tally.probabilities
        if of_one
    ]
    candidate = np.array(tally.gains[0])
    reasons = []
    base_rate = float(labels.mean())
    if tally.not_finite:
        reasons.append(f"{tally.not_finite} of {len(labels)} scores are not finite")
    if not eces[0] <= bounds.ece * base_rate:  # NaN is no small error
        reasons.append(f"calibration error {eces[0]:.2g} > {bounds.ece:g} x {base_rate:.2g}")
    current_mean = low = high = None
    if has_current:
        current = np.array(tally.gains[1])
        current_mean = float(current.mean())
        users = np.unique(tally.users, return_inverse=True)[1]
        if users.max() + 1 < LEAST_USERS:
            reasons.append(f"users who engaged with a title: {users.max() + 1}; comparing takes at least {LEAST_USERS}")
        interval = paired_interval(candidate - current, users, bounds.resamples, rng)
        low, high = (end / max(current_mean, 1e-9) for end in (interval.low, interval.high))
        if not low >= -bounds.margin:  # NaN passes nothing
            reasons.append(f"may be worse by {-low:.1%}, more than {bounds.margin:.1%}")
    current_ece = eces[1] if has_current else None
    mean = float(candidate.mean())
    return TaskVerdict(
        task, len(candidate), mean, current_mean, low, high, base_rate, eces[0], current_ece, tuple(reasons)
    )


def _as_doubles(scored: Scores) -> tuple[Floats, Floats]:
    return scored.logits_N.astype(np.float64), scored.probabilities_N.astype(np.float64)


def _inputs(requests: dict[str, NDArray[np.generic]], row: int) -> RequestInputs:
    """One example's request, its numbers as Python's."""
    values = {name: array[row] for name, array in requests.items()}
    return RequestInputs(**{name: int(one) if np.ndim(one) == 0 else one for name, one in values.items()})  # type: ignore[arg-type]
