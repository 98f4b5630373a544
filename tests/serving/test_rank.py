"""What the scorer answers when everything is there."""

from typing import Any

import httpx
import pytest

from features.online_store import connect
from features.rows import USER
from infra.settings import Settings
from serving.process import ScorerProcess
from tests.serving.world import TITLES, World, metric, wait_until

DAY_MS = 86_400_000
ALL = [f"t{number}" for number in range(TITLES)]


# Columns of the catalogue, of the request and of the artifact: what they say has no age.
NEED_NO_ROW = {
    "title_exact",
    "title_prefix",
    "title_word_prefix",
    "title_fuzzy",
    "source_genres",
    "source_similarity",
    "source_ease",
}


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/rank", json={"user_id": "ann", "task": "pre_query"} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_answer_says_what_it_used(client: httpx.Client, scorer: tuple[ScorerProcess, httpx.Client]) -> None:
    answer = ask(client, country="DE")
    assert answer["status"] == {"level": "full", "store": "ok", "model": "ok", "user": "fresh"}
    assert answer["model"] == scorer[0].scorer.version
    assert answer["took_ms"] > 0
    assert len(answer["items"]) == 20
    assert all(item["title"] for item in answer["items"])


def test_same_request_twice_has_the_same_order(client: httpx.Client) -> None:
    for fields in (
        {},
        {"task": "search", "query": "far"},
        {"task": "more_like_this", "source_item_id": "t1"},
        {"items": ALL},
    ):
        first, second = (ask(client, log=False, limit=TITLES, **fields) for _ in range(2))
        assert ids(first) == ids(second)


