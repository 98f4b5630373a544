"""The checkpoint: what a training of UniCoRn needs to go on after it was stopped.

Enters: a `Training`. Leaves: a file, and the training again. Called by `fit.py` after each epoch. Every epoch draws
from a random state made of (seed, epoch), so that none is kept: a training that was stopped and went on ends with the
same weights as one that was not.
"""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from features.registry import schema_hash
from features.vector import COLUMN_NAMES
from infra.errors import BadInput
from model.config import TrainConfig
from model.data_set import DataSet
from model.unicorn import Unicorn
from model.weight_average import WeightAverage
from model.weights_file import Weights, load_weights, moments_of, named, put_moments, save_weights, under

MODEL, AVERAGE, BEST, ADAM = "model.", "average.", "best.", "adam."

Losses = tuple[list[float], list[float]]


@dataclass(slots=True)
class Training:
    """A training under way. `losses` are those of the training and the middle part by epoch, `best` the weights of the
    epoch with the least of the latter.
    """

    model: Unicorn
    average: WeightAverage
    optimiser: torch.optim.Adam
    losses: Losses = field(default_factory=lambda: ([], []))
    best: Weights = field(default_factory=dict)


class Card(msgspec.Struct, frozen=True):
    """The JSON in a checkpoint: of which training it is, and how far that had come."""

    training: str
    steps: int
    losses: Losses


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file for one training, named by `fingerprint`."""

    path: Path
    training: str

    def save(self, training: Training) -> None:
        """Write how far it has come."""
        tensors = (
            named(MODEL, training.model.state_dict())
            | named(AVERAGE, training.average.mean.state_dict())
            | named(BEST, training.best)
            | named(ADAM, moments_of(training.optimiser))
        )
        save_weights(self.path, tensors, Card(self.training, training.average.steps, training.losses))

    def load(self, training: Training) -> None:
        """Go on from the file, if there is one. Raises `BadInput` when it is another training's or no file,
        `ArtifactInvalid` when it is damaged.
        """
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise BadInput("not_a_file", f"{self.path} is no file; name one that is to hold the checkpoint")
        tensors, card = load_weights(self.path, Card, "remove it to begin anew")
        if card.training != self.training:
            raise BadInput(
                "other_training",
                f"{self.path} is of a training on other data or with another configuration; name another file, or "
                "remove it to begin anew",
            )
        training.model.load_state_dict(under(tensors, MODEL))
        training.average.mean.load_state_dict(under(tensors, AVERAGE))
        training.average.steps = card.steps
        put_moments(training.optimiser, under(tensors, ADAM))
        training.best, training.losses = under(tensors, BEST), card.losses


def fingerprint(data: DataSet, config: TrainConfig) -> str:
    """A name of a training: of its configuration but for the threads, its examples and its titles."""
    about: dict[str, Any] = {"schema": schema_hash(COLUMN_NAMES), "config": asdict(replace(config, threads=0))}
    digest = hashlib.blake2b(msgspec.json.encode([about, data.table.ids]), digest_size=16)
    for part in (data.train, data.middle):
        for array in (part.slots_BK, part.labels_BK, part.pairs_BKF, part.requests["task"]):
            digest.update(array.tobytes())
    return digest.hexdigest()
