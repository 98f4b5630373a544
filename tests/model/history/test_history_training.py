"""Training end to end on tiny histories: what is learned, kept, resumed, ranked and compared."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from infra.errors import ArtifactInvalid, BadInput, NowrankError
from model.history.compare import compare_runs, comparison_table
from model.history.config import EncoderConfig, TrainingConfig
from model.history.fit import fit, new_encoder, new_run, rate_at
from model.history.histories import Histories, leave_one_out, load_movielens_order
from model.history.ranking import ranks_of
from model.history.run_folder import CHECKPOINT, Point, curve_table, load_encoder, load_result, save_result
from model.history.train import Order, join_and_test, train_and_test
from model.progress import Silent

CYCLE = 30
ML_1M = os.environ.get("ML_1M", "")


def cycle(users: int = 30, length: int = 10) -> Histories:
    """Everybody walks the same circle of titles, from different beginnings: the next title is certain."""
    walks = {
        str(user): [(1 + (user + step) % CYCLE, None) for step in range(length + user % 3)] for user in range(users)
    }
    return Histories.of(walks, [f"title {item}" for item in range(CYCLE)])


def config(encoder: str = "sasrec", epochs: int = 3, windows: bool = True, seed: int = 0) -> TrainingConfig:
    sizes = EncoderConfig(encoder=encoder, width=16, heads=2, blocks=1, length=8, dropout=0.1)
    return TrainingConfig(model=sizes, windows=windows, epochs=epochs, batch=8, learning_rate=0.01, seed=seed)


def order(folder: Path, one: TrainingConfig, budget_s: float = 1e9, resume: bool = False) -> Order:
    return Order(folder, one, budget_s, resume)


@pytest.mark.parametrize("encoder", ["sasrec", "hstu"])
def test_a_circle_is_learned_perfectly(encoder: str, tmp_path: Path) -> None:
    result = train_and_test(cycle(), order(tmp_path, config(encoder, epochs=20)), Silent())
    assert result.test["hr10"] == result.test["ndcg10"] == 1.0
    losses = [point["loss"] for point in json.loads((tmp_path / "curve.json").read_text())]
    assert losses[-1] < losses[0] / 4
    model, card = load_encoder(tmp_path)
    with torch.no_grad():
        scores = model.encode(torch.tensor([[2, 3, 4]])) @ model.item_vectors()[1:].T
    assert card.titles[int(scores.argmax())] == "title 4"


@pytest.mark.parametrize("encoder", ["sasrec", "hstu"])
def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(encoder: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_and_test(cycle(), order(whole, config(encoder)), Silent())
    stopped = train_and_test(cycle(), order(parts, config(encoder), budget_s=0.0), Silent())
    assert stopped.epochs == 1
    resumed = train_and_test(cycle(), order(parts, TrainingConfig(), resume=True), Silent())
    assert resumed.epochs == 3
    one, other = (load_encoder(folder)[0].state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one.keys() == other.keys()


def test_an_encoder_reads_times_when_its_histories_have_them(tmp_path: Path) -> None:
    timed = Histories.of({str(user): [(1 + step, step * 60) for step in range(5)] for user in range(4)}, list("abcde"))
    for name, histories in (("timed", timed), ("ordered", cycle())):
        train_and_test(histories, order(tmp_path / name, config(epochs=1)), Silent())
        assert load_encoder(tmp_path / name)[0].config.timed == (name == "timed")


def test_a_joined_encoder_adds_the_scores_of_its_parts_and_sums_what_they_cost(tmp_path: Path) -> None:
    parts = [tmp_path / encoder for encoder in ("sasrec", "hstu")]
    results = [train_and_test(cycle(), order(folder, config(folder.name)), Silent()) for folder in parts]
    joined = join_and_test(cycle(), parts, tmp_path / "both")
    assert joined.epochs == sum(result.epochs for result in results)
    assert joined.cpu_s == pytest.approx(sum(result.cpu_s for result in results))
    models = [load_encoder(folder)[0] for folder in (*parts, tmp_path / "both")]
    items = torch.tensor([[2, 3, 4, 0], [0, 0, 0, 0]])
    one, other, both = ((model.encode(items) @ model.item_vectors().T).detach() for model in models)
    assert torch.allclose(one + other, both, atol=1e-5)
    assert both[0].abs().max() > 0
    assert not both[1].any()
    assert models[2].states(items).shape[-1] == models[2].config.width == 32
    table = comparison_table(compare_runs([parts[0], tmp_path / "both"], "test", resamples=50, seed=0))
    assert "sasrec + hstu" in table


def test_only_finished_runs_over_the_same_histories_are_joined_and_none_is_overwritten(tmp_path: Path) -> None:
    train_and_test(cycle(), order(tmp_path / "run", config(epochs=1)), Silent())
    with pytest.raises(BadInput, match="saw histories"):
        join_and_test(cycle(users=25), [tmp_path / "run"], tmp_path / "joined")
    with pytest.raises(BadInput, match="--out"):
        join_and_test(cycle(), [tmp_path / "run"], tmp_path / "run")


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    for seed in (0, 1):
        train_and_test(cycle(), order(tmp_path / str(seed), config(epochs=1, seed=seed)), Silent())
    one, other = (load_encoder(tmp_path / name)[0].item.weight for name in ("0", "1"))
    assert not torch.allclose(one, other)


def test_a_run_is_neither_overwritten_nor_resumed_with_other_histories(tmp_path: Path) -> None:
    train_and_test(cycle(), order(tmp_path, config(epochs=1)), Silent())
    with pytest.raises(BadInput, match="--resume"):
        train_and_test(cycle(), order(tmp_path, config(epochs=1)), Silent())
    with pytest.raises(BadInput, match="saw histories"):
        train_and_test(cycle(users=25), order(tmp_path, config(), resume=True), Silent())
    with pytest.raises(ArtifactInvalid, match="nowrank train history"):
        train_and_test(cycle(), order(tmp_path / "elsewhere", config(), resume=True), Silent())


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(ArtifactInvalid, match="cannot be read"):
        train_and_test(cycle(), order(tmp_path, config(), resume=True), Silent())


def test_training_stops_when_validation_has_not_improved_for_its_patience(tmp_path: Path) -> None:
    patient = config(epochs=30)
    impatient = msgspec.structs.replace(patient, patience=2)
    result = train_and_test(cycle(), order(tmp_path, impatient), Silent())
    assert result.epochs == result.best_epoch + 3 < 30


def test_a_run_that_diverges_is_refused_and_one_that_had_learned_keeps_its_best_weights(tmp_path: Path) -> None:
    diverging = msgspec.structs.replace(config(), learning_rate=1e30)
    with pytest.raises(NowrankError, match="diverged"):
        train_and_test(cycle(), order(tmp_path / "never", diverging), Silent())
    split, learned = leave_one_out(cycle()), new_run(config(), CYCLE)
    fit(learned, split, 1e9, lambda run: None, Silent())
    torch.nn.init.constant_(learned.model.item.weight, float("nan"))
    learned.config = config(epochs=5)
    fit(learned, split, 1e9, lambda run: None, Silent())
    assert len(learned.curve) == 3
    assert learned.curve[learned.best_epoch].ndcg10 > 0.5
    assert all(value.isfinite().all() for value in learned.best.values())


@torch.no_grad()
def test_scores_that_are_not_finite_give_the_last_rank() -> None:
    model = new_encoder(EncoderConfig(width=8, heads=1, length=2), 12).eval()
    histories = Histories.of({"a": [(item, None) for item in (5, 1, 2)]}, [str(item) for item in range(12)])
    torch.nn.init.constant_(model.item.weight, float("nan"))
    assert ranks_of(model, histories, np.array([7])).tolist() == [[11, 11]]


@torch.no_grad()
def test_the_ranking_leaves_out_what_was_seen_however_long_ago_but_never_the_right_title() -> None:
    titles = 12
    model = new_encoder(EncoderConfig(width=8, heads=1, length=2), titles).eval()
    torch.nn.init.normal_(model.item.weight)
    items = [5, 1, 2, 3, 4]
    histories = Histories.of({"a": [(item, None) for item in items]}, [str(item) for item in range(titles)])
    scores = (model.encode(torch.tensor([items[-2:]])) @ model.item_vectors().T)[0].numpy()
    for right in range(1, titles + 1):
        rivals = [item for item in range(1, titles + 1) if item not in items and item != right]
        expected = sum(scores[item] > scores[right] for item in rivals)
        assert ranks_of(model, histories, np.array([right])).tolist() == [[expected, expected]]


def test_equal_runs_differ_by_nothing_and_runs_over_other_data_are_not_compared(tmp_path: Path) -> None:
    for name, histories in (("a", cycle()), ("b", cycle()), ("c", cycle(users=25))):
        train_and_test(histories, order(tmp_path / name, config(epochs=1)), Silent())
    _, same = compare_runs([tmp_path / "a", tmp_path / "b"], "test", resamples=50, seed=0)
    assert same.ndcg10 is not None
    assert (same.ndcg10.mean, *same.ndcg10.interval) == (0.0, 0.0, 0.0, 1.0)
    assert "+0.0000 [+0.0000, +0.0000]" in comparison_table([same])
    with pytest.raises(BadInput, match="compared"):
        compare_runs([tmp_path / "a", tmp_path / "c"], "test", resamples=50, seed=0)


def test_ranks_are_kept_by_user(tmp_path: Path) -> None:
    train_and_test(cycle(), order(tmp_path, config(epochs=1)), Silent())
    result, ranks = load_result(tmp_path)
    assert len(ranks["test"]) == len(ranks["validation"]) == result.users
    assert float((ranks["test"] < 10).mean()) == result.test["hr10"]
    save_result(tmp_path, result, {part: ranks[part][:, 0].copy() for part in ranks})  # as runs of before did
    assert all(np.array_equal(again, ranks[part]) for part, again in load_result(tmp_path)[1].items())


@pytest.mark.parametrize(
    ("wrong", "rule"), [({"heads": 3}, "divide"), ({"dropout": 1.0}, "dropout"), ({"length": 0}, "count from 1")]
)
def test_sizes_that_cannot_be_are_refused_with_the_rule(wrong: dict[str, float], rule: str) -> None:
    with pytest.raises(BadInput, match=rule):
        EncoderConfig(**wrong)


def test_the_rate_rises_for_an_epoch_then_falls_to_its_floor() -> None:
    assert rate_at(0.0, 10) == pytest.approx(0.02)
    assert rate_at(1.0, 10) == 1.0
    assert rate_at(5.0, 10) > rate_at(6.0, 10)
    assert rate_at(10.0, 10) == pytest.approx(0.02)


def test_the_curve_is_a_table() -> None:
    assert "| 2 | 6.5000 | 0.1000 | 0.2000 | 12 |" in curve_table([Point(1, 6.5, 0.1, 0.2, 12.0)])


@pytest.mark.slow
@pytest.mark.skipif(not ML_1M, reason="set ML_1M to the folder with MovieLens-1M in order (ratings_ordered.tsv.gz)")
def test_movielens_in_order_has_its_known_size() -> None:
    histories = load_movielens_order(Path(ML_1M), core=1)
    assert (len(histories.users), len(histories.titles), len(histories.items_N)) == (6040, 3706, 1_000_209)
