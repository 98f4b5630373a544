"""The study: one data set, one recording of requests, many networks.

Enters: a log, what is asked, a folder. Leaves: the outcome as plain data. Called by `nowrank ablate`.

    study.json   what the study is of; a folder of another study is refused
    dataset/     the examples that all networks learn from (`data_set.py`)
    requests/    the requests that all of them rank, with the baselines' ranks (`requests.py`)
    networks/    the weights and ranks of each variant and seed (`networks.py`)

Whatever stands there is used again: a study that was interrupted goes on, and one that is asked with more seeds or
groups trains only what is missing.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from features.registry import schema_hash
from features.vector import COLUMN_NAMES
from infra import clock
from infra.errors import BadInput
from model.ablation.networks import Plan, ranks_of_network
from model.ablation.outcome import outcome
from model.ablation.question import Question
from model.ablation.requests import read_recorded, record
from model.ablation.variants import COMPARISONS, SHUFFLED, needed
from model.data_set import MANIFEST, read_data_set, write_data_set
from model.manifests import indented
from model.progress import Progress
from model.train import build_data_set
from streams.labels import Log

STUDY, DATA_SET, REQUESTS, NETWORKS = "study.json", "dataset", "requests", "networks"


def run_study(log: Log, question: Question, folder: Path, progress: Progress) -> dict[str, Any]:
    """Do what is missing in the folder and return the outcome; raises `BadInput` for a folder of another study."""
    begin_s = clock.monotonic_s()
    config = question.config
    folder.mkdir(parents=True, exist_ok=True)
    _claim(log, question, folder)
    if not (folder / DATA_SET / MANIFEST).is_file():
        write_data_set(build_data_set(log, config, progress), folder / DATA_SET)
    data = read_data_set(folder / DATA_SET)
    if not (folder / REQUESTS).is_dir():
        record(log, data, question.max_labels, config.seed, folder / REQUESTS, progress)
    compared = [one.minus for group in question.groups for one in COMPARISONS[group]]
    plan = Plan(data, read_recorded(folder / REQUESTS), config, folder / NETWORKS, SHUFFLED in compared)
    asked = [(variant, seed) for seed in range(question.seeds) for variant in needed(question.groups)]
    ranks = []
    for place, (variant, seed) in enumerate(asked):
        progress.note(f"network {place + 1} of {len(asked)}: {variant.name}, seed {seed}")
        ranks.append(ranks_of_network(plan, variant, seed, progress))
    progress.step("intervals", 1)
    names = plan.recorded.names
    rng = np.random.default_rng(config.seed)
    return {
        "derived": data.derived,
        "train_labels": len(data.train),
        "epochs": config.epochs,
        "seeds": question.seeds,
        "max_labels_per_task": question.max_labels,
        "labels_without_rank": names.without_rank,
        "catalogue": names.catalogue,
        "resamples": question.resamples,
        "tuned": names.tuned,
        **outcome(plan.recorded, ranks, question.groups, question.resamples, rng),
        "took_s": clock.monotonic_s() - begin_s,
    }


def _claim(log: Log, question: Question, folder: Path) -> None:
    """Write down what the folder is for, or compare with what stands there."""
    config = asdict(question.config)
    config.pop("threads")
    last = log.labels[-1] if log.labels else None
    about = {
        "schema_hash": schema_hash(COLUMN_NAMES),
        "ranks": "first and last",  # of equal scores; there were studies that kept the middle
        "labels": len(log.labels),
        "newest": f"{last.user_id}/{last.item_id}/{last.ts_ms}" if last else "",
        "max_labels": question.max_labels,
        "config": config,
    }
    path = folder / STUDY
    text = indented(about)
    if not path.is_file():
        if any(folder.iterdir()):
            raise BadInput("not_empty", f"{folder} holds other files; name an empty folder or one of a study")
        path.write_bytes(text)
    elif path.read_bytes() != text:
        raise BadInput(
            "other_study",
            f"{folder} holds a study of another log, configuration or draw; see {path}, or name another one",
        )
