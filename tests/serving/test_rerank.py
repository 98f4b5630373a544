"""The re-rank rules: what each promises, whatever the candidates."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.catalogue import Item
from features.engagement import Task
from features.item import SUMS, ItemState
from features.vector import Context
from infra.clock import now_ms
from infra.errors import SettingsError
from infra.metrics import Metrics
from infra.settings import Settings
from serving.candidates import BUDGETS, find_candidates
from serving.contract import RankRequest
from serving.library import Library
from serving.near_cache import ItemRow
from serving.ordering import Ordering
from serving.process import ScorerProcess
from serving.rerank import Order, RerankRules, diversify, explore, kendall_distance, parse_rules, pin, stabilise
from serving.scorer import Scorer
from serving.shown_lists import KEPT_MS, Question, ShownLists
from tests.serving.world import metric, running_scorer, wait_for_ranking, wait_until


def falling(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scores by which candidates 0, 1, 2, ... are in order, a tenth apart."""
    return np.arange(count, 0, -1, dtype=np.float32) / 10


@st.composite
def refreshes(draw: st.DrawFn) -> tuple[list[int], dict[int, int]]:
    """A new order of candidates, and the earlier places of some of them."""
    order = draw(st.permutations(range(draw(st.integers(1, 30)))))
    before = draw(st.lists(st.sampled_from(order), unique=True))
    return list(order), {index: place for place, index in enumerate(before)}


@given(refreshes(), st.integers(1, 5))
def test_no_shown_title_moves_further_than_its_leash_among_those_shown(
    refresh: tuple[list[int], dict[int, int]], places: int
) -> None:
    order, before = refresh
    settled = stabilise(order, np.zeros(len(order), np.float32), before, places, margin=0.5)
    assert sorted(settled) == sorted(order)
    now = {index: place for place, index in enumerate(settled)}
    assert all(abs(now[index] - place) <= places for index, place in before.items() if place < len(order))
    among_shown = [index for index in settled if index in before]
    assert all(abs(among_shown.index(index) - place) <= places for index, place in before.items())


def test_new_titles_push_no_shown_title_further_up_among_those_shown() -> None:
    before = {index: place for place, index in enumerate([2, 0, 4, 7, 5])}
    settled = stabilise([1, 7, 6, 4, 5, 0, 2, 3], np.zeros(8, np.float32), before, 2, margin=1.0)
    assert [index for index in settled if index in before].index(7) >= 1


@given(refreshes(), st.integers(1, 5), st.integers(0, 1_000))
def test_titles_that_are_let_go_leave_nobody_without_a_place(
    refresh: tuple[list[int], dict[int, int]], places: int, seed: int
) -> None:
    order, before = refresh
    scores_N = np.random.default_rng(seed).normal(size=len(order)).astype(np.float32)
    assert sorted(stabilise(order, scores_N, before, places, margin=0.5)) == sorted(order)


@given(refreshes(), st.integers(0, 5))
def test_without_places_or_without_an_earlier_answer_the_order_stays(
    refresh: tuple[list[int], dict[int, int]], places: int
) -> None:
    order, before = refresh
    scores_N = np.zeros(len(order), np.float32)
    assert stabilise(order, scores_N, before, 0, 1.0) == stabilise(order, scores_N, {}, places, 1.0) == order


def test_a_title_whose_score_fell_by_more_than_the_margin_is_let_go() -> None:
    order, before = [1, 2, 3, 4, 5, 0], {index: index for index in range(6)}
    scores_N = np.array([-5.0, 1.0, 0.9, 0.8, 0.7, 0.6], np.float32)
    assert stabilise(order, scores_N, before, 1, margin=1.0) == order
    assert stabilise(order, scores_N, before, 1, margin=10.0).index(0) == 1


def test_small_changes_of_scores_change_nothing_that_is_shown_twice() -> None:
    order, before = [1, 0, 3, 2, 5, 4], {index: index for index in range(6)}
    settled = stabilise(order, falling(6), before, 1, margin=1.0)
    assert all(abs(settled.index(index) - index) <= 1 for index in range(6))


