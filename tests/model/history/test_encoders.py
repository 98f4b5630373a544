"""What every history encoder owes its callers, whatever happens inside."""

import msgspec
import pytest
import torch

from model.history.config import EncoderConfig
from model.history.encoder import HistoryEncoder, gap_buckets
from model.history.fit import new_encoder
from model.history.histories import Histories
from model.history.vectors import user_vectors

TITLES = 20
ITEMS = torch.tensor([[3, 7, 1, 9, 12, 5]])
TIMES = torch.tensor([[0, 5, 60, 61, 90_000, 90_001]])


@pytest.fixture(params=["sasrec", "hstu", "hstu-cosine"])
def encoder(request: pytest.FixtureRequest) -> HistoryEncoder:
    name, _, cosine = request.param.partition("-")
    torch.manual_seed(1)
    config = EncoderConfig(encoder=name, width=16, heads=2, length=12, temperature=0.1 if cosine else None, timed=True)
    model = new_encoder(config, TITLES).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


@torch.no_grad()
def test_a_later_item_changes_no_earlier_state(encoder: HistoryEncoder) -> None:
    changed = ITEMS.clone()
    changed[0, 4] = 17
    before, after = encoder.states(ITEMS, TIMES), encoder.states(changed, TIMES)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@torch.no_grad()
def test_a_later_time_changes_no_earlier_state(encoder: HistoryEncoder) -> None:
    changed = TIMES.clone()
    changed[0, 4:] += 1_000_000
    before, after = encoder.states(ITEMS, TIMES), encoder.states(ITEMS, changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@torch.no_grad()
def test_an_encoder_that_never_learned_from_times_does_not_read_them(encoder: HistoryEncoder) -> None:
    read, unread = (
        new_encoder(msgspec.structs.replace(encoder.config, timed=timed), TITLES) for timed in (True, False)
    )
    for model in (read, unread):
        model.load_state_dict(encoder.state_dict())
        model.eval()
    assert torch.equal(unread.encode(ITEMS, TIMES), encoder.encode(ITEMS))
    assert not torch.allclose(read.encode(ITEMS, TIMES), encoder.encode(ITEMS))


@torch.no_grad()
def test_padding_changes_nothing(encoder: HistoryEncoder) -> None:
    padded, padded_times = torch.zeros(1, 10, dtype=torch.long), torch.zeros(1, 10, dtype=torch.long)
    padded[:, :6], padded_times[:, :6] = ITEMS, TIMES
    torch.testing.assert_close(encoder.encode(ITEMS, TIMES), encoder.encode(padded, padded_times))


@torch.no_grad()
def test_neighbours_in_a_batch_do_not_see_each_other(encoder: HistoryEncoder) -> None:
    both = torch.cat([ITEMS, ITEMS.flip(1)])
    torch.testing.assert_close(encoder.encode(both)[:1], encoder.encode(ITEMS))


@torch.no_grad()
def test_the_order_of_a_history_matters(encoder: HistoryEncoder) -> None:
    swapped = ITEMS.clone()
    swapped[0, 0], swapped[0, 1] = ITEMS[0, 1], ITEMS[0, 0]
    assert not torch.allclose(encoder.encode(ITEMS), encoder.encode(swapped))


@torch.no_grad()
def test_an_empty_history_is_the_zero_vector(encoder: HistoryEncoder) -> None:
    assert encoder.encode(torch.zeros(1, 3, dtype=torch.long)).abs().sum() == 0


@torch.no_grad()
def test_the_vector_of_a_user_is_the_last_state_and_fits_the_item_vectors(encoder: HistoryEncoder) -> None:
    user_BD = encoder.encode(ITEMS)
    assert torch.equal(user_BD, encoder.states(ITEMS)[:, -1])
    assert encoder.item_vectors().shape == (TITLES + 1, user_BD.shape[1])


@torch.no_grad()
def test_a_temperature_bounds_the_scores() -> None:
    model = new_encoder(EncoderConfig(width=16, length=12, temperature=0.1), TITLES).eval()
    scores = model.encode(ITEMS) @ model.item_vectors().T
    assert scores.abs().max() <= 10.0 + 1e-4


def test_gap_buckets_rise_with_the_gap_and_stay_in_range() -> None:
    buckets = gap_buckets(torch.tensor([-5, 0, 1, 60, 86_400, 10**12]))
    assert buckets.tolist() == sorted(buckets.tolist())
    assert buckets[0] == buckets[1] == 0
    assert buckets[-1] == 63


@torch.no_grad()
def test_vectors_of_users_are_those_of_their_histories_one_by_one(encoder: HistoryEncoder) -> None:
    by_user = {"a": [(3, 5), (7, 9)], "b": [(1, 1), (2, 60), (4, 90)], "c": [(5 + step, step) for step in range(14)]}
    by_user["none"] = []
    found = torch.from_numpy(user_vectors(encoder, Histories.of(by_user, ["title"] * TITLES)))
    for row, events in zip(found, by_user.values(), strict=True):
        newest = torch.tensor(events[-encoder.config.length :] or [(0, 0)])
        torch.testing.assert_close(row, encoder.encode(newest[None, :, 0], newest[None, :, 1])[0])
