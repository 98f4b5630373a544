"""A ranking becomes labelled rows: no title twice, nothing invented, the same rows for the same ranking."""

import uuid
from dataclasses import replace
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from features.catalogue import Item
from infra.settings import Settings
from serving.contract import Group
from serving.groups import LEAST_TITLES, Grounds, Reason, lean, make_groups, matching
from tests.serving.test_rank import ask, ids
from tests.serving.test_rankings_log import logged
from tests.serving.world import make_items, wait_until

GENRES = ("Noir", "Comedy", "Western")
NAMES = [f"t{number}" for number in range(24)]


ITEMS = {
    name: Item(
        item_id=name,
        title=f"Far {name}",
        genres=tuple(genre for bit, genre in enumerate(GENRES) if number >> bit & 1),
        year=(None, 1951, 1969)[number % 3],
    )
    for number, name in enumerate(NAMES[:20])
}


@st.composite
def grounds_of_anything(draw: st.DrawFn) -> Grounds:
    """A ranking in falling order of its scores, with titles of every mix of genres and some that are unknown."""
    some = st.integers(0, 2 ** len(NAMES) - 1).map(
        lambda bits: [name for at, name in enumerate(NAMES) if bits >> at & 1]
    )
    item_ids = draw(some)
    step = draw(st.integers(0, 3))
    return Grounds(
        item_ids=item_ids,
        scores=[5.0 - step * place for place in range(len(item_ids))],
        items=ITEMS,
        query=draw(st.sampled_from((None, "far"))),
        matches=draw(some),
        related=draw(some),
        reasons=[Reason(name, "Because you just watched", draw(some)) for name in draw(some)[:3]],
        country=draw(st.sampled_from((None, "DE"))),
        in_country=draw(some),
        trending=draw(some),
        genre_leaning=draw(st.dictionaries(st.sampled_from(GENRES), st.integers(-1, 2))),
        decade_leaning=draw(st.dictionaries(st.sampled_from((1950, 1960)), st.integers(-1, 2))),
    )


def titles_of(groups: list[Group]) -> list[str]:
    return [item.item_id for group in groups for item in group.items]


@given(grounds_of_anything(), st.integers(1, 20), st.integers(1, 50))
def test_no_title_twice_and_none_that_was_not_ranked(grounds: Grounds, rows: int, per_row: int) -> None:
    shown = titles_of(make_groups(grounds, rows, per_row))
    assert len(shown) == len(set(shown))
    assert set(shown) <= set(grounds.item_ids)


@given(grounds_of_anything(), st.integers(1, 20), st.integers(1, 50))
def test_rows_are_no_more_and_no_longer_than_asked_for_and_none_is_too_short(
    grounds: Grounds, rows: int, per_row: int
) -> None:
    groups = make_groups(grounds, rows, per_row)
    assert len(groups) <= rows
    for group in groups:
        least = 1 if group.kind == "match" else min(LEAST_TITLES, per_row)
        assert least <= len(group.items) <= per_row


@given(grounds_of_anything(), st.integers(1, 20), st.integers(1, 50))
def test_same_grounds_give_the_same_groups_however_they_are_held(grounds: Grounds, rows: int, per_row: int) -> None:
    turned = replace(
        grounds,
        reasons=list(reversed(grounds.reasons)),
        trending=list(reversed(list(grounds.trending))),
        genre_leaning=dict(reversed(grounds.genre_leaning.items())),
        decade_leaning=dict(reversed(grounds.decade_leaning.items())),
    )
    assert make_groups(turned, rows, per_row) == make_groups(grounds, rows, per_row)


@given(grounds_of_anything(), st.integers(1, 20), st.integers(1, 50))
def test_each_row_keeps_the_order_of_the_ranking(grounds: Grounds, rows: int, per_row: int) -> None:
    place = {item_id: index for index, item_id in enumerate(grounds.item_ids)}
    for group in make_groups(grounds, rows, per_row):
        places = [place[item.item_id] for item in group.items]
        assert places == sorted(places)
        assert [item.score for item in group.items] == [grounds.scores[index] for index in places]