def test_scores_fall_and_are_finite(client: httpx.Client) -> None:
    scores = [item["score"] for item in ask(client, items=ALL, limit=TITLES)["items"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == TITLES


def test_given_candidates_all_come_back_and_no_others(client: httpx.Client) -> None:
    assert sorted(ids(ask(client, items=["t3", "t4", "t1"]))) == ["t1", "t3", "t4"]


def test_repeated_candidate_counts_once(client: httpx.Client) -> None:
    answer = ask(client, items=["t3", "t4", "t3", "t3"])
    assert sorted(ids(answer)) == ["t3", "t4"]
    assert answer["candidates"] == 2


def test_unknown_candidate_is_scored_with_defaults(client: httpx.Client) -> None:
    answer = ask(client, items=["t3", "nobody-knows-this"], explain=True)
    unknown = next(item for item in answer["items"] if item["item_id"] == "nobody-knows-this")
    assert "title" not in unknown
    assert unknown["features"]["item_plays_14d"] == {"value": 0.0, "part": "context", "status": "default"}


def test_unknown_member_gets_an_answer_that_is_not_personal(client: httpx.Client) -> None:
    answer = ask(client, user_id="never-seen", explain=True)
    assert answer["status"]["user"] == "default"
    assert answer["items"]
    assert all(item["parts"]["long_term"] == item["parts"]["short_term"] == 0 for item in answer["items"])


def test_row_that_cannot_be_decoded_costs_its_features_and_is_counted(
    client: httpx.Client, world_settings: Settings
) -> None:
    key, damaged = USER.key("broken", world_settings.feast_project), dict.fromkeys(USER.packed_fields, b"")
    connect(world_settings.redis).hset(key, mapping={b"_in": b"\x90", **damaged})  # type: ignore[arg-type]
    answer = ask(client, user_id="broken")
    assert answer["status"] == {"level": "full", "store": "ok", "model": "ok", "user": "default"}
    assert answer["items"]
    assert metric(client, 'nowrank_scorer_degraded_total{status="row_invalid"}') == 1


def test_two_members_get_different_orders(client: httpx.Client) -> None:
    assert ids(ask(client, items=ALL, limit=TITLES)) != ids(ask(client, user_id="never-seen", items=ALL, limit=TITLES))


def test_played_titles_are_not_found_unless_asked_for(client: httpx.Client) -> None:
    assert not {"t1", "t5", "t9"} & set(ids(ask(client, limit=500)))
    assert {"t1", "t5", "t9"} <= set(ids(ask(client, limit=500, include_seen=True)))
    assert {"t1", "t5", "t9"} <= set(ids(ask(client, items=ALL, limit=500)))


def test_title_with_a_thumb_down_is_not_found(client: httpx.Client) -> None:
    assert "t0" in ids(ask(client, user_id="never-seen", limit=500))
    assert "t0" not in ids(ask(client, user_id="cy", limit=500))


@pytest.mark.parametrize(
    "query", ["far signal 33", "Far Sig", "signal", "signal far", "  FAR   signal ", "fra signal", "far sgnal"]
)
def test_search_finds_titles_by_beginning_words_and_spelling(client: httpx.Client, query: str) -> None:
    answer = ask(client, task="search", query=query, limit=500)
    found = {item["title"].rsplit(" ", 1)[0] for item in answer["items"]}
    assert "Far Signal" in found


def test_search_finds_a_title_that_was_played(client: httpx.Client) -> None:
    assert "t9" in ids(ask(client, task="search", query="far signal 9", limit=500))


def test_more_like_this_leaves_its_source_out(client: httpx.Client) -> None:
    answer = ask(client, user_id="bob", task="more_like_this", source_item_id="t1", limit=500)
    assert "t1" not in ids(answer)
    assert "t34" in ids(answer)  # engaged from t1


def test_parts_add_up_to_the_score(client: httpx.Client) -> None:
    for fields in (
        {},
        {"task": "search", "query": "far"},
        {"task": "more_like_this", "source_item_id": "t1"},
        {"user_id": "bob"},
    ):
        for item in ask(client, explain=True, **fields)["items"]:
            parts = item["parts"]
            assert parts["context"] + parts["long_term"] + parts["short_term"] == pytest.approx(item["score"], abs=1e-9)


def test_session_is_the_short_term_part_and_history_the_long_term_part(client: httpx.Client) -> None:
    ann, bob = (ask(client, user_id=user, explain=True) for user in ("ann", "bob"))
    assert any(item["parts"]["short_term"] != 0 for item in ann["items"])
    assert all(item["parts"]["short_term"] == 0 for item in bob["items"])  # bob has no open session
    assert any(item["parts"]["long_term"] != 0 for item in bob["items"])
    assert bob["items"][0]["parts"]["gate"] == 0


def test_explanation_says_how_old_each_feature_is(client: httpx.Client) -> None:
    features = ask(client, items=["t2"], country="DE", explain=True)["items"][0]["features"]
    session = features["session_engagements"]
    assert (session["value"], session["part"], session["status"]) == (1.0, "short", "fresh")
    assert session["age_ms"] >= 60_000
    assert features["item_clicks_1d"]["status"] == "fresh"
    assert features["country_clicks"]["value"] > 0
    assert features["query_clicks"]["status"] == "default"


def test_every_column_that_needs_a_row_begins_with_the_name_of_what_the_row_is_of(client: httpx.Client) -> None:
    features = ask(client, user_id="never-seen", items=["t57"], explain=True)["items"][0]["features"]
    without_a_row = {name for name, feature in features.items() if feature["status"] == "fresh"}
    assert without_a_row == NEED_NO_ROW, "a name decides whose row a column is said to be read from: CONTRIBUTING.md"


def test_what_came_next_is_as_old_as_the_rows_that_say_it(client: httpx.Client, world: World) -> None:
    world.engage("pat", "t7", source_item_id="t6", age_ms=600_000)
    for user_id, item_id in (("amy", "t6"), ("joe", "t59")):
        world.engage(user_id, item_id)
    known, unknown = (
        ask(client, user_id=user_id, items=["t7"], explain=True)["items"][0]["features"] for user_id in ("amy", "joe")
    )
    assert known["session_next"]["value"] > 0
    assert known["session_next"]["status"] == known["session_genres"]["status"] == "fresh"
    assert known["session_next"]["age_ms"] > 500_000 > known["session_genres"]["age_ms"]
    assert unknown["session_next"] == {"value": 0.0, "part": "short", "status": "default"}


def test_each_view_of_a_member_is_stale_beyond_its_own_limit(client: httpx.Client, world: World) -> None:
    world.engage("idle", "t50", age_ms=3 * DAY_MS)
    features = ask(client, user_id="idle", items=["t50"], explain=True)["items"][0]["features"]
    session, weight = features["session_engagements"], features["user_title_weight"]
    assert (session["value"], session["status"]) == (0.0, "stale")
    assert session["age_ms"] == weight["age_ms"] >= 3 * DAY_MS
    assert (weight["value"] > 0, weight["status"]) == (True, "fresh")


def test_item_row_past_its_limit_is_stale_with_its_age(client: httpx.Client, world: World) -> None:
    world.engage("long-ago", "once-played", age_ms=91 * DAY_MS)

    def plays() -> dict[str, Any]:
        found: dict[str, Any] = ask(client, items=["once-played"], explain=True)["items"][0]["features"]
        return found["item_plays_14d"]  # type: ignore[no-any-return]

    wait_until(lambda: plays()["status"] != "default")
    assert (plays()["value"], plays()["status"]) == (0.0, "stale")
    assert plays()["age_ms"] >= 91 * DAY_MS


def test_answer_carries_the_callers_id(client: httpx.Client) -> None:
    assert ask(client, id="my-ranking-1", log=False)["ranking_id"] == "my-ranking-1"
    assert ask(client, log=False)["ranking_id"] != ask(client, log=False)["ranking_id"]


def test_new_engagement_of_a_member_is_in_the_next_answer(client: httpx.Client, world: World) -> None:
    before = ask(client, user_id="eve", items=["t40"], explain=True)["items"][0]["features"]["session_engagements"][
        "value"
    ]
    world.engage("eve", "t40")
    after = ask(client, user_id="eve", items=["t40"], explain=True)
    assert (before, after["items"][0]["features"]["session_engagements"]["value"]) == (0.0, 1.0)
    assert after["status"]["user"] == "fresh"


def test_new_engagement_of_others_reaches_the_near_cache(client: httpx.Client, world: World) -> None:
    def plays() -> float:
        value: float = ask(client, items=["t50"], explain=True, log=False)["items"][0]["features"]["item_plays_1d"][
            "value"
        ]
        return value

    before = plays()
    world.engage("somebody", "t50")
    wait_until(lambda: plays() > before)


def test_a_member_for_whom_nothing_is_left_gets_an_empty_answer(
    client: httpx.Client, scorer: tuple[ScorerProcess, httpx.Client]
) -> None:
    everything = scorer[0].library.table.ids[1:]  # the broker is shared: other tests' titles are in the catalogue too
    for more in ({}, {"explain": True}, {"groups": True}):
        answer = ask(client, user_id="ann", blocked=everything, **more)
        assert answer["items"] == []
        assert answer["candidates"] == 0
    assert ids(ask(client, items=["t1"], blocked=["t1"])) == []
