"""The simulator keeps to its law, and its files hold together: what is shown, done and true."""

from collections import Counter, defaultdict
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from infra.errors import BadInput
from model.simulation.files import EVENTS, FILES, ITEMS, MANIFEST, RANKINGS, write_simulation
from model.simulation.law import DAY_MS, PRE_QUERY, SLICE_MS, TASK_NAMES, Law, law_with
from model.simulation.members import make_members, next_starts, tastes
from model.simulation.policy import draw_lists, place_probabilities
from model.simulation.queries import WordIndex, draw_query
from model.simulation.requests import Round, World, draw_round
from model.simulation.sessions import begin_visits
from model.simulation.simulator import Plan, make_world, simulate
from model.simulation.titles import make_genre_vectors, make_names
from model.simulation.truth import RequestTruth
from model.simulation.truth_reader import TruthFolder
from streams.events import Click, Engaged, Play, Ranking, Thumb, decode_record
from streams.sources.derive import title_words
from streams.sources.table import Rejection, Seen, TableOptions, read_events, read_items
from streams.topics import RANKINGS as RANKINGS_TOPIC

pytestmark = pytest.mark.slow  # its worlds take half a minute of CPU together

SMALL = Plan(members=150, titles=150, days=2, seed=11)
BEGIN_MS = SMALL.begin_ms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, written."""
    path = tmp_path_factory.mktemp("simulated") / "world"
    write_simulation(SMALL, path)
    return path


@pytest.fixture(scope="module")
def truth(folder: Path) -> TruthFolder:
    """Its truth."""
    return TruthFolder(folder)


@pytest.fixture(scope="module")
def requests(truth: TruthFolder) -> dict[str, RequestTruth]:
    """Its requests by their ranking's id."""
    return {request.ranking_id: request for request in truth.requests()}


@pytest.fixture(scope="module")
def events(folder: Path) -> list[Engaged]:
    """Its events, as `nowrank import` reads them."""
    read = list(read_events(folder / EVENTS, TableOptions(), BEGIN_MS + 10 * DAY_MS, Seen()))
    assert not [row for row in read if isinstance(row, Rejection)]
    return [row for row in read if not isinstance(row, Rejection)]


def first_round(plan: Plan, at_ms: int = BEGIN_MS, position: int = 0) -> tuple[World, Round]:
    """The requests of all members at once, at one moment."""
    world, rng = make_world(plan), np.random.default_rng(3)
    count = len(world.members)
    visits = begin_visits(world, np.arange(count), np.full(count, at_ms), at_ms, rng)
    return world, draw_round(world, visits, np.arange(count), position, rng)


def test_the_same_plan_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    tiny = Plan(members=30, titles=60, days=1, seed=4)
    for name, plan in (("one", tiny), ("two", tiny), ("other", replace(tiny, seed=5))):
        write_simulation(plan, tmp_path / name)
    for name in (*FILES, MANIFEST):
        written = (tmp_path / "one" / name).read_bytes()
        assert written == (tmp_path / "two" / name).read_bytes()
        assert written != (tmp_path / "other" / name).read_bytes()


def test_every_written_row_passes_the_checks_of_the_import(folder: Path, events: list[Engaged]) -> None:
    titles = list(read_items(folder / ITEMS, TableOptions(), Seen()))
    assert len(titles) == SMALL.titles
    assert not [row for row in titles if isinstance(row, Rejection)]
    assert {type(event) for event in events} == {Click, Play, Thumb}
    assert len({event.event_id for event in events}) == len(events)
    for line in (folder / RANKINGS).read_bytes().splitlines():
        assert isinstance(decode_record(RANKINGS_TOPIC, line), Ranking)


def test_the_manifest_says_synthetic_and_counts_what_is_there(folder: Path, truth: TruthFolder) -> None:
    assert truth.manifest.synthetic
    assert truth.law == SMALL.law
    for name, summary in truth.manifest.files.items():
        assert summary.size_bytes == (folder / name).stat().st_size
        assert summary.records == len((folder / name).read_bytes().splitlines()) > 0


