"""Training from what was served: from logged rankings and their labels to an artifact.

Enters: a `ServedLog`. Leaves: an artifact in a folder, and a `TrainReport`. Called by `nowrank train --from served`.

The rankings are cut by time: 80 % train, the next 10 % decide when to stop and calibrate, the last 10 % are left for
`nowrank promote`: titles begin as co-vectors of the training part, co-plays and EASE end with the middle part, as in
`train.py`. Probabilities are those of a title that is shown, not of one drawn from the catalogue.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from features.item_table import ItemTable
from infra import clock
from infra.errors import BadInput
from model.artifact import save_artifact
from model.batches import Catalogue
from model.co_vectors import co_vectors
from model.config import TrainConfig
from model.ease import fit_ease
from model.examples import Split, cut_times
from model.export import write_graphs
from model.fit import calibrate, logits_of, standardise
from model.position_bias import Correction
from model.pretrained import new_network, of_co_vectors
from model.progress import Progress, Silent
from model.replay import Replay
from model.served_examples import ServedExamples, build_served, replay_of, told_sources
from model.served_fit import ServedFit
from model.train import TrainReport
from streams.served_log import ServedLog

SERVED = "served"
LEAST_RANKINGS = 200
LEAST_POSITIVES = 20
SHOWN_PLACES = 12
# The shown titles are few, and the same ones at each look.
DEFAULT = TrainConfig(epochs=3)


def train_on_served(
    served: ServedLog,
    out_dir: Path,
    *,
    config: TrainConfig,
    correction: Correction = "position",
    replay_others: bool = False,
    budget_s: float = 150.0,
    progress: Progress | None = None,
) -> TrainReport:
    """Train on served rankings and write the artifact to `out_dir`; raises `BadInput` when there are too few."""
    progress = progress or Silent()
    begin_s = clock.monotonic_s()
    replay = replay_of(served)
    data = build_served(served, replay, progress, replay_others=replay_others)
    _check_enough(data, served)
    split, train, middle = split_served(data)
    data_s = clock.monotonic_s() - begin_s
    catalogue = Catalogue.of(replay.table)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    early, size = numbered_alike(served, replay.table), len(replay.table)
    early.fold_until(split.train_end_ms)
    pretrained = None
    if config.model.co_vectors:
        pretrained = of_co_vectors(co_vectors(early.co_plays.pairs(size), size), size, config.model)
    early.fold_until(split.middle_end_ms)
    model = new_network(config.model, size, pretrained)
    standardise(model, train.examples)
    fit = ServedFit(model, catalogue, config, correction)
    losses = fit.run(train, middle, begin_s + budget_s, progress)
    logits_BK = logits_of(model, catalogue, middle.examples)
    training = {
        "source": SERVED, "labels": len(train), "middle_labels": len(middle), "epochs": len(losses[0]), "shift_ms": 0,
        "correction": correction, "positions": fit.learned_positions(SHOWN_PLACES), "labels_from": served.labels_from,
        "rankings": dict(data.sources), "left_out": dict(served.left_out),
    }  # fmt: skip
    card = save_artifact(
        out_dir,
        lambda folder: write_graphs(model, folder),
        (early.co_plays.table(size), fit_ease(early.engaged.values(), size)),
        served.items,
        {
            "created_ms": clock.now_ms(),
            "vocabulary": tuple(replay.table.ids),
            "calibration": calibrate(logits_BK, middle.examples),
            "config": asdict(replace(fit.config, model=model.config)),
            "training": training | asdict(split),
            "metrics": {"middle_loss": min(losses[1])},
        },
    )
    return TrainReport(card, *losses, data_s, clock.monotonic_s() - begin_s - data_s)


def numbered_alike(served: ServedLog, table: ItemTable) -> Replay:
    """A second replay of the served log's events, nothing folded yet, whose titles have the slots of `table`: what it
    counts can stop where the parts end.
    """
    replay = replay_of(served)
    for item_id in table.ids[1:]:
        replay.table.slot(item_id)
    return replay


def split_served(data: ServedExamples) -> tuple[Split, ServedExamples, ServedExamples]:
    """Cut by time like a log of labels, without a warm-up: the ends, the training part, the middle part."""
    times = data.times_ms_B
    split = Split(*cut_times(times.tolist(), (0.0, 0.8, 0.9)))
    train = np.flatnonzero(times < split.train_end_ms)
    middle = np.flatnonzero((times >= split.train_end_ms) & (times < split.middle_end_ms))
    return split, data.take(train), data.take(middle)


def _check_enough(data: ServedExamples, served: ServedLog) -> None:
    positives = int(data.examples.labels_BK.sum())
    if len(data) < LEAST_RANKINGS or positives < LEAST_POSITIVES:
        raise BadInput(
            "too_few_labels",
            f"the log has {len(data)} usable rankings with {positives} titles engaged; training needs at least "
            f"{LEAST_RANKINGS} and {LEAST_POSITIVES}. {told_sources(data.sources, served)}",
        )
