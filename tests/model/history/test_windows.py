import numpy as np
import pytest

from model.history.config import EncoderConfig, TrainingConfig
from model.history.histories import Histories
from model.history.windows import Windows, epoch_batches, gather, newest_batches, newest_windows, sliding_windows

LENGTH = 4


@pytest.fixture
def histories() -> Histories:
    """Users with 1, 3, 5, 11 and 30 engagements; every item index is its place in the one line, from 1."""
    by_user, at = {}, 1
    for user, count in enumerate((1, 3, 5, 11, 30)):
        by_user[str(user)] = [(item, item * 100) for item in range(at, at + count)]
        at += count
    return Histories.of(by_user, [f"title {item}" for item in range(1, at)])


def config(windows: bool, alpha: float | None = None) -> TrainingConfig:
    return TrainingConfig(model=EncoderConfig(length=LENGTH), windows=windows, stochastic_length=alpha, batch=3)


def inside_one_history(windows: Windows, histories: Histories) -> bool:
    """Whether inputs and the last target of each window belong to one user."""
    user_N = np.repeat(np.arange(len(histories.users)), histories.lengths_U)
    return bool((user_N[windows.begins_W] == user_N[windows.begins_W + windows.counts_W]).all())


def test_without_windows_only_the_newest_places_are_seen(histories: Histories) -> None:
    windows = newest_windows(histories, LENGTH)
    assert windows.counts_W.tolist() == [2, 4, 4, 4]
    assert inside_one_history(windows, histories)
    assert (windows.begins_W + windows.counts_W).tolist() == (histories.begins_U1[2:] - 1).tolist()


def test_sliding_windows_stay_within_one_history(histories: Histories) -> None:
    for seed in range(20):
        windows = sliding_windows(histories, LENGTH, np.random.default_rng(seed))
        assert inside_one_history(windows, histories)
        assert windows.counts_W.min() >= 1
        assert windows.counts_W.max() <= LENGTH


def test_sliding_windows_are_fixed_in_some_epochs_and_random_in_others(histories: Histories) -> None:
    longest = len(histories.users) - 1
    fixed = sorted(range(-LENGTH - 1, -30, -LENGTH))
    seen = []
    for seed in range(20):
        windows = sliding_windows(histories, LENGTH, np.random.default_rng(seed))
        own = windows.begins_W[windows.begins_W >= histories.begins_U1[longest]] - histories.begins_U1[-1]
        seen.append(sorted(set(own.tolist()) & set(fixed)) == fixed)
    assert 4 < sum(seen) < 16


def test_sliding_windows_reach_every_place_in_time(histories: Histories) -> None:
    seen = set()
    for seed in range(40):
        for begin, count in zip(*sliding_windows(histories, LENGTH, np.random.default_rng(seed)), strict=True):
            seen |= set(range(begin, begin + count))
    lasts = set((histories.begins_U1[1:] - 1).tolist())
    assert seen == set(range(len(histories.items_N))) - lasts


@pytest.mark.parametrize("alpha", [None, 1.0])
def test_a_target_is_what_came_next_and_padding_is_zero(histories: Histories, alpha: float | None) -> None:
    rng = np.random.default_rng(0)
    for windows in epoch_batches(histories, config(True, alpha), rng):
        batch = gather(histories, windows, config(True, alpha), rng)
        real = batch.items_BT > 0
        assert (batch.targets_BT[real] == batch.items_BT[real] + 1).all()
        assert (batch.targets_BT[~real] == 0).all()
        assert batch.times_BT is not None
        assert (batch.times_BT[real] == batch.items_BT[real] * 100).all()


def test_stochastic_length_keeps_fewer_places_of_long_windows_in_their_order(histories: Histories) -> None:
    windows = newest_windows(histories, LENGTH)
    counts = []
    for seed in range(30):
        batch = gather(histories, windows, config(False, 1.0), np.random.default_rng(seed))
        counts += (batch.items_BT > 0).sum(dim=1)[1:].tolist()
        gaps = batch.items_BT.diff(dim=1)[batch.items_BT[:, 1:] > 0]
        assert (gaps > 0).all()
    assert set(counts) == {2, 4}
    assert np.mean(np.array(counts) == 2) == pytest.approx(1 - (2 / 4) ** 2, abs=0.15)


def test_a_question_holds_the_newest_items_of_every_user_even_of_one_without_any(histories: Histories) -> None:
    asked = {}
    for users_B, batch in newest_batches(histories.without_last(1), LENGTH, 2):
        for user, row in zip(users_B.tolist(), batch.items_BT.tolist(), strict=True):
            asked[user] = [item for item in row if item]
    ends = histories.begins_U1[1:].tolist()
    assert asked == {
        user: list(range(max(begin + 1, end - LENGTH), end))
        for user, (begin, end) in enumerate(zip(histories.begins_U1.tolist(), ends, strict=False))
    }
