"""The serving benchmark's arithmetic: ratios of what stood side by side, and limits that are never hidden."""

import math
import socket
import threading
from typing import Any

import msgspec
import pytest

from benchmarks.baselines.sdk_features import FeastReader
from benchmarks.floor import wanted_rows
from benchmarks.http_load import Connection, content_length
from benchmarks.library_memory import extrapolate, summarise, synthetic_row, synthetic_title
from benchmarks.questions import Question, given_questions, keystroke_questions, live_records, more_titles
from benchmarks.ranking_figures import OverFloor, summarise_agreement, summarise_floor
from benchmarks.ranking_processes import phase_means_ms
from benchmarks.serving_plan import make_plan
from benchmarks.serving_report import NOT_QUOTED, serving_table
from benchmarks.staleness import STEP, is_seen
from features.catalogue import Item
from infra.errors import NowrankError
from streams.events import Click, decode_engaged
from streams.labels import Label

SIZES = (100_000, 200_000)
ITEMS = [Item(item_id=str(number), title=f"The Title {number}", genres=("Drama",)) for number in range(30)]
LABELS = [
    Label("u1", "3", True, 1_000, "search", "s1", "the", None, "US", ()),
    Label("u2", "4", True, 2_000, "more_like_this", "s2", None, "7", None, ()),
]


def test_the_floor_is_the_median_of_round_trip_and_run_together() -> None:
    times = OverFloor(rank_ms=[3.0, 6.0, 9.0], redis_ms=[1.0, 1.0, 5.0], model_ms=[1.0, 3.0, 3.0])
    figures = summarise_floor(times)
    assert figures["ratio"] == 1.5
    assert figures["floor_ms"]["p50"] == 4.0


def test_scorers_agree_by_their_scores_and_their_first_ten() -> None:
    ours = {str(number): -float(number) for number in range(20)}
    assert summarise_agreement([(ours, ours)])["median_difference"] == 0.0
    other = {item_id: -score for item_id, score in ours.items()}
    apart = summarise_agreement([(ours, other)])
    assert apart["p99_difference"] == 38.0
    assert apart["same_of_first_ten"] == 0.0


def test_a_million_is_on_the_line_through_both_sizes() -> None:
    assert extrapolate(100, 1_100, 200, 2_100, wanted=1_000) == 10_100
    measured = {size: {"rows": 300 * size + 5_000_000, "titles": 100 * size, "vectors": 10 * size} for size in SIZES}
    assert summarise(measured)["mb_at_a_million"] == {"rows": 305.0, "titles": 100.0, "vectors": 10.0}
    assert "bytes(200,000)" in summarise(measured)["formula"]


def test_synthetic_rows_and_titles_are_whole() -> None:
    assert min(synthetic_row("item-1").state.sums) > 0
    assert len(synthetic_title(5).title.split()) == 3


def test_questions_are_those_of_labels_with_candidates_of_their_own() -> None:
    questions = given_questions(LABELS, ITEMS, 10, 2)
    assert {question.user_id for question in questions} == {"u1", "u2"}
    assert all(len(set(question.items)) == 10 for question in questions)
    assert msgspec.json.decode(Question("u", "pre_query").body(log=False)) == {
        "user_id": "u", "task": "pre_query", "limit": 20, "log": False,
    }  # fmt: skip


def test_a_question_reads_the_rows_that_the_scorer_reads() -> None:
    question = Question("u", "search", "  The ", None, "US")
    assert [(family.name, value) for family, value in wanted_rows(question)] == [
        ("user", "u"), ("query", "the"), ("country", "US"),
    ]  # fmt: skip


def test_keystrokes_are_one_to_six_characters_of_real_titles() -> None:
    typed = [question.query or "" for question in keystroke_questions(LABELS, ITEMS, 60)]
    assert {len(query) for query in typed} <= set(range(1, 7))
    assert all("the title".startswith(query.strip()) for query in typed)


def test_more_titles_fill_the_catalogue_up_and_no_further() -> None:
    assert len(more_titles(ITEMS, 100)) == 70
    assert more_titles(ITEMS, 10) == []
    assert not {item.item_id for item in more_titles(ITEMS, 100)} & {item.item_id for item in ITEMS}


def test_live_events_happen_now_under_ids_of_their_own() -> None:
    event = Click(event_id="0123456789abcdef0123456789abcdef", user_id="u", item_id="i", event_ts_ms=5)
    live = [decode_engaged(record.value) for record in live_records([event, event], 10_000, 500.0, 4)]
    assert [one.event_ts_ms for one in live] == [10_000, 10_002]
    assert len({event.event_id, *(one.event_id for one in live)}) == 3


def test_a_change_is_seen_when_the_column_has_left_the_value_before() -> None:
    assert is_seen(math.log1p(STEP * 7), 7)
    assert not is_seen(math.log1p(STEP * 6), 7)
    assert not is_seen(0.0, 1)


