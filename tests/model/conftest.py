"""A small log and an artifact trained on it, shared by the tests of this folder.

Enters: nothing. Leaves: a log, a folder with an artifact. Called by pytest.
"""

from pathlib import Path

import pytest

from model.config import TrainConfig, UnicornConfig
from model.train import TrainReport, train_on_log
from streams.labels import Log
from tests.model.small_log import make_log

SIZES = UnicornConfig(text=8, item_id=8, genre=8, deep=32, deep_blocks=1, cross_rank=8, cross_layers=1)
SMALL = TrainConfig(
    model=SIZES, train_labels=400, middle_labels=60, calibration_labels=40, calibration_negatives=40, batch=32,
    epochs=4, threads=1 )  # fmt: skip


@pytest.fixture(scope="session")
def small_log() -> Log:
    """600 labels of 40 members with one taste each."""
    return make_log()


@pytest.fixture(scope="session")
def trained(small_log: Log, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    """The folder of an artifact trained on `small_log`, and the report."""
    folder = tmp_path_factory.mktemp("trained") / "artifact"
    return folder, train_on_log(small_log, folder, config=SMALL)
