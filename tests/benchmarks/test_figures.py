"""From measurements to figures: ratios of turns that stood side by side, and no figure of half the work."""

from collections import Counter
from typing import Any

import pytest

from benchmarks.baselines.naive_agent import to_delta, to_frame
from benchmarks.growth import grow
from benchmarks.memory import StoredRows, per_million, worker_rss_bytes
from benchmarks.probes import Trips
from benchmarks.probes import summarise as summarise_trips
from benchmarks.processes import Usage
from benchmarks.report import limited
from benchmarks.saturation import Turns, check_counters, summarise
from benchmarks.scaling import Turn
from benchmarks.scaling import summarise as summarise_scaling
from features.item import VIEW, ItemState, fold_item
from infra.errors import NowrankError
from infra.settings import Settings


def test_the_ratio_is_the_median_of_the_turns_own_ratios() -> None:
    worker = [Usage(1.0, 1.0), Usage(1.0, 4.0), Usage(1.0, 9.0)]
    bare = [Usage(2.0, 1.0), Usage(2.0, 2.0), Usage(2.0, 3.0)]
    naive = [Usage(0.5, 0.5), Usage(1.0, 1.0), Usage(2.0, 2.0)]
    figures = summarise(worker, bare, naive, Turns(events=3000, slice_events=1000, naive_events=10))
    assert figures["cpu_per_event_ratio"] == 2.0
    assert figures["cpu_per_event_us"] == {"worker": 4000.0, "bare": 2000.0}
    assert figures["events_per_s"] == {"worker": 1000.0, "bare": 500.0, "naive": 10.0}
    assert figures["vs_naive"] == 100.0


def test_a_worker_that_refused_or_skipped_events_gives_no_figures() -> None:
    good = Counter({"nowrank_worker_events_total": 5})
    assert check_counters(good)["events"] == 5
    with pytest.raises(NowrankError, match="dead_letters"):
        check_counters(good + Counter({"nowrank_worker_dead_letters_total": 1}))
    with pytest.raises(NowrankError, match="duplicates"):
        check_counters(good + Counter({"nowrank_worker_duplicates_total": 1}))


def test_freshness_is_the_ratio_of_medians_and_nothing_where_no_probe_came_back() -> None:
    trips = Trips(session_ms=[20.0, 30.0, 40.0], target_ms=[50.0, 60.0, 90.0], bare_ms=[5.0, 10.0, 90.0])
    assert summarise_trips(trips)["ratio"] == {"session": 3.0, "target": 6.0}
    assert summarise_trips(Trips(is_lost=True))["ratio"] == {"session": None, "target": None}


def test_scaling_compares_rounds_that_followed_each_other() -> None:
    one = [Turn(4.0, {"worker-0": 4.0, "broker": 1.0}, [1.0])]
    two = [Turn(2.5, {"worker-0": 2.5, "worker-1": 2.0, "broker": 0.5}, [0.6, 0.4])]
    figures = summarise_scaling(one, two, 10_000)
    assert figures["ratio"] == 1.6
    assert figures["cores_used"]["two"]["together"] == 2.0
    assert figures["share_of_records_of_each_of_two"] == [0.6, 0.4]


def test_a_million_rows_take_a_million_times_a_row() -> None:
    light, of_mix = StoredRows(2_000.0, 3.0, 1_500.0, 3.0), StoredRows(20_000.0, 250.0, 2_500.0, 120.0)
    assert per_million(light, of_mix)["users"] == {"light": 2_000_000_000, "mix": 20_000_000_000}
    settings = Settings(row_cache_bytes=1_000)
    assert worker_rss_bytes(500, 700, 100.0, settings) == 2_500


def test_growth_is_the_stated_arithmetic() -> None:
    million = {"users": {"light": 3_200_000_000, "mix": 32_000_000_000}, "items": {"light": 0, "mix": 0}}
    grown = grow(10_000.0, {"worker-0": 100.0, "redis": 40.0}, {"redis_bytes_per_million": million})
    assert grown["workers"] == 200
    assert grown["redis_primaries_by_cpu"] == 80
    assert grown["redis_primaries_by_memory"] == {"light": 10, "mix": 100}
    assert grown["one_primary_events_per_s"] == 12_500


def test_a_limit_says_whether_it_is_met() -> None:
    assert limited("x", 2.4, "at most", 2.5)[2] == "at most 2.5: met"
    assert limited("x", 2.6, "at most", 2.5)[2] == "at most 2.5: NOT met"
    assert limited("x", 19.0, "at least", 20)[2] == "at least 20: NOT met"
    assert limited("x", None, "at most", 4)[1].startswith("not measured")


@pytest.mark.parametrize(
    ("event", "slot"),
    [
        ({"type": "click"}, 1),
        ({"type": "play", "watched_ms": 95, "duration_ms": 100}, 2),
        ({"type": "thumb", "value": "up"}, 5),
        ({"type": "thumb", "value": "down"}, 6),
    ],
)
def test_the_naive_agent_counts_each_kind_and_pushes_the_whole_view(event: dict[str, Any], slot: int) -> None:
    state = ItemState()
    fold_item(state, to_delta({"item_id": "7", "event_ts_ms": 1_700_000_000_000, **event}, 1_700_000_000_000))
    assert state.totals[slot] == 1
    frame = to_frame("7", state)
    assert set(frame.columns) == {"item_id", "event_timestamp", *(spec.name for spec in VIEW.features)}