def test_phases_are_means_of_what_came_in_between() -> None:
    before, after = {"model": (1.0, 10.0)}, {"model": (1.5, 60.0), "store": (0.1, 50.0), "answer": (0.0, 0.0)}
    assert phase_means_ms(before, after) == {"model": 10.0, "store": 2.0}


def test_the_client_reads_answers_in_parts_and_refuses_errors() -> None:
    answers = [b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cd"], [b"HTTP/1.1 400 Bad\r\n\r\n"]
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            for parts in answers:
                connection.recv(4096)
                for part in parts:
                    connection.sendall(part)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with server, Connection(server.getsockname()[1]) as connection:
        assert connection.ask(b"{}") == b"abcd"
        with pytest.raises(NowrankError, match="400"):
            connection.ask(b"{}")
    thread.join()
    assert content_length(b"HTTP/1.1 204 No Content") == 0


class FakeFeast:
    """Answers `get_online_features` from a map by name."""

    def __init__(self, values: dict[str, list[Any]]) -> None:
        self.values = values
        self.asked: list[list[str]] = []

    def get_online_features(self, features: list[str], entity_rows: list[dict[str, Any]]) -> "FakeFeast":
        self.asked.append(features)
        return self

    def to_dict(self) -> dict[str, list[Any]]:
        names = [name.split(":")[1] for name in self.asked[-1]]
        return {name: self.values.get(name, [None]) for name in names}


def test_the_straightforward_scorer_reads_named_features_into_the_same_context() -> None:
    feast = FakeFeast(
        {
            "user_history_items": [["7"]], "user_history_weights_14d": [[1.5]],
            "user_history_thumb_items": [["7"]], "user_history_thumbs": [[-1]],
            "user_history_engaged_items": [["7"]], "user_history_engaged_kinds": [[3]],
            "user_history_engaged_ts_ms": [[999]], "country_as_of_ms": [900],
            "country_items": [["7"]], "country_clicks_1d": [[2.0]], "country_plays_1d": [[1.0]],
        }
    )  # fmt: skip
    context = FeastReader(feast).read_context({"user_id": "u", "task": "pre_query", "country": "US"}, 1_000, (0.5, 0.2))
    assert context.title_weights == {"7": 1.5}
    assert [(moment.item_id, moment.value) for moment in context.session] == [("7", -1)]
    assert context.country_targets is not None
    assert context.country_targets.targets["7"].sums == [0.0, 2.0, 1.0]
    assert not any("packed" in name for names in feast.asked for name in names)


def figures(ratio: float, quick: bool) -> dict[str, Any]:
    ms = {"p50": 2.0, "p95": 3.0, "p99": 4.0}
    over = {f"{name}_ms": ms for name in ("rank", "floor", "redis", "onnx")} | {"requests": 9, "phases_mean_ms": {}}
    step = {"rows": 1_000_000, "titles": 1, "vectors": 1}
    cell = {"candidates": 100, "concurrency": 1, "requests_per_s": 5.0, "cpu_ms_per_request": 1.0}
    return {
        "floor_ratio": ratio, "floor": over, "search_keystroke": 2.0, "keystroke": over,
        "vs_sdk": {
            "latency": 9.0, "throughput": 7.0,
            "latency_detail": {"theirs_ms": ms, "ours_ms": ms, "requests": 9},
            "throughput_detail": {"concurrency": 8, "ours_per_s": 7.0, "theirs_per_s": 1.0},
            "agreement": {"median_difference": 0.0, "p99_difference": 0.0, "same_of_first_ten": 1.0},
        },
        "staleness_ms": ms | {"changes": 5},
        "memory_mb": {"near_cache_at_a_million": 900.0, "scorer_process": 200.0, "titles": 10_000},
        "memory": summarise(dict.fromkeys(SIZES, step)),
        "cells": [cell | {f"{name}_ms": value for name, value in ms.items()}],
        "load": {"asked_per_s": 500.0, "records_per_s": 500.0, "worker_cores": 0.5,
                 "scorer_cores_without_requests": 0.05},
        "machine": {"processor": "p", "cores": 2, "load_average_before": [0.1]},
        "command": "c", "took_s": 1.0, "quick": quick,
    }  # fmt: skip


def test_a_missed_limit_is_printed_as_missed() -> None:
    assert "at most 1.6: met" in serving_table(figures(1.6, quick=False))
    missed = serving_table(figures(1.61, quick=False))
    assert "at most 1.6: NOT met" in missed
    assert "at most 400: NOT met" in missed
    assert NOT_QUOTED not in missed


def test_a_quick_run_says_that_it_is_not_to_be_quoted() -> None:
    assert NOT_QUOTED in serving_table(figures(1.0, quick=True))
    quick, whole = (make_plan(60_000, 5.0, 100_000, quick=is_quick) for is_quick in (True, False))
    assert quick.requests < whole.requests
    assert whole.sizes == SIZES