@given(grounds_of_anything(), st.integers(1, 20), st.integers(LEAST_TITLES, 50))
def test_rows_after_matches_and_related_ones_fall_in_strength(grounds: Grounds, rows: int, per_row: int) -> None:
    groups = make_groups(grounds, rows, per_row)
    kinds = [group.kind for group in groups]
    assert kinds == sorted(kinds, key=lambda kind: {"match": 0, "related": 1}.get(kind, 2))
    later = [group for group in groups if group.kind not in ("match", "related")]
    strengths = [sum(sorted((item.score for item in group.items), reverse=True)[:LEAST_TITLES]) for group in later]
    assert strengths == sorted(strengths, reverse=True)


def world_grounds(**more: Any) -> Grounds:
    items = {item.item_id: item for item in make_items()}
    return Grounds(item_ids=list(items), scores=[-float(place) for place in range(len(items))], items=items, **more)


@given(grounds_of_anything(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_pinned_titles_are_read_first_and_the_first_row_is_the_same(
    grounds: Grounds, rows: int, per_row: int, pinned: int
) -> None:
    pinned = min(pinned, len(grounds.item_ids))
    plain, groups = make_groups(grounds, rows, per_row), make_groups(grounds, rows, per_row, pinned)
    assert [group.label for group in groups[:1]] == [group.label for group in plain[:1]]
    assert all(len(group.items) <= per_row for group in groups)
    shown = titles_of(groups)
    assert len(shown) == len(set(shown))
    read_first = shown[:pinned] if len(groups) * per_row >= pinned else shown
    assert read_first == list(grounds.item_ids[: len(read_first)])


def test_long_row_of_weak_titles_does_not_stand_above_a_short_one_of_strong_titles() -> None:
    groups = make_groups(
        world_grounds(country="DE", in_country=["t0", "t1", "t2"], trending=[f"t{number}" for number in range(3, 20)]),
        rows=6,
        per_row=20,
    )
    assert [(group.kind, len(group.items)) for group in groups] == [("country", 3), ("trending", 17)]


def test_title_that_was_just_watched_is_the_reason_and_not_in_its_row() -> None:
    reason = Reason("t5", "Because you just watched", ["t5", "t6", "t7", "t8"])
    (group,) = make_groups(world_grounds(reasons=[reason]), rows=6, per_row=10)
    assert (group.kind, group.label) == ("because", "Because you just watched Broken Clock 5")
    assert group.reason_item_id == "t5"
    assert titles_of([group]) == ["t6", "t7", "t8"]


def test_rows_that_are_equally_strong_stand_by_their_labels_not_as_they_came() -> None:
    reasons = [Reason(item_id, "Because you liked", NAMES[10:16]) for item_id in ("t1", "t2", "t3")]
    for found in (reasons, reasons[::-1]):
        first, second = make_groups(world_grounds(reasons=found), rows=6, per_row=3)
        assert (first.label, second.label) == ("Because you liked Dust Road 2", "Because you liked Far Signal 3")


def test_reason_without_a_known_title_makes_no_row() -> None:
    assert make_groups(world_grounds(reasons=[Reason("gone", "Because you liked", NAMES)]), rows=6, per_row=10) == []


def test_one_exact_match_is_enough_for_a_row() -> None:
    (group, *_) = make_groups(world_grounds(query="far signal 33", matches=["t33"]), rows=6, per_row=10)
    assert (group.kind, group.label, titles_of([group])) == ("match", "Titles for 'far signal 33'", ["t33"])


def test_match_needs_every_word_of_the_query() -> None:
    titles = ["far signal 3", "signal far", "far road", "afar signal", "", "a.i."]
    assert matching("far sig", titles) == [0, 1]
    assert matching("a.i", titles) == [5]
    assert matching("***", titles) == []


def test_leaning_shares_a_title_among_its_genres_and_leaves_dislikes_out() -> None:
    items = {
        "a": Item(item_id="a", title="A", genres=("Noir", "Comedy"), year=1951),
        "b": Item(item_id="b", title="B", genres=("Noir",), year=1969),
    }
    assert lean({"a": 1.0, "b": 2.0, "gone": 9.0}, items) == ({"Noir": 2.5, "Comedy": 0.5}, {1950: 1.0, 1960: 2.0})
    assert lean({"a": -1.0, "b": 0.0}, items) == ({}, {})


def shown(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for group in answer["groups"] for item in group["items"]]


def test_pre_query_has_rows_for_what_was_just_watched_and_what_trends(
    client: httpx.Client, world_settings: Settings
) -> None:
    ranking_id = str(uuid.uuid4())
    answer = ask(client, id=ranking_id, country="DE", groups=True, rows=20, per_row=4, include_seen=True, limit=3)
    kinds = {group["kind"] for group in answer["groups"]}
    assert {"because", "trending", "genre", "decade"} <= kinds
    reasons = {group["reason_item_id"]: group["label"] for group in answer["groups"] if group["kind"] == "because"}
    assert (
        reasons.items()
        <= {
            "t6": "Because you just looked at Night Train 6",
            "t2": "Because you just looked at Dust Road 2",
        }.items()
    )
    assert len(shown(answer)) == len(set(shown(answer)))
    assert len(answer["items"]) == 3
    flat = ask(client, country="DE", include_seen=True, limit=500, log=False)
    assert set(shown(answer)) <= set(ids(flat))
    assert "groups" not in flat
    assert ids(answer) == ids(flat)[:3]

    wait_until(lambda: logged(world_settings, ranking_id))
    (ranking,) = logged(world_settings, ranking_id)
    assert [item.item_id for item in ranking.items] == shown(answer)
    scores = [item["score"] for group in answer["groups"] for item in group["items"]]
    assert [item.score for item in ranking.items] == scores
    assert all(item.features for item in ranking.items)


def test_search_has_exact_matches_first_then_what_is_related_then_genres(client: httpx.Client) -> None:
    answer = ask(client, task="search", query="  FAR ", groups=True, log=False)
    match, *others = answer["groups"]
    assert (match["kind"], match["label"]) == ("match", "Titles for 'far'")
    assert len(match["items"]) == 10
    assert all(item["title"].startswith("Far Signal") for item in match["items"])
    kinds = [group["kind"] for group in others]
    assert kinds[0] == "related"
    assert set(kinds[1:]) <= {"genre"}
    assert len(shown(answer)) == len(set(shown(answer)))
    assert shown(answer) == shown(ask(client, task="search", query="far", groups=True, log=False))


def test_search_that_is_spelled_wrong_has_a_row_of_titles_spelled_alike(client: httpx.Client) -> None:
    answer = ask(client, task="search", query="fra signal", groups=True, log=False)
    assert answer["groups"][0]["label"] == "Related to 'fra signal'"


def test_answer_without_a_row_is_logged_as_the_list_it_is(client: httpx.Client, world_settings: Settings) -> None:
    ranking_id = str(uuid.uuid4())
    answer = ask(client, id=ranking_id, items=["t3", "t4"], groups=True)
    assert (answer["groups"], len(answer["items"])) == ([], 2)
    wait_until(lambda: logged(world_settings, ranking_id))
    assert [item.item_id for item in logged(world_settings, ranking_id)[0].items] == ids(answer)


def test_member_without_history_gets_rows_of_what_is_trending(client: httpx.Client) -> None:
    answer = ask(client, user_id="never-seen", groups=True, log=False)
    kinds = {group["kind"] for group in answer["groups"]}
    assert kinds <= {"trending", "genre", "decade"}
    assert len(answer["groups"]) > 1


def test_rows_show_pinned_titles_first_also_ones_that_nobody_knows(client: httpx.Client) -> None:
    pinned = ["nobody-knows-this", "t50"]
    answer = ask(client, groups=True, pinned=pinned)
    assert [item["item_id"] for item in answer["groups"][0]["items"][:2]] == pinned
    shown = [item["item_id"] for group in answer["groups"] for item in group["items"]]
    assert len(shown) == len(set(shown))