@given(st.integers(2, 40), st.integers(1, 20), st.floats(0, 1), st.integers(0, 1_000))
def test_diversity_keeps_every_candidate_and_the_best_stays_first(
    candidates: int, count: int, strength: float, seed: int
) -> None:
    vectors_ND = np.random.default_rng(seed).normal(size=(candidates, 4)).astype(np.float32)
    order = list(range(candidates))
    varied = diversify(order, falling(candidates), vectors_ND, strength, count)
    assert sorted(varied) == order
    if strength < 1:
        assert varied[0] == 0


def test_a_title_like_the_one_before_gives_way_to_another_kind() -> None:
    vectors_ND = np.array([[1, 0], [1, 0.01], [0, 1]], np.float32)
    assert diversify([0, 1, 2], falling(3), vectors_ND, 0.0, 3) == [0, 1, 2]
    assert diversify([0, 1, 2], falling(3), vectors_ND, 0.7, 3) == [0, 2, 1]


def test_titles_without_a_vector_break_no_diversity() -> None:
    assert diversify([0, 1, 2], falling(3), np.zeros((3, 2), np.float32), 0.5, 3) == [0, 1, 2]


def test_propensities_are_the_shares_in_which_titles_are_shown() -> None:
    order, share, draws = list(range(6)), 0.3, 20_000
    draw = random.Random(5)
    seen: dict[int, int] = {}
    said: dict[int, float] = {}
    for _ in range(draws):
        shown = explore(order, 3, share, draw)
        assert shown.indices[:2] == [0, 1]
        assert shown.propensities[:2] == [1.0, 1.0]
        seen[shown.indices[2]] = seen.get(shown.indices[2], 0) + 1
        said[shown.indices[2]] = shown.propensities[2]
    assert sum(said.values()) == pytest.approx(1.0)
    for index, chance in said.items():
        assert seen[index] / draws == pytest.approx(chance, abs=0.02)


@given(st.integers(0, 10), st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.0]), st.integers())
def test_exploration_shows_each_candidate_at_most_once(candidates: int, count: int, share: float, seed: int) -> None:
    shown = explore(range(candidates), count, share, random.Random(seed))
    assert len(shown.indices) == len(set(shown.indices)) == len(shown.propensities) == min(count, candidates)
    assert all(0 < chance <= 1 for chance in shown.propensities)


def test_pinned_titles_stand_first_in_their_own_order() -> None:
    assert pin(Order([4, 1, 2], [1.0, 1.0, 0.5]), [2, 7], 3) == Order([2, 7, 4], [1.0, 1.0, 1.0])


def orders_that_explore(**asked: Any) -> list[Order]:
    """Two hundred answers to one question, each of which would explore."""
    library = Library(Metrics("scorer"))
    scorer, item_ids = Scorer(library), [f"n{number}" for number in range(10)]
    ordering = Ordering(library, Metrics("scorer"), RerankRules(exploration=1.0))
    context = Context(task=Task.PRE_QUERY, now_ms=now_ms())
    prepared = scorer.prepare(None, context, library.table.slots(item_ids))
    scored = scorer.score(prepared, context.task)
    request = RankRequest(user_id="ann", task="pre_query", limit=3, **asked)
    return [ordering.order(str(draw), request, context, item_ids, prepared, scored) for draw in range(200)]


def test_exploration_draws_for_the_last_place_that_pins_leave() -> None:
    orders = orders_that_explore(pinned=["n7"])
    assert {tuple(order.indices[:2]) for order in orders} == {(7, 0)}
    assert {order.indices[2] for order in orders} == {1, 2, 3, 4, 5, 6, 8, 9}
    assert {order.propensities[2] for order in orders} == {1 / 8}


def test_an_answer_in_rows_explores_nothing_since_its_rows_show_more_than_the_list() -> None:
    orders = orders_that_explore(groups=True)
    assert all(order == Order([0, 1, 2], [1.0, 1.0, 1.0]) for order in orders)


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [("abc", "abc", 0.0), ("abc", "cba", 1.0), ("abcd", "bacd", 1 / 6), ("abx", "yba", 1.0), ("a", "a", None)],
)
def test_kendall_distance_is_the_share_of_pairs_that_changed(before: str, after: str, distance: float | None) -> None:
    assert kendall_distance(before, after) == distance


