"""Roles: which labels of a log tune the baselines, which test, and which only check the calibration.

Enters: a log and where its parts end. Leaves: the role of each label that is drawn. Called by the evaluation.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from streams.labels import Label, Log

TUNING_LABELS = 400

Role = Literal["tune", "blend", "test", "calibrate"]


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the training part of a log ends, and where its middle part does: the test part begins there."""

    train_end_ms: int
    middle_end_ms: int


@dataclass(frozen=True, slots=True)
class Roles:
    """The role of each label by its object id; and for each search of a test, the next title that its user liked in
    the session.
    """

    by_label: dict[int, Role] = field(default_factory=dict)
    next_item: dict[int, str] = field(default_factory=dict)

    def tests(self) -> int:
        """How many labels test."""
        return sum(role == "test" for role in self.by_label.values())


def draw_roles(log: Log, parts: Parts, max_labels: int | None, rng: np.random.Generator) -> Roles:
    """At most `max_labels` positive labels of each task test, the same share of its others check the calibration;
    TUNING_LABELS of each task's middle part tune, the later half of them the blend.
    """
    roles = Roles()
    test = [label for label in log.labels if label.ts_ms >= parts.middle_end_ms]
    chosen = choose_labels([label for label in test if label.positive], max_labels, rng)
    roles.by_label.update(dict.fromkeys(chosen, "test"))
    roles.by_label.update(dict.fromkeys(choose_others(test, chosen, rng), "calibrate"))
    middle = [label for label in log.labels if parts.train_end_ms <= label.ts_ms < parts.middle_end_ms]
    tuning = choose_labels([label for label in middle if label.positive], TUNING_LABELS, rng)
    by_task: dict[str, list[Label]] = defaultdict(list)
    for label in middle:
        if id(label) in tuning:
            by_task[label.task].append(label)
    for of_task in by_task.values():
        half = (len(of_task) + 1) // 2
        roles.by_label.update({id(label): "tune" for label in of_task[:half]})
        roles.by_label.update({id(label): "blend" for label in of_task[half:]})
    roles.next_item.update(_next_items(test, chosen))
    return roles


def choose_labels(labels: Sequence[Label], max_labels: int | None, rng: np.random.Generator) -> set[int]:
    """The object ids of at most `max_labels` labels of each task."""
    by_task: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        by_task[label.task].append(label)
    chosen: set[int] = set()
    for of_task in by_task.values():
        count = len(of_task) if max_labels is None else min(max_labels, len(of_task))
        chosen |= {id(of_task[index]) for index in rng.permutation(len(of_task))[:count]}
    return chosen


def choose_others(labels: Sequence[Label], chosen: set[int], rng: np.random.Generator) -> set[int]:
    """The object ids of some labels that are not positive: of each task about the share that `chosen` is of the
    positive ones, so that both together are as often positive as all labels.
    """
    positive = Counter(label.task for label in labels if label.positive)
    taken = Counter(label.task for label in labels if id(label) in chosen)
    others = [label for label in labels if not label.positive]
    rolls = rng.random(len(others)).tolist()
    return {
        id(label)
        for label, roll in zip(others, rolls, strict=True)
        if roll < taken[label.task] / max(1, positive[label.task])
    }


def _next_items(labels: list[Label], chosen: set[int]) -> dict[int, str]:
    """For each chosen search, the title of the next positive label of its session."""
    following: dict[tuple[str, str], str] = {}
    found: dict[int, str] = {}
    for label in reversed(labels):
        session = (label.user_id, label.session_id)
        if label.task == "search" and id(label) in chosen and following.get(session, label.item_id) != label.item_id:
            found[id(label)] = following[session]
        if label.positive:
            following[session] = label.item_id
    return found
