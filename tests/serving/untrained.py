"""An artifact with a network that nobody trained: its scores mean nothing, but everything else about it is real.

Enters: titles, a seed. Leaves: an artifact folder. Called by the scorer's tests, which need a model's form and not its
knowledge.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import torch

from features.catalogue import Item
from features.engagement import Task
from infra.clock import now_ms
from model.artifact import CARD, Card, save_artifact
from model.ease import fit_ease
from model.export import write_graphs
from model.neighbours import CoPlays
from model.unicorn import Unicorn, UnicornConfig

DEFAULT = UnicornConfig()


def save_untrained_artifact(path: Path, items: list[Item], seed: int = 0, config: UnicornConfig = DEFAULT) -> Card:
    """Write an artifact whose vocabulary is `items` and whose neighbours are random."""
    torch.manual_seed(seed)
    vocabulary = ("", *(item.item_id for item in items))
    model = Unicorn(config, len(vocabulary))
    for parameter in model.parameters():  # what training would have moved away from zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    rng = np.random.default_rng(seed)
    co_plays = CoPlays(len(vocabulary))
    for _ in range(10 * len(vocabulary)):
        played, before = rng.integers(1, len(vocabulary), 2)
        co_plays.add(int(played), [int(before)] if before != played else [])
    taken = rng.integers(1, len(vocabulary), (50, 8))  # what 50 members engaged
    return save_artifact(
        path,
        lambda folder: write_graphs(model, folder),
        (co_plays.table(len(vocabulary)), fit_ease(taken.tolist(), len(vocabulary))),
        items,
        {
            "created_ms": now_ms(),
            "vocabulary": vocabulary,
            "calibration": tuple((1.0, 0.0) for _ in Task),
            "config": {"model": asdict(config)},
            "training": {"seed": seed},
            "metrics": {},
        },
    )


def vouch_for_a_cut_file(path: Path, name: str, size: int) -> None:
    """Cut a file of an artifact to `size` bytes, and put its checksum in the card right."""
    cut = (path / name).read_bytes()[:size]
    (path / name).write_bytes(cut)
    card = msgspec.json.decode((path / CARD).read_bytes(), type=Card)
    files = card.files | {name: hashlib.sha256(cut).hexdigest()}
    (path / CARD).write_bytes(msgspec.json.encode(msgspec.structs.replace(card, files=files)))