def test_the_truth_tells_of_each_event_and_of_no_other(
    requests: dict[str, RequestTruth], events: list[Engaged]
) -> None:
    seen: dict[type, set[tuple[str, int]]] = defaultdict(set)
    for event in events:
        request = requests[event.ranking_id or ""]
        place = (event.position or 0) - 1
        assert request.items[place] == event.item_id
        assert (request.user_id, request.session_id, request.task, request.query, request.source_item_id) == (
            event.user_id, event.session_id, event.task, event.query, event.source_item_id,
        )  # fmt: skip
        assert event.event_ts_ms > request.event_ts_ms
        seen[type(event)].add((request.ranking_id, place))
    clicked = {(r.ranking_id, place) for r in requests.values() for place, is_it in enumerate(r.clicked) if is_it}
    played = {(r.ranking_id, place) for r in requests.values() for place, is_it in enumerate(r.played) if is_it}
    assert seen[Click] == clicked
    assert seen[Play] == played
    assert seen[Thumb] < played
    assert all(r.examined[place] for r in requests.values() for place, is_it in enumerate(r.clicked) if is_it)


def test_the_logged_lists_are_the_lists_of_the_truth(folder: Path, requests: dict[str, RequestTruth]) -> None:
    rankings = [decode_record(RANKINGS_TOPIC, line) for line in (folder / RANKINGS).read_bytes().splitlines()]
    assert len(rankings) == len(requests)
    for ranking in rankings:
        assert isinstance(ranking, Ranking)
        request = requests[ranking.ranking_id]
        assert [item.item_id for item in ranking.items] == request.items
        assert [item.propensity for item in ranking.items] == request.propensities
        assert (ranking.model, ranking.variant == "shuffled") == ("synthetic", request.shuffled)
        assert len(set(request.items)) == len(request.items)


def test_records_come_in_the_order_of_their_times() -> None:
    tiny = Plan(members=40, titles=60, days=2)
    times = [ts_ms for ts_ms, _ in simulate(tiny, make_world(tiny))]
    assert all(before <= after for before, after in pairwise(times))
    assert len(times) > 500
    assert times[0] >= BEGIN_MS


def test_new_titles_come_late_and_are_never_shown_before(truth: TruthFolder, requests: dict[str, RequestTruth]) -> None:
    available_ms = {item.item_id: item.available_from_ms or 0 for item in truth.items}
    late = {item_id for item_id, from_ms in available_ms.items() if from_ms > BEGIN_MS}
    assert len(late) == round(SMALL.titles * SMALL.law.late_title_share)
    shown = Counter()
    for request in requests.values():
        for item_id in request.items:
            assert available_ms[item_id] <= request.event_ts_ms
            shown[item_id] += 1
    assert len(late & set(shown)) > len(late) / 2


def test_a_written_truth_gives_each_utility_again(truth: TruthFolder, requests: dict[str, RequestTruth]) -> None:
    index = {item.item_id: at for at, item in enumerate(truth.items)}
    tasks = Counter()
    for request in list(requests.values())[:400]:
        at = [index[item_id] for item_id in request.items]
        np.testing.assert_allclose(truth.utilities(request)[at], request.utilities, atol=1e-4)
        np.testing.assert_allclose(truth.relevances(request)[at], request.relevances, atol=1e-4)
        assert truth.is_available(request)[at].all()
        tasks[request.task] += 1
    assert set(tasks) == set(TASK_NAMES)


def test_a_utility_is_the_blend_of_taste_and_mood_that_the_law_says(
    truth: TruthFolder, requests: dict[str, RequestTruth]
) -> None:
    request = next(r for r in requests.values() if r.task == "pre_query" and r.gate > 0.3)
    only_taste, only_mood = truth.utilities(request, gate=0.0), truth.utilities(request, gate=1.0)
    blend = request.gate * only_mood + (1 - request.gate) * only_taste
    np.testing.assert_allclose(truth.utilities(request), blend, atol=1e-9)
    assert np.abs(only_taste - only_mood).max() > 1


def test_without_moods_nothing_but_taste_and_request_makes_a_utility(tmp_path: Path) -> None:
    write_simulation(Plan(members=60, titles=60, days=2, law=law_with(["mood_share=0"])), tmp_path)
    null = TruthFolder(tmp_path)
    asked = list(null.requests())
    assert len(asked) > 100
    assert all(session.mood is None and session.mood_genre is None for session in null.sessions.values())
    assert {request.gate for request in asked} == {0.0}
    index = {item.item_id: at for at, item in enumerate(null.items)}
    for request in asked:
        at = [index[item_id] for item_id in request.items]
        np.testing.assert_allclose(null.utilities(request, gate=0.0)[at], request.utilities, atol=1e-4)


def test_a_run_without_moods_has_the_same_members_titles_and_first_visits() -> None:
    null = Plan(members=150, titles=150, days=2, seed=11, law=Law(mood_share=0.0))
    worlds = make_world(SMALL), make_world(null)
    assert worlds[0].titles.items == worlds[1].titles.items
    np.testing.assert_array_equal(worlds[0].members.taste_MD, worlds[1].members.taste_MD)
    first_ms = [next(simulate(plan, world))[0] for plan, world in zip((SMALL, null), worlds, strict=True)]
    assert first_ms[0] == first_ms[1]


