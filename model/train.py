"""Training: from a log of labels to an artifact.

Enters: a `Log`, or a `DataSet` made of one. Leaves: an artifact in a folder, and a `TrainReport`. Called by `nowrank
train`, `nowrank dataset` and the demo.

The log is cut by time: 80 % (the first quarter of it only warms the state up) trains the network, the next 10 %
decides when to stop and calibrates, the last 10 % is never looked at. The artifact's co-play counts run to the end of
the middle part, as does its fit of EASE.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from features.engagement import TASK_NAMES
from infra import clock
from infra.errors import BadInput
from model.artifact import Card, save_artifact
from model.batches import Catalogue, with_id_dropout
from model.checkpoint import Checkpoint, Losses, fingerprint
from model.config import TrainConfig
from model.data_set import PARTS, DataSet
from model.ease import fit_ease
from model.examples import Built, Split, build_examples, split_by_time
from model.export import write_graphs
from model.fit import calibrate, fit, logits_of, sampled_ndcg, standardise
from model.pretrained import Pretrained, new_network, pretrained_titles
from model.progress import Progress, Silent
from model.replay import Replay
from model.unicorn import Unicorn
from streams.labels import Log

LEAST_LABELS = 200
DEFAULT = TrainConfig()


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What happened: the artifact's card, the losses by epoch and where the time went."""

    card: Card
    train_losses: list[float]
    middle_losses: list[float]
    data_s: float
    fit_s: float


def report_json(report: TrainReport) -> str:
    """The fields of the card but the vocabulary, the losses and the times, in one line of JSON."""
    card = {name: getattr(report.card, name) for name in report.card.__struct_fields__ if name != "vocabulary"}
    rest = {name: getattr(report, name) for name in ("train_losses", "middle_losses", "data_s", "fit_s")}
    return msgspec.json.encode(card | rest).decode()


def train_on_log(
    log: Log,
    out_dir: Path,
    *,
    config: TrainConfig = DEFAULT,
    budget_s: float = 150.0,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> TrainReport:
    """Train on the log and write the artifact to `out_dir`; raises `BadInput` when the log is too short.

    No epoch but the first begins that would not end within `budget_s`, so the budget decides, by the machine's speed,
    how many there are; with time enough the same seed gives the same model. After each epoch `checkpoint` holds what is
    needed to go on: the same call goes on from there.
    """
    begin_s = clock.monotonic_s()
    progress = progress or Silent()
    data = build_data_set(log, config, progress)
    data_s = clock.monotonic_s() - begin_s
    budget_s -= data_s
    return train_on_data_set(
        data, out_dir, config=config, budget_s=budget_s, progress=progress, data_s=data_s, checkpoint=checkpoint
    )


def train_on_data_set(
    data: DataSet,
    out_dir: Path,
    *,
    config: TrainConfig,
    budget_s: float = 150.0,
    progress: Progress | None = None,
    data_s: float = 0.0,
    checkpoint: Path | None = None,
) -> TrainReport:
    """Train on a data set and write the artifact to `out_dir`, in `budget_s` and with a `checkpoint` as `train_on_log`
    does; `data_s` is what it took to build or read the data set.
    """
    begin_s = clock.monotonic_s()
    config = with_id_dropout(config, data.train, data.middle)
    pretrained = pretrained_titles(data, config)
    kept = None if checkpoint is None else Checkpoint(checkpoint, fingerprint(data, config))
    model, catalogue, losses = fit_network(data, config, begin_s + budget_s, progress or Silent(), pretrained, kept)
    logits_BK = logits_of(model, catalogue, data.calibration)
    counts = {"labels": len(data.train), "middle_labels": len(data.middle), "epochs": len(losses[0])}
    ndcg10 = sampled_ndcg(logits_BK, data.calibration)
    card = save_artifact(
        out_dir,
        lambda folder: write_graphs(model, folder),
        (data.neighbours, data.ease),
        data.items,
        {
            "created_ms": clock.now_ms(),
            "vocabulary": tuple(data.table.ids),
            "calibration": calibrate(logits_BK, data.calibration),
            "config": asdict(replace(config, model=model.config)),
            "training": counts
            | {"tasks": [name for name, task in TASK_NAMES.items() if task in data.train.requests["task"]]}
            | {"shift_ms": data.shift_ms, "titles_begin": pretrained.identity if pretrained is not None else None}
            | asdict(data.split),
            "metrics": {"middle_loss": min(losses[1]), "middle_sampled_ndcg10": ndcg10},
        },
    )
    return TrainReport(card, *losses, data_s, clock.monotonic_s() - begin_s)


def fit_network(
    data: DataSet,
    config: TrainConfig,
    deadline_s: float,
    progress: Progress,
    pretrained: Pretrained | None,
    checkpoint: Checkpoint | None = None,
) -> tuple[Unicorn, Catalogue, Losses]:
    """A network that has learned from a data set, the titles as it takes them, and both losses by epoch."""
    catalogue = Catalogue.of(data.table)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    model = new_network(config.model, len(data.table), pretrained)
    standardise(model, data.train)
    losses = fit(model, catalogue, (data.train, data.middle), config, deadline_s, progress, checkpoint)
    return model, catalogue, losses


def build_data_set(log: Log, config: TrainConfig, progress: Progress | None = None) -> DataSet:
    """Replay the log into a data set; raises `BadInput` when it is too short, or when a part gets no example, or none
    that is positive.
    """
    if len(log.labels) < LEAST_LABELS:
        raise BadInput(
            "too_few_labels", f"the log has {len(log.labels)} labels; training needs at least {LEAST_LABELS}"
        )
    split = split_by_time(log)
    log = log.as_known((split.train_end_ms, split.middle_end_ms))
    replay = Replay(log)
    built = _build(replay, log, split, config, progress or Silent())
    if empty := [part for part in PARTS if not len(getattr(built, part))]:
        raise BadInput(
            "too_few_labels",
            f"of about {config.train_labels} training examples (--labels) the draw left none for: {', '.join(empty)}; "
            "ask for more, or give a longer log",
        )
    if negative := [part for part in ("train", "middle") if not getattr(built, part).labels_BK.any()]:
        raise BadInput(
            "too_few_labels",
            f"no label is positive in: {', '.join(negative)}. A click is, a thumb up, and a play that reached 60 % of "
            "its known length; watched_ms and duration_ms must have one unit",
        )
    table = replay.table
    return DataSet(
        **built._asdict(),
        table=table,
        neighbours=replay.co_plays.table(len(table)),
        ease=fit_ease(replay.engaged.values(), len(table)),
        items=log.items,
        split=split,
        shift_ms=log.shift_ms,
        derived=log.derived,
        range_ms=(log.labels[0].ts_ms, log.labels[-1].ts_ms),
    )


def _build(replay: Replay, log: Log, split: Split, config: TrainConfig, progress: Progress) -> Built:
    """The examples, about as many of each part as the configuration asks for."""
    times = np.array([label.ts_ms for label in log.labels])
    warm_up, trained, held = (
        int((times < end_ms).sum()) for end_ms in (split.warm_up_end_ms, split.train_end_ms, split.middle_end_ms)
    )
    chances = {
        "train": config.train_labels / max(1, trained - warm_up),
        "middle": config.middle_labels / max(1, held - trained),
        "calibration": config.calibration_labels / max(1, held - trained),
    }
    progress.step("replay", held)
    negatives = (config.negatives, config.calibration_negatives)
    return build_examples(replay, split, chances, negatives, np.random.default_rng(config.seed), progress)
