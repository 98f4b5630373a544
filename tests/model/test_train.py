from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.model_inputs import request_inputs
from features.vector import COLUMNS
from infra.errors import BadInput, NowrankError
from model.artifact import load_artifact
from model.batches import Catalogue
from model.config import Personalisation, TrainConfig
from model.examples import Examples, build_examples, split_by_time
from model.fit import fit, logits_of, mean_loss, sampled_ndcg, standardise
from model.progress import Silent
from model.replay import Replay
from model.switches import is_counted
from model.train import TrainReport, build_data_set, train_on_log
from model.unicorn import Unicorn
from streams.labels import Log
from tests.model.auc import auc
from tests.model.conftest import SIZES, SMALL
from tests.model.small_log import with_late_thumbs

QUICK = replace(SMALL, epochs=1, train_labels=200)


def _fitted_auc(log: Log, shuffle: bool) -> float:
    rng = np.random.default_rng(0)
    replay = Replay(log)
    everything = {"train": 1.0, "middle": 1.0, "calibration": 0.0}
    parts = build_examples(replay, split_by_time(log), everything, (16, 16), rng, Silent())[:2]
    train, middle = (_shuffled(part, rng) if shuffle else part for part in parts)
    torch.manual_seed(0)
    model = Unicorn(SIZES, len(replay.table))
    standardise(model, train)
    catalogue = Catalogue.of(replay.table)
    fit(model, catalogue, (train, middle), replace(SMALL, epochs=3), float("inf"), Silent())
    logits_BK = logits_of(model, catalogue, middle) - np.log(middle.rates_BK)
    real = middle.slots_BK > 0
    return auc(logits_BK[real], middle.labels_BK[real].astype(float))


def _shuffled(examples: Examples, rng: np.random.Generator) -> Examples:
    """The same examples, but chance says which candidate is the one; the rates are set alike, so that they tell
    nothing.
    """
    rows = np.arange(len(examples))
    chosen = rng.integers(0, (examples.slots_BK > 0).sum(axis=1))
    labels_BK = np.zeros_like(examples.labels_BK)
    labels_BK[rows, chosen] = examples.labels_BK[:, 0]
    return replace(examples, labels_BK=labels_BK, rates_BK=np.ones_like(examples.rates_BK))


@pytest.mark.slow
def test_a_taste_in_the_log_is_learned(small_log: Log) -> None:
    assert _fitted_auc(small_log, shuffle=False) > 0.65


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(small_log: Log) -> None:
    assert _fitted_auc(small_log, shuffle=True) == pytest.approx(0.5, abs=0.1)


def test_the_sampled_ndcg_counts_equal_scores_as_half_above_and_leaves_padding_out() -> None:
    slots, labels = np.array([[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]]), np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    examples = Examples(
        {}, slots, labels.astype(np.float32), np.zeros((2, 5, 1), np.float32), np.ones((2, 5), np.float32)
    )
    assert sampled_ndcg(np.array([[2.0, 1.0, 1.0, 1.0, 9.0], np.zeros(5)]), examples) == 1.0
    assert 0.3 < sampled_ndcg(np.zeros((2, 5)), examples) < 0.7
    assert sampled_ndcg(np.array([[np.nan, 1.0, 1.0, 1.0, 9.0], np.zeros(5)]), examples) < 0.4


def test_a_network_that_diverges_has_the_greatest_loss_and_is_refused(small_log: Log) -> None:
    replay = Replay(small_log)
    chances, rng = {"train": 0.2, "middle": 1.0, "calibration": 0.0}, np.random.default_rng(0)
    train, middle = build_examples(replay, split_by_time(small_log), chances, (8, 8), rng, Silent())[:2]
    model, catalogue = Unicorn(SIZES, len(replay.table)), Catalogue.of(replay.table)
    assert mean_loss(model, catalogue, middle) < float("inf")
    with pytest.raises(NowrankError, match="diverged"):
        fit(model, catalogue, (train, middle), replace(QUICK, learning_rate=1e30), float("inf"), Silent())
    torch.nn.init.constant_(model.out.bias, float("nan"))
    assert mean_loss(model, catalogue, middle) == float("inf")


