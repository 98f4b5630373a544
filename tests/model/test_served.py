"""Training from what was served: examples, corrections, artifacts."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from infra.errors import BadInput, NowrankError
from infra.settings import Settings
from model.artifact import load_artifact
from model.batches import Catalogue
from model.config import TrainConfig
from model.neighbours import NeighbourTable
from model.position_bias import PositionBias, inverse_propensities
from model.progress import Silent
from model.served_examples import build_served, replay_of
from model.served_fit import ServedFit
from model.simulation.simulator import Plan
from model.train import TrainReport
from model.train_served import numbered_alike, split_served, train_on_served
from model.unicorn import Unicorn
from nowrank.cli import main
from streams.events import Ranking, ServedItem
from streams.producer import Producer
from streams.served_log import LabelledRanking, ServedLog, settle
from tests.model.conftest import SIZES
from tests.model.served_world import simulated_log, with_features

pytestmark = pytest.mark.slow

PLAN = Plan(members=50, titles=60, days=3, seed=5)
CONFIG = TrainConfig(model=SIZES, batch=32, epochs=2, threads=1)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> ServedLog:
    """A served log without features."""
    return simulated_log(PLAN, tmp_path_factory.mktemp("served") / "world")


@pytest.fixture(scope="module")
def served(bare: ServedLog) -> ServedLog:
    """The same one with features."""
    return with_features(bare)


@pytest.fixture(scope="module")
def trained(served: ServedLog, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    """An artifact that was trained on it."""
    folder = tmp_path_factory.mktemp("from-served") / "artifact"
    return folder, train_on_served(served, folder, config=CONFIG)


def test_logged_features_are_taken_as_they_are_and_equal_the_replayed_ones(bare: ServedLog, served: ServedLog) -> None:
    logged = build_served(served, replay_of(served), Silent())
    replayed = build_served(bare, replay_of(bare), Silent(), replay_others=True)
    assert (dict(logged.sources), dict(replayed.sources)) == (
        {"logged": len(served.rankings)},
        {"replayed": len(bare.rankings)},
    )
    np.testing.assert_array_equal(logged.examples.pairs_BKF, replayed.examples.pairs_BKF)
    np.testing.assert_array_equal(logged.examples.labels_BK, replayed.examples.labels_BK)
    for name, array in logged.examples.requests.items():
        np.testing.assert_array_equal(array, replayed.examples.requests[name], name)


def test_positives_are_what_members_engaged_with(served: ServedLog) -> None:
    data = build_served(served, replay_of(served), Silent())
    for row, (ranking, labels) in enumerate(served.rankings[:50]):
        engaged = [item.item_id in labels.positives for item in ranking.items]
        assert data.examples.labels_BK[row].astype(bool).tolist() == engaged
        assert data.positions_BK[row].tolist() == list(range(1, len(ranking.items) + 1))
    assert data.examples.labels_BK.sum() > 20


def test_rankings_of_another_schema_are_left_out_or_replayed_and_counted(served: ServedLog) -> None:
    first, *others = served.rankings[:20]
    strange = LabelledRanking(msgspec.structs.replace(first.ranking, schema_hash="another"), first.labels)
    blank = LabelledRanking(msgspec.structs.replace(others[0].ranking, inputs=b""), others[0].labels)
    mixed = replace(served, rankings=[strange, blank, *others[1:]])
    left_out = build_served(mixed, replay_of(mixed), Silent())
    assert dict(left_out.sources) == {
        "left out: another feature schema": 1,
        "left out: no request inputs: answered without a model": 1,
        "logged": 18,
    }
    assert len(left_out) == 18
    replayed = build_served(mixed, replay_of(mixed), Silent(), replay_others=True)
    assert dict(replayed.sources) == {"replayed": 2, "logged": 18}


def test_rankings_whose_window_is_open_or_that_have_no_label_are_left_out(served: ServedLog) -> None:
    rankings = [one.ranking for one in served.rankings[:10]]
    labels = {one.labels.ranking_id: one.labels for one in served.rankings[:9]}
    settled = settle(served.items, rankings, [], labels, rankings[7].event_ts_ms)
    assert len(settled.rankings) == 8
    assert dict(settled.left_out) == {"its window is not over": 2}
    assert dict(settle(served.items, rankings, [], labels, rankings[9].event_ts_ms).left_out) == {"it has no label": 1}


def test_a_label_of_another_member_who_was_given_the_same_ranking_id_is_not_taken(served: ServedLog) -> None:
    first, second = served.rankings[:2]
    anothers = msgspec.structs.replace(first.labels, user_id="somebody else")
    labels = {first.labels.ranking_id: anothers, second.labels.ranking_id: second.labels}
    settled = settle(served.items, [first.ranking, second.ranking], [], labels, second.ranking.event_ts_ms)
    assert settled.rankings == [second]
    assert dict(settled.left_out) == {"its label is another member's, of the same ranking id": 1}


def test_an_artifact_from_served_rankings_loads_and_says_where_it_comes_from(
    trained: tuple[Path, TrainReport], served: ServedLog
) -> None:
    folder, report = trained
    artifact = load_artifact(folder)
    training = artifact.card.training
    assert artifact.version == report.card.version
    assert (training["source"], training["correction"]) == ("served", "position")
    assert training["rankings"] == {"logged": len(served.rankings)}
    assert report.train_losses[-1] < report.train_losses[0]
    assert len(artifact.items) == PLAN.titles


def test_no_table_of_the_artifact_knows_the_events_that_are_left_for_the_gate(
    trained: tuple[Path, TrainReport], served: ServedLog, tmp_path: Path
) -> None:
    folder, report = trained
    end_ms = report.card.training["middle_end_ms"]
    before = [event for event in served.events if event.event_ts_ms < end_ms]
    assert len(before) < len(served.events)
    without_later = replace(served, events=before)
    train_on_served(without_later, tmp_path / "artifact", config=replace(CONFIG, epochs=1))
    for table in ("neighbours.npz", "ease.npz"):
        held, expected = (NeighbourTable.load(one / table) for one in (folder, tmp_path / "artifact"))
        assert len(expected.columns) > 0
        for name, array in expected._asdict().items():
            np.testing.assert_array_equal(getattr(held, name), array, f"{table} {name}")


def test_the_titles_of_a_second_replay_have_the_slots_of_the_first(served: ServedLog) -> None:
    without_catalogue = replace(served, items=[])
    replay = replay_of(without_catalogue)
    build_served(without_catalogue, replay, Silent())
    early = numbered_alike(without_catalogue, replay.table)
    early.fold_until(served.events[-1].event_ts_ms + 1)
    assert early.table.ids == replay.table.ids
    size = len(replay.table)
    for found, expected in zip(early.co_plays.pairs(size), replay.co_plays.pairs(size), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_log_without_any_usable_ranking_is_refused_with_every_reason_and_when_to_try_again(
    served: ServedLog, tmp_path: Path
) -> None:
    rankings = [one.ranking for one in served.rankings[:5]]
    unsettled = settle(served.items, rankings, [], {}, rankings[1].event_ts_ms)
    with pytest.raises(BadInput) as refused:
        train_on_served(unsettled, tmp_path / "artifact", config=CONFIG)
    assert "{'it has no label': 2, 'its window is not over': 3}" in str(refused.value)
    assert "NOWRANK_LABEL_WINDOW_S" in str(refused.value)
    unlabelled = settle(served.items, rankings, [], {}, rankings[-1].event_ts_ms)
    with pytest.raises(BadInput, match=r"not considered: {'it has no label': 5}$"):
        train_on_served(unlabelled, tmp_path / "artifact", config=CONFIG)
    with pytest.raises(BadInput, match="no ranking was logged"):
        train_on_served(settle(served.items, [], [], {}, 0), tmp_path / "artifact", config=CONFIG)


def test_too_few_rankings_are_refused_with_the_reason(served: ServedLog, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="10 usable rankings"):
        train_on_served(replace(served, rankings=served.rankings[:10]), tmp_path / "artifact", config=CONFIG)


def test_a_network_that_diverges_has_the_greatest_loss_and_no_artifact(served: ServedLog, tmp_path: Path) -> None:
    with pytest.raises(NowrankError, match="diverged"):
        train_on_served(served, tmp_path / "artifact", config=replace(CONFIG, learning_rate=1e30, epochs=1))
    assert not (tmp_path / "artifact").exists()
    replay = replay_of(served)
    middle = split_served(build_served(served, replay, Silent()))[2]
    model = Unicorn(SIZES, vocabulary=len(replay.table))
    torch.nn.init.constant_(model.out.bias, float("nan"))
    assert ServedFit(model, Catalogue.of(replay.table), CONFIG, "none").mean_loss(middle) == float("inf")


def test_parts_are_cut_by_time_and_the_last_one_is_not_learned_from(served: ServedLog) -> None:
    data = build_served(served, replay_of(served), Silent())
    split, train, middle = split_served(data)
    assert train.times_ms_B.max() < split.train_end_ms <= middle.times_ms_B.min()
    assert middle.times_ms_B.max() < split.middle_end_ms <= data.times_ms_B[-1]
    assert len(data) - len(train) - len(middle) >= 0.08 * len(data)


def test_the_position_belongs_to_training_and_falls_with_the_place(served: ServedLog) -> None:
    replay = replay_of(served)
    data = build_served(served, replay, Silent())
    _, train, middle = split_served(data)
    torch.manual_seed(0)
    model = Unicorn(SIZES, vocabulary=len(replay.table))
    fit = ServedFit(model, Catalogue.of(replay.table), replace(CONFIG, epochs=4), "position")
    names = set(model.state_dict())
    fit.run(train, middle, float("inf"), Silent())
    assert set(model.state_dict()) == names
    learned = np.array(fit.learned_positions(12))
    assert (learned[:, 0] == 0.0).all()
    assert learned[:, 8:].mean() < learned[:, 1:5].mean() < 0.3
    fit.correction = "none"
    assert ServedFit(model, fit.catalogue, CONFIG, "none").mean_loss(middle) == pytest.approx(fit.mean_loss(middle))


def test_padding_and_the_first_place_have_no_position_logit() -> None:
    bias = PositionBias()
    torch.nn.init.constant_(bias.logit_TP, -1.0)
    found = bias(torch.tensor([0, 2]), torch.tensor([[1, 2, 0], [3, 500, 1]]))
    assert found.tolist() == [[0.0, -1.0, 0.0], [-1.0, -1.0, 0.0]]


def test_what_is_not_examined_says_nothing_about_a_title() -> None:
    bias = PositionBias()
    torch.nn.init.constant_(bias.logit_TP, -20.0)
    logits, labels = torch.tensor([[1.5, 1.5]], requires_grad=True), torch.zeros(1, 2)
    losses = bias.examined_loss(logits, torch.tensor([1]), torch.tensor([[1, 2]]), labels)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert losses[0, 0].item() == pytest.approx(float(np.log1p(np.exp(1.5))), rel=1e-5)
    assert losses[0, 1].item() < 1e-6
    assert logits.grad[0, 0] > 0.8
    assert abs(logits.grad[0, 1]) < 1e-6


def test_weights_are_inverse_propensities_with_a_mean_of_one_and_a_limit() -> None:
    weights = inverse_propensities(np.array([[0.5, 0.25, 0.25]], np.float32), np.ones((1, 3), np.bool_))
    np.testing.assert_allclose(weights, [[0.6, 1.2, 1.2]], rtol=1e-6)
    rare = np.array([[1e-9] + [1.0] * 99], np.float32)
    assert inverse_propensities(rare, np.ones(rare.shape, np.bool_)).max() < 20


def test_ips_says_when_the_propensities_give_it_nothing_to_weigh(
    empty_log: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(correction: str) -> str:
        out = str(empty_log.state_dir / "artifact")
        assert main(["train", "--from", "served", "--correction", correction, "--out", out]) != 0, "too few rankings"
        return capsys.readouterr().err

    def show(propensity: float) -> None:
        items = [ServedItem(item_id=item_id, score=0.0, propensity=propensity) for item_id in ("a", "b")]
        ids = {"ranking_id": f"r-{propensity}", "user_id": "u"}
        with Producer(empty_log) as producer:
            producer.deliver([Ranking(**ids, event_ts_ms=1_760_000_000_000, task="pre_query", items=items)])

    monkeypatch.setenv("NOWRANK_KAFKA", empty_log.kafka)
    said = "with the propensity 1.0: --correction ips weighs them alike"
    show(1.0)
    assert said in train("ips")
    assert said not in train("none")
    show(0.5)
    assert said not in train("ips")


def test_padding_changes_no_weight_of_what_was_shown() -> None:
    propensities = np.array([[0.01, 0.1, 0.1], [0.1, 0.1, 0.1]], np.float32)
    padded = np.concatenate([propensities, np.ones((2, 30), np.float32)], axis=1)
    shown = np.arange(33) < np.array([[3], [3]])
    weights = inverse_propensities(padded, shown)
    np.testing.assert_array_equal(weights[:, :3], inverse_propensities(propensities, np.ones((2, 3), np.bool_)))
    assert weights[0, 0] == pytest.approx(10 * weights[0, 1])
    assert not weights[:, 3:].any()
