"""Checkpoints: a training that was stopped goes on as if it had not been."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infra.errors import ArtifactInvalid, BadInput
from model.checkpoint import Checkpoint, fingerprint
from model.config import TrainConfig
from model.data_set import DataSet
from model.progress import Silent
from model.train import build_data_set, fit_network
from nowrank.cli import main
from streams.labels import Log
from tests.model.conftest import SMALL

CONFIG = replace(SMALL, epochs=3, patience=3, train_labels=200)
AT_ONCE, NO_LIMIT = 0.0, float("inf")


@pytest.fixture(scope="module")
def data(small_log: Log) -> DataSet:
    return build_data_set(small_log, CONFIG)


def train(
    data: DataSet, checkpoint: Path | None, deadline_s: float, config: TrainConfig = CONFIG
) -> tuple[dict[str, Tensor], tuple[list[float], list[float]]]:
    kept = None if checkpoint is None else Checkpoint(checkpoint, fingerprint(data, config))
    model, _, losses = fit_network(data, config, deadline_s, Silent(), None, kept)
    return model.state_dict(), losses


def test_a_training_that_was_stopped_twice_ends_as_one_that_was_not(data: DataSet, tmp_path: Path) -> None:
    whole, losses = train(data, None, NO_LIMIT)
    assert len(losses[0]) == CONFIG.epochs
    path = tmp_path / "not" / "there" / "yet.safetensors"
    for epoch in range(CONFIG.epochs):  # each ends at its deadline, after one epoch
        weights, so_far = train(data, path, AT_ONCE)
        assert so_far == tuple(part[: epoch + 1] for part in losses)
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    again, _ = train(data, path, NO_LIMIT)  # there is nothing left to do
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_checkpoint_of_another_training_and_a_damaged_one_are_refused(data: DataSet, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train(data, path, AT_ONCE)
    with pytest.raises(BadInput, match="another configuration"):
        train(data, path, AT_ONCE, replace(CONFIG, epochs=4))
    train(data, path, AT_ONCE, replace(CONFIG, threads=CONFIG.threads + 1))  # which changes nothing that is learned
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactInvalid, match="remove it to begin anew"):
        train(data, path, AT_ONCE)
    with pytest.raises(BadInput, match="no file"):
        train(data, tmp_path, AT_ONCE)


@pytest.mark.parametrize(
    "given", ["--checkpoint", "--dataset", "--labels", "--history-encoder", "--items", "--max-events", "--map"]
)
def test_what_takes_a_log_of_events_cannot_go_with_the_log_of_rankings(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--from", "served", given, "7"]) == 1
    assert f"{given} cannot go with --from served" in capsys.readouterr().err
    assert main(["train", "plays.csv", "--from", "served"]) == 1
    assert "a log cannot go with --from served" in capsys.readouterr().err