def resemblance(mood_share: float) -> tuple[float, float]:
    """The mean cosine between what a member clicks in two pre-query lists: of one session, and of two sessions."""
    law = Law(mood_share=mood_share, search_share=0.0)
    plan = Plan(members=6_000, titles=60, law=law)
    world, rng = make_world(plan), np.random.default_rng(3)
    who, at_ms = np.arange(plan.members), np.full(plan.members, BEGIN_MS)
    one, other = (begin_visits(world, who, at_ms, BEGIN_MS, rng) for _ in range(2))
    sums = []
    for visits, position in ((one, 3), (one, 4), (other, 4)):
        drawn = draw_round(world, visits, who, position, rng)
        sums.append(np.einsum("nk,nkd->nd", drawn.clicked_NK, world.titles.vectors_TD[drawn.lists.titles_NK]))
    lengths = [np.linalg.norm(clicked, axis=1) for clicked in sums]
    both = (lengths[0] > 0) & (lengths[1] > 0) & (lengths[2] > 0)
    first, same, elsewhere = (clicked[both] / length[both, None] for clicked, length in zip(sums, lengths, strict=True))
    return float((first * same).sum(axis=1).mean()), float((first * elsewhere).sum(axis=1).mean())


def test_clicks_of_one_session_resemble_each_other_only_where_there_are_moods() -> None:
    same, elsewhere = resemblance(mood_share=1.0)
    assert same - elsewhere > 0.1
    same, elsewhere = resemblance(mood_share=0.0)
    assert abs(same - elsewhere) < 0.03


def test_the_gate_differs_between_members_and_grows_in_a_session() -> None:
    plan = Plan(members=2_000, titles=60)
    _, begin = first_round(plan)
    _, later = first_round(plan, position=3)
    in_mood = begin.gate_N > 0
    assert abs(in_mood.mean() - plan.law.mood_share) < 0.05
    assert begin.gate_N[in_mood].std() > 0.1
    assert (later.gate_N[in_mood] > begin.gate_N[in_mood]).all()
    assert (later.gate_N[~in_mood] == 0).all()


def test_clicks_come_as_often_as_the_truth_says() -> None:
    _, drawn = first_round(Plan(members=4_000, titles=100))
    chance = drawn.examine_NK * drawn.relevance_NK
    sigma = np.sqrt((chance * (1 - chance)).sum(axis=0))
    assert (np.abs(drawn.clicked_NK.sum(axis=0) - chance.sum(axis=0)) < 5 * sigma).all()


def test_position_bias_can_be_read_from_shuffled_lists() -> None:
    law = law_with(["shuffled_share=1", "search_share=0"])
    _, drawn = first_round(Plan(members=12_000, titles=60, law=law))
    assert (drawn.task_N == PRE_QUERY).all()
    rates = drawn.clicked_NK.mean(axis=0)
    true_ratios = np.arange(1, law.list_length + 1) ** -law.pre_query_eta
    np.testing.assert_allclose(rates / rates[0], true_ratios, atol=0.05)
    slope = np.polyfit(np.log(np.arange(1, law.list_length + 1)), np.log(rates), 1)[0]
    assert -slope == pytest.approx(law.pre_query_eta, abs=0.1)


def test_lists_in_the_policys_order_hide_the_position_bias() -> None:
    law = law_with(["shuffled_share=0", "search_share=0", "explored=0"])
    _, drawn = first_round(Plan(members=4_000, titles=60, law=law))
    rates = drawn.clicked_NK.mean(axis=0)
    slope = np.polyfit(np.log(np.arange(1, law.list_length + 1)), np.log(rates), 1)[0]
    assert -slope > law.pre_query_eta + 0.1


def test_propensities_are_the_shares_of_draws_that_put_a_title_at_a_place() -> None:
    law, count, titles = Law(list_length=6, explored=2, shuffled_share=0.3), 20_000, 15
    scores_NT = np.tile(np.linspace(3, 1, titles, dtype=np.float32), (count, 1))
    scores_NT[:, 1] = -np.inf
    lists = draw_lists(law, scores_NT, np.random.default_rng(0))
    shares_TK = np.stack([(lists.titles_NK == title).mean(axis=0) for title in range(titles)])
    assert (shares_TK[1] == 0).all()
    said_TK = np.zeros((titles, law.list_length))
    for place in range(law.list_length):
        said_TK[lists.titles_NK[:, place], place] = lists.propensity_NK[:, place]
    np.testing.assert_allclose(shares_TK, said_TK, atol=0.02)
    np.testing.assert_allclose(said_TK.sum(axis=0), 1.0)
    np.testing.assert_allclose(place_probabilities(6, 4, 0.3).sum(axis=1), 1.0)


