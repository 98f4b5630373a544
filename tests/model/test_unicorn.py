from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from features.model_inputs import QUERY_TOKENS, SESSION_EVENTS, RequestInputs
from features.vector import COLUMN_NAMES, HISTORY_TITLES
from model.artifact import ITEMS_GRAPH, RANK_GRAPH, request_feed
from model.config import UnicornConfig
from model.export import write_graphs
from model.unicorn import Candidates, RankGraph, Ranking, Request, Unicorn

TITLES = 40


@pytest.fixture(scope="module")
def model() -> Unicorn:
    """A network of which no part is silent because it begins at zero."""
    torch.manual_seed(0)
    model = Unicorn(UnicornConfig(), TITLES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def _inputs(session: int = 3, history: int = 5, source: int = 7, seed: int = 0) -> RequestInputs:
    rng = np.random.default_rng(seed)

    def padded(length: int, used: int, high: int) -> np.ndarray:
        array = np.zeros(length, np.int64)
        array[:used] = rng.integers(1, high, used)
        return array

    return RequestInputs(
        task=1,
        country=3,
        daypart=2,
        query_tokens_Q=padded(QUERY_TOKENS, 4, 1000),
        query_flags_2=np.array([0.2, 0.0], np.float32),
        source_slot=source,
        session_slots_L=padded(SESSION_EVENTS, session, TITLES),
        session_kinds_L=padded(SESSION_EVENTS, session, 4),
        session_gaps_L=rng.random(SESSION_EVENTS).astype(np.float32),
        history_slots_T=padded(HISTORY_TITLES, history, TITLES),
        history_weights_T=rng.random(HISTORY_TITLES).astype(np.float32),
    )


def _feed(inputs: RequestInputs, count: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(TITLES, 64)).astype(np.float32)
    vectors[0] = 0
    return request_feed(inputs, vectors) | {
        "candidate_vectors": rng.normal(size=(count, 64)).astype(np.float32),
        "candidate_bias": rng.normal(size=count).astype(np.float32),
        "pairs": rng.normal(size=(count, len(COLUMN_NAMES))).astype(np.float32),
    }


def _run(model: Unicorn, feed: dict[str, np.ndarray]) -> Ranking:
    with torch.no_grad():
        return Ranking(
            *RankGraph(model)(*(torch.from_numpy(feed[name]) for name in (*Request._fields, *Candidates._fields)))
        )


def test_both_graphs_answer_as_torch_does_at_any_number_of_candidates(model: Unicorn, tmp_path: Path) -> None:
    write_graphs(model, tmp_path)
    rank = onnxruntime.InferenceSession(str(tmp_path / RANK_GRAPH))
    for count in (1, 6, 500):
        feed = _feed(_inputs(seed=count), count)
        for ours, theirs in zip(_run(model, feed), rank.run(["logits", "gate", "long", "short"], feed), strict=True):
            assert np.abs(ours.numpy() - theirs).max() <= 1e-4
    items = onnxruntime.InferenceSession(str(tmp_path / ITEMS_GRAPH))
    rng = np.random.default_rng(0)
    for count in (1, 7, 300):
        inputs = (rng.integers(0, TITLES, count), rng.integers(0, 1000, (count, 16)), rng.integers(0, 256, (count, 6)))
        found = items.run(
            ["vectors", "bias"], dict(zip(("index", "title_tokens", "genre_tokens"), inputs, strict=True))
        )
        with torch.no_grad():
            expected = model.items(*(torch.from_numpy(array) for array in inputs))
        for ours, theirs in zip(expected, found, strict=True):
            assert np.abs(ours.numpy() - theirs).max() <= 1e-4


def test_what_stands_in_the_padding_changes_nothing(model: Unicorn) -> None:
    feed = _feed(_inputs(session=3, history=5))
    dirty = {name: array.copy() for name, array in feed.items()}
    dirty["session_vectors"][:, 3:] = 9.0
    dirty["session_kinds"][:, 3:] = 2
    dirty["session_gaps"][:, 3:] = 5.0
    dirty["history_vectors"][:, 5:] = -9.0
    dirty["history_weights"][:, 5:] = 4.0
    for ours, theirs in zip(_run(model, feed), _run(model, dirty), strict=True):
        assert torch.equal(ours, theirs)


def test_candidates_do_not_see_each_other(model: Unicorn) -> None:
    feed = _feed(_inputs(), 6)
    some = feed | {name: feed[name][[4, 1]] for name in Candidates._fields}
    assert torch.allclose(_run(model, feed).logits[[4, 1]], _run(model, some).logits, atol=1e-5)


def test_without_a_session_the_gate_is_zero_and_nothing_short_term_is_added(model: Unicorn) -> None:
    ranking = _run(model, _feed(_inputs(session=0)))
    assert ranking.gate.item() == 0.0
    assert not ranking.short.any()
    assert ranking.long.any()


def test_without_a_history_the_gate_is_one_and_nothing_long_term_is_added(model: Unicorn) -> None:
    ranking = _run(model, _feed(_inputs(history=0)))
    assert ranking.gate.item() == 1.0
    assert not ranking.long.any()
    assert ranking.short.any()


def test_with_both_sides_the_gate_is_between(model: Unicorn) -> None:
    assert 0.0 < _run(model, _feed(_inputs())).gate.item() < 1.0


def test_somebody_unknown_gets_the_anonymous_vector_and_finite_scores(model: Unicorn) -> None:
    feed = _feed(_inputs(session=0, history=0, source=0))
    before = _run(model, feed)
    assert torch.isfinite(before.logits).all()
    assert before.gate.item() == 0.0
    with torch.no_grad():
        model.gate.anonymous_D.add_(1.0)
    assert not torch.allclose(before.logits, _run(model, feed).logits)
    assert torch.equal(_run(model, _feed(_inputs())).gate, _run(model, _feed(_inputs())).gate)
    with torch.no_grad():
        model.gate.anonymous_D.sub_(1.0)


def test_the_order_of_the_session_matters_and_that_of_the_history_does_not(model: Unicorn) -> None:
    inputs = _inputs(session=4, history=6)
    turned = inputs.session_slots_L.copy()
    turned[:4] = turned[:4][::-1]
    assert not torch.allclose(
        _run(model, _feed(inputs)).logits, _run(model, _feed(inputs._replace(session_slots_L=turned))).logits
    )
    slots, weights = inputs.history_slots_T.copy(), inputs.history_weights_T.copy()
    slots[:6], weights[:6] = slots[:6][::-1].copy(), weights[:6][::-1].copy()
    shuffled = inputs._replace(history_slots_T=slots, history_weights_T=weights)
    assert torch.allclose(_run(model, _feed(inputs)).logits, _run(model, _feed(shuffled)).logits, atol=1e-5)


def test_a_column_with_scale_zero_has_no_weight(model: Unicorn) -> None:
    feed = _feed(_inputs())
    column = COLUMN_NAMES.index("item_impressions_1d")
    kept = model.column_scale.clone()
    model.column_scale[column] = 0.0
    other = feed | {"pairs": feed["pairs"].copy()}
    other["pairs"][:, column] = 1e6
    assert torch.equal(_run(model, feed).logits, _run(model, other).logits)
    model.column_scale.copy_(kept)


def test_smaller_sizes_make_a_smaller_network() -> None:
    small = Unicorn(replace(UnicornConfig(), deep=32, cross_rank=8), TITLES)
    whole = Unicorn(UnicornConfig(), TITLES)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())