def test_rules_are_read_from_settings_and_off_without_them() -> None:
    assert parse_rules(Settings()) == RerankRules()
    assert parse_rules(Settings(diversity="pre_query=0.3, search=0", exploration=0.1)) == RerankRules(
        {Task.PRE_QUERY: 0.3, Task.SEARCH: 0.0}, 0.1
    )


@pytest.mark.parametrize("wrong", ["home=0.3", "search", "search=2", "search=-1,pre_query=0.3", "search=nan"])
def test_a_diversity_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="NOWRANK_DIVERSITY"):
        parse_rules(Settings(diversity=wrong))


def test_shown_lists_are_bounded_and_forget_old_answers() -> None:
    lists = ShownLists(capacity=2)
    questions = [Question(user, None, "pre_query", None, None, None) for user in "abc"]
    for question in questions:
        lists.put(question, [question.user_id], 1_000)
    assert [lists.before(question, 1_000 + KEPT_MS) for question in questions] == [(), ("b",), ("c",)]
    assert lists.before(questions[2], 1_001 + KEPT_MS) == ()


def ids(client: httpx.Client, **fields: Any) -> list[str]:
    response = client.post("/rank", json={"user_id": "ann", "task": "pre_query", "log": False} | fields)
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


def test_pins_and_blocks_of_a_request_are_kept_to(client: httpx.Client) -> None:
    plain = ids(client, limit=5)
    assert ids(client, limit=5, pinned=["t50", "t51"])[:3] == ["t50", "t51", plain[0]]
    assert plain[0] not in ids(client, limit=60, blocked=plain[:1])
    assert ids(client, items=["t1", "t2"], pinned=["t9"], blocked=["t2"]) == ["t9", "t1"]
    refused = client.post("/rank", json={"user_id": "a", "task": "pre_query", "pinned": ["x"], "blocked": ["x"]})
    assert (refused.status_code, refused.json()["field"]) == (422, "blocked")


def test_new_titles_are_found_behind_those_that_trend() -> None:
    library = Library(Metrics("scorer"))
    asyncio.run(
        library.put_artifact_items(Item(item_id=f"n{number}", title=f"Title {number}") for number in range(400))
    )
    engaged = [ItemState(as_of_ms=now_ms(), sums=[1.0] * len(SUMS)) for _ in range(200)]
    library.put_rows(ItemRow(f"n{number}", state, b"", None) for number, state in enumerate(engaged))
    library.refresh(now_ms())
    found = find_candidates(Scorer(library), None, Context(task=Task.PRE_QUERY, now_ms=now_ms()), False)
    assert found.by_source["trending"] == BUDGETS[Task.PRE_QUERY]["trending"]
    new = found.item_ids[-BUDGETS[Task.PRE_QUERY]["new"] :]
    assert new[0] == "n399"  # the last one to come
    assert {*new} <= {f"n{number}" for number in range(200, 400)}
    assert found.by_source["new"] == 20


def test_a_scorer_with_every_rule_answers_and_logs_propensities(world_settings: Settings) -> None:
    rules = {"diversity": "pre_query=0.5", "stability_places": 2, "exploration": 1.0}
    with running_scorer(replace(world_settings, **rules)) as (process, client):
        assert isinstance(process, ScorerProcess)
        wait_until(lambda: process.library.titles_count)
        first = ids(client, user_id="every-rule", session_id="s", limit=10, log=True, id="every-rule-1")
        second = ids(client, user_id="every-rule", session_id="s", limit=10, log=True)
        assert len(set(first)) == len(set(second)) == 10
        assert metric(client, 'nowrank_scorer_kendall_distance_ratio_count{task="pre_query"}') == 1
        ranking = wait_for_ranking(world_settings, "every-rule-1")
    assert [item.item_id for item in ranking.items] == first
    assert [item.propensity < 1 for item in ranking.items] == [False] * 9 + [True]
