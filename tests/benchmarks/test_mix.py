"""The benchmarks' events: of the data's shape, reproducible, never a repeat."""

from itertools import islice

from kafka.partitioner.default import murmur2

from benchmarks.mix import RANKED_ITEMS, STARS, Mix, partition_of, rankings, synthetic_mix
from streams.events import Ranking, decode_record
from streams.sources.movielens import RATINGS


def test_the_stars_of_the_synthetic_mix_are_those_of_movielens() -> None:
    assert sum(STARS) == RATINGS


def test_the_same_seed_gives_the_same_synthetic_events_in_time_order() -> None:
    first, second = synthetic_mix(500), synthetic_mix(500)
    assert [event.event_id for event in first.events] == [event.event_id for event in second.events]
    times_ms = [event.event_ts_ms for event in first.events]
    assert times_ms == sorted(times_ms)
    assert {event.topic for event in first.events} == {"plays", "clicks", "thumbs"}


def test_a_second_lap_repeats_no_event_id_and_no_user() -> None:
    mix = synthetic_mix(100)
    events = [decode_record(record.topic, record.value) for record in mix.take(2 * len(mix.events), 4)]
    first, second = events[: len(mix.events)], events[len(mix.events) :]
    assert len({event.event_id for event in events}) == len(events)
    assert not {event.user_id for event in first} & {event.user_id for event in second}
    assert [event.item_id for event in first] == [event.item_id for event in second]


def test_a_key_goes_where_the_producer_client_puts_it() -> None:
    for number in range(200):
        key = f"user-{number}".encode()
        assert partition_of(key, 4) == (murmur2(key) & 0x7FFFFFFF) % 4


def test_rankings_are_valid_events_that_show_titles_of_the_mix() -> None:
    mix = synthetic_mix(200)
    made = rankings(mix.events, 10, 4)
    known = {event.item_id for event in mix.events}
    for record in made:
        ranking = decode_record(record.topic, record.value)
        assert isinstance(ranking, Ranking)
        assert len(ranking.items) == RANKED_ITEMS
        assert {item.item_id for item in ranking.items} <= known


def test_records_of_a_user_stay_on_one_partition() -> None:
    mix: Mix = synthetic_mix(200)
    places: dict[bytes, set[int]] = {}
    for record in islice(mix.records(4), 400):
        places.setdefault(record.key, set()).add(record.partition)
    assert all(len(partitions) == 1 for partitions in places.values())