def test_queries_begin_a_word_of_the_title_in_mind_and_some_have_a_slip() -> None:
    rng = np.random.default_rng(1)
    names = make_names(300, rng)
    queries = [(title_words(name), draw_query(Law(), title_words(name), rng)) for name in names for _ in range(10)]
    for words, query in queries:
        if " " not in query.meant:
            assert any(word.startswith(query.meant) for word in words)
        assert query.typed[0] == query.meant[0]
    slips = np.mean([query.typed != query.meant for _, query in queries])
    assert slips == pytest.approx(Law().typo_share, abs=0.03)
    assert len(set(names)) == len(names)


def test_a_query_is_closest_to_titles_with_a_word_that_begins_so() -> None:
    world = make_world(Plan(members=1, titles=60))
    words = WordIndex(world.titles.items)
    word = title_words(world.titles.items[7].title)[0]
    closeness = words.closeness(word[:4])
    assert closeness[7] == 1.0
    assert words.closeness(word[:3] + "#").max() == pytest.approx(0.75)
    assert words.closeness("").max() == 0.0


def test_tastes_turn_at_the_members_rate_and_stand_still_without_drift() -> None:
    who = np.arange(50)
    for drift, is_moving in ((0.05, True), (0.0, False)):
        law = Law(drift_rad_per_day=drift)
        rng = np.random.default_rng(2)
        members = make_members(law, make_genre_vectors(law, rng), 50, (0, DAY_MS), rng)
        moved = np.abs(tastes(members, who, 30.0) - tastes(members, who, 0.0)).max(axis=1)
        assert ((moved > 0) == is_moving).all()
        np.testing.assert_allclose(tastes(members, who, 0.0), members.taste_MD, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(tastes(members, who, 30.0), axis=1), 1.0)


def test_members_come_back_later_than_a_slice_and_mostly_around_their_peak() -> None:
    law, rng = Law(), np.random.default_rng(5)
    members = make_members(law, make_genre_vectors(law, rng), 5_000, (BEGIN_MS, BEGIN_MS + DAY_MS), rng)
    ended = np.full(5_000, BEGIN_MS)
    starts = next_starts(law, members, np.arange(5_000), ended, rng)
    assert (starts - ended > SLICE_MS).all()
    hours = (starts / 3_600_000 - members.peak_hour_M) % 24
    near_peak, near_trough = (np.minimum(hours, 24 - hours) < 3).sum(), (np.abs(hours - 12) < 3).sum()
    assert near_peak > 2 * near_trough


def test_a_members_sessions_follow_each_other_and_their_gaps_do_not_break_them(
    truth: TruthFolder, requests: dict[str, RequestTruth], events: list[Engaged]
) -> None:
    times: dict[str, list[int]] = defaultdict(list)
    for happened in (*requests.values(), *events):
        times[str(happened.session_id)].append(happened.event_ts_ms)
    by_user: dict[str, list[list[int]]] = defaultdict(list)
    for session_id, of_session in times.items():
        of_session.sort()
        assert all(after - before < 30 * 60_000 for before, after in pairwise(of_session))
        by_user[truth.sessions[session_id].user_id].append(of_session)
    assert max(len(sessions) for sessions in by_user.values()) > 2
    for sessions in by_user.values():
        for before, after in pairwise(sorted(sessions)):
            assert after[0] - before[-1] > 30 * 60_000


def test_every_parameter_of_the_law_is_in_the_decision_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs/decisions/0013-a-simulator-with-a-known-truth.md").read_text()
    for field in fields(Law):
        assert f"| `{field.name}` | {field.default:g} |" in page


@pytest.mark.parametrize(
    "pair", ["mood_share=1.5", "moods=1", "list_length=many", "list_length", "explored=12", "sessions_per_day=0"]
)
def test_a_parameter_that_the_law_does_not_know_or_bear_is_refused(pair: str) -> None:
    with pytest.raises(BadInput, match=pair.partition("=")[0]):
        law_with([pair])


def test_too_few_titles_or_a_folder_with_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="titles = 5"):
        Plan(titles=5)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(BadInput, match="not an empty folder"):
        write_simulation(Plan(members=1, titles=60, days=1), tmp_path)
    with pytest.raises(BadInput, match=MANIFEST):
        TruthFolder(tmp_path)
