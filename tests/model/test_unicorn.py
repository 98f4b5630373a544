from dataclasses import replace

import pytest
import torch

from features.vector import COLUMN_NAMES
from model.config import UnicornConfig
from model.unicorn import Candidates, Unicorn
from tests.model.random_requests import TITLES, loud_model, random_inputs, run_graph, to_feed


@pytest.fixture(scope="module")
def model() -> Unicorn:
    return loud_model()


def test_what_stands_in_the_padding_changes_nothing(model: Unicorn) -> None:
    feed = to_feed(random_inputs(session=3, history=5))
    dirty = {name: array.copy() for name, array in feed.items()}
    dirty["session_vectors"][:, 3:] = 9.0
    dirty["session_kinds"][:, 3:] = 2
    dirty["session_gaps"][:, 3:] = 5.0
    dirty["history_vectors"][:, 5:] = -9.0
    dirty["history_weights"][:, 5:] = 4.0
    for ours, theirs in zip(run_graph(model, feed), run_graph(model, dirty), strict=True):
        assert torch.equal(ours, theirs)


def test_candidates_do_not_see_each_other(model: Unicorn) -> None:
    feed = to_feed(random_inputs(), 6)
    some = feed | {name: feed[name][[4, 1]] for name in Candidates._fields}
    assert torch.allclose(run_graph(model, feed).logits[[4, 1]], run_graph(model, some).logits, atol=1e-5)


def test_without_a_session_the_gate_is_zero_and_nothing_short_term_is_added(model: Unicorn) -> None:
    ranking = run_graph(model, to_feed(random_inputs(session=0)))
    assert ranking.gate.item() == 0.0
    assert not ranking.short.any()
    assert ranking.long.any()


def test_without_a_history_the_gate_is_one_and_nothing_long_term_is_added(model: Unicorn) -> None:
    ranking = run_graph(model, to_feed(random_inputs(history=0)))
    assert ranking.gate.item() == 1.0
    assert not ranking.long.any()
    assert ranking.short.any()


def test_with_both_sides_the_gate_is_between(model: Unicorn) -> None:
    assert 0.0 < run_graph(model, to_feed(random_inputs())).gate.item() < 1.0


def test_somebody_unknown_gets_the_anonymous_vector_and_finite_scores(model: Unicorn) -> None:
    feed = to_feed(random_inputs(session=0, history=0, source=0))
    before = run_graph(model, feed)
    assert torch.isfinite(before.logits).all()
    assert before.gate.item() == 0.0
    with torch.no_grad():
        model.gate.anonymous_D.add_(1.0)
    assert not torch.allclose(before.logits, run_graph(model, feed).logits)
    assert torch.equal(run_graph(model, to_feed(random_inputs())).gate, run_graph(model, to_feed(random_inputs())).gate)
    with torch.no_grad():
        model.gate.anonymous_D.sub_(1.0)


def test_the_order_of_the_session_matters_and_that_of_the_history_does_not(model: Unicorn) -> None:
    inputs = random_inputs(session=4, history=6)
    turned = inputs.session_slots_L.copy()
    turned[:4] = turned[:4][::-1]
    assert not torch.allclose(
        run_graph(model, to_feed(inputs)).logits,
        run_graph(model, to_feed(inputs._replace(session_slots_L=turned))).logits,
    )
    slots, weights = inputs.history_slots_T.copy(), inputs.history_weights_T.copy()
    slots[:6], weights[:6] = slots[:6][::-1].copy(), weights[:6][::-1].copy()
    shuffled = inputs._replace(history_slots_T=slots, history_weights_T=weights)
    assert torch.allclose(
        run_graph(model, to_feed(inputs)).logits, run_graph(model, to_feed(shuffled)).logits, atol=1e-5
    )


def test_a_column_with_scale_zero_has_no_weight(model: Unicorn) -> None:
    feed = to_feed(random_inputs())
    column = COLUMN_NAMES.index("item_impressions_1d")
    kept = model.column_scale.clone()
    model.column_scale[column] = 0.0
    other = feed | {"pairs": feed["pairs"].copy()}
    other["pairs"][:, column] = 1e6
    assert torch.equal(run_graph(model, feed).logits, run_graph(model, other).logits)
    model.column_scale.copy_(kept)


def test_smaller_sizes_make_a_smaller_network() -> None:
    small = Unicorn(replace(UnicornConfig(), deep=32, cross_rank=8), TITLES)
    whole = Unicorn(UnicornConfig(), TITLES)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())