@pytest.mark.slow
def test_training_lowers_the_loss_and_reports_where_the_time_went(trained: tuple[Path, TrainReport]) -> None:
    report = trained[1]
    assert report.train_losses[-1] < report.train_losses[0]
    assert len(report.train_losses) == len(report.middle_losses) == report.card.training["epochs"]
    assert report.data_s > 0
    assert report.fit_s > 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_whatever_comes_after_the_middle_part(
    small_log: Log, tmp_path: Path
) -> None:
    end_ms = split_by_time(small_log).middle_end_ms
    turned = [
        replace(label, positive=not label.positive) if label.ts_ms >= end_ms else label for label in small_log.labels
    ]
    one, other, third = (
        train_on_log(Log(small_log.items, labels), tmp_path / "artifact", config=replace(QUICK, seed=seed)).card
        for labels, seed in ((small_log.labels, 0), (turned, 0), (small_log.labels, 1))
    )
    assert one.version == other.version
    assert one.version != third.version


def test_no_example_knows_a_thumb_that_came_after_its_part(small_log: Log) -> None:
    plain, planted = with_late_thumbs(small_log, split_by_time(small_log).train_end_ms)
    assert sum(label.positive for label in plain.labels) > 2 * sum(label.positive for label in planted.labels)
    one, other = (build_data_set(log, QUICK) for log in (plain, planted))
    for part in ("train", "middle", "calibration"):
        assert np.array_equal(getattr(one, part).labels_BK, getattr(other, part).labels_BK)
        assert np.array_equal(getattr(one, part).pairs_BKF, getattr(other, part).pairs_BKF)


@pytest.mark.slow
def test_what_is_switched_off_is_said_in_the_card_and_has_no_effect_in_the_artifact(
    small_log: Log, tmp_path: Path
) -> None:
    sizes = replace(SIZES, personalisation=Personalisation.CLUSTERS, streaming_counts=False, clusters=4)
    card = train_on_log(small_log, tmp_path / "artifact", config=replace(QUICK, model=sizes)).card
    assert card.config["model"]["personalisation"] == "clusters"
    assert card.config["model"]["streaming_counts"] is False
    artifact, replay = load_artifact(tmp_path / "artifact"), Replay(small_log)
    replay.fold_until(small_log.labels[-1].ts_ms)
    encoded, slots = artifact.encode_items(replay.table), np.arange(1, len(replay.table))
    is_off = [column.part != "context" or is_counted(column) for column in COLUMNS]
    pairs = np.zeros((len(slots), len(COLUMNS)), np.float32)
    by_cluster: dict[int, set[bytes]] = {}
    for user in sorted(replay.users):
        label = replace(small_log.labels[-1], user_id=user)
        inputs = request_inputs(replay.table, replay.context(label))
        pairs[:, is_off] += 1.0
        scores = artifact.score(encoded, inputs, slots, pairs)
        by_cluster.setdefault(scores.cluster, set()).add(scores.logits_N.tobytes())
    assert set(by_cluster) == {1, 2, 3, 4}
    assert [len(answers) for answers in by_cluster.values()] == [1, 1, 1, 1]


@pytest.mark.slow
def test_time_that_is_up_ends_training_after_one_epoch(small_log: Log, tmp_path: Path) -> None:
    assert train_on_log(small_log, tmp_path / "artifact", config=QUICK, budget_s=0.0).card.training["epochs"] == 1
    assert load_artifact(tmp_path / "artifact").card.vocabulary


def test_a_log_that_is_too_short_is_refused(small_log: Log, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs at least"):
        train_on_log(Log(small_log.items, small_log.labels[:50]), tmp_path / "artifact", config=TrainConfig())
    assert not (tmp_path / "artifact").exists()
