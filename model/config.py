"""Configuration: every size, rate and switch of the network and of its training, in two dataclasses.

Enters: nothing. Leaves: defaults. Read by `unicorn.py`, `switches.py`, `fit.py` and `train.py`; written into the
artifact's card.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Personalisation(StrEnum):
    """How much of the member the network sees: nothing; the cluster of the history; also what other recommenders say
    (item-kNN, EASE); also the history and the session themselves.
    """

    NONE = "none"
    CLUSTERS = "clusters"
    SCORES = "scores"
    FULL = "full"


class SessionForm(StrEnum):
    """How the session becomes a vector (`encoders.py`)."""

    POOL = "pool"
    GRU = "gru"
    CAUSAL = "causal"


@dataclass(frozen=True, slots=True)
class UnicornConfig:
    """The sizes of the network, and what of it is switched on: `long` and `short` are the two sides of a member,
    `imputation` the query and the source that stand in for missing ones, `co_vectors` where titles begin
    (`co_vectors.py`; otherwise at random).
    """

    personalisation: Personalisation = Personalisation.FULL
    session_form: SessionForm = SessionForm.POOL
    long: bool = True
    short: bool = True
    imputation: bool = True
    crossing: bool = True
    task_feature: bool = True
    streaming_counts: bool = True
    co_vectors: bool = True
    vector: int = 64
    text: int = 32
    item_id: int = 64
    genre: int = 16
    task: int = 8
    country: int = 4
    daypart: int = 4
    clusters: int = 32
    cluster: int = 8
    heads: int = 4
    cross_rank: int = 64
    cross_layers: int = 2
    deep: int = 128
    deep_blocks: int = 2
    dropout: float = 0.1


# What `nowrank train --without` takes, and the switch of `UnicornConfig` that it turns off.
SWITCHES = {
    "long": "long",
    "short": "short",
    "imputation": "imputation",
    "crossing": "crossing",
    "task": "task_feature",
    "counts": "streaming_counts",
    "vectors": "co_vectors",
}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How it is trained. The `..._labels` are about how many examples are taken, at random, from each part of the
    log; `averaged` is how much of the running mean of the weights stays at each step (0: only the last weights);
    `id_dropout` is how often a title's id is hidden (None: as often as ids are unknown later, see `batches.py`);
    `history_encoder` is the folder of a run whose item vectors the titles begin with (`pretrained.py`).
    """

    model: UnicornConfig = field(default_factory=UnicornConfig)
    train_labels: int = 30_000
    middle_labels: int = 3_000
    calibration_labels: int = 600
    negatives: int = 16
    calibration_negatives: int = 200
    batch: int = 128
    epochs: int = 2
    patience: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    averaged: float = 0.99
    side_dropout: float = 0.15
    id_dropout: float | None = None
    threads: int = 2
    seed: int = 0
    history_encoder: str | None = None
