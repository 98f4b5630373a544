"""`nowrank simulate`: files from the command line, and events on the broker at the rate that was asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition

from features.catalogue import Item
from infra.settings import Settings
from model.simulation.files import RANKINGS, TRUTH, SimulationFolder
from model.simulation.simulator import Plan, make_world
from model.simulation.truth_reader import TruthFolder
from nowrank.cli import main
from nowrank.simulate_live import Clocks, Live, publish_live
from streams import topics as topic_names
from streams.events import Event, Ranking, decode_record
from streams.producer import Producer

pytestmark = pytest.mark.slow

LIVE = Plan(members=100, titles=60, days=1, seed=2, endless=True, label="test")
BEGIN_S = 1_800_000_000.0


class Sink:
    """Keeps what it is sent; after `most` records it is as if somebody pressed Ctrl-C."""

    def __init__(self, most: int | None = None) -> None:
        self.sent: list[Event | Ranking] = []
        self.titles: list[Item] = []
        self.flushes = 0
        self.most = most

    def send(self, event: Event | Ranking) -> None:
        """Queue one event."""
        if self.most is not None and len(self.sent) >= self.most:
            raise KeyboardInterrupt
        self.sent.append(event)

    def send_item(self, item: Item) -> None:
        """Queue one title."""
        self.titles.append(item)

    def flush(self) -> None:
        """Count it."""
        self.flushes += 1


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.s = BEGIN_S

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        self.s += seconds

    @property
    def clocks(self) -> Clocks:
        """This clock, as the live simulation takes it."""
        return Clocks(now_ms=lambda: int(self.s * 1000), monotonic_s=lambda: self.s, sleep=self.sleep)


def test_files_are_written_and_called_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "world"
    words = ["simulate", "--members", "20", "--titles", "60", "--days", "1", "--seed", "3", "--out", str(out)]
    assert main([*words, "--moods", "0", "--set", "list_length=8"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed
    assert all(line.startswith("synthetic: ") for line in printed)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["synthetic"] is True
    law = manifest["plan"]["law"]
    assert (law["mood_share"], law["list_length"], manifest["plan"]["seed"]) == (0.0, 8, 3)
    assert main(["import", str(out / "events.jsonl"), "--dry-run"]) == 0
    assert main(["import", str(out / "items.jsonl"), "--items", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--out"),
        (["--out", "x", "--start", "yesterday"], "yesterday"),
        (["--out", "x", "--titles", "3"], "titles = 3"),
        (["--out", "x", "--start", "9999-12-18"], "14 days from 253401091200000 ms on end after 9999-12-30"),
        (["--out", "x", "--days", str(10**12)], "end after 9999-12-30"),
    ],
)
def test_wrong_use_is_refused_in_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("nowrank: ")
    assert named in error


@pytest.mark.parametrize("said", ["nan", "inf", "0", "-5", "fast"])
@pytest.mark.parametrize("option", ["--rate", "--seconds"])
def test_a_rate_and_a_time_are_finite_and_above_zero(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--publish", f"{option}={said}"])
    assert ended.value.code == 2
    assert f"argument {option}: '{said}' is no finite number above 0" in capsys.readouterr().err


def test_live_events_keep_to_the_rate_and_carry_the_time_of_sending() -> None:
    sink, time, lines = Sink(), Time(), []
    live = Live(rate=50.0, seconds=12.0, say=lines.append, clocks=time.clocks)
    tally = publish_live(LIVE, make_world(LIVE), sink, live)
    engaged = [event for event in sink.sent if not isinstance(event, Ranking)]
    assert tally.events == len(engaged) == pytest.approx(50 * 12, abs=50)
    assert tally.rankings == len(sink.sent) - len(engaged) > 0
    times = [event.event_ts_ms for event in sink.sent]
    assert times == sorted(times)
    assert BEGIN_S * 1000 <= times[0] < times[-1] <= (BEGIN_S + 12) * 1000
    assert sink.flushes == 1
    assert len(lines) == 2
    assert all(line.startswith("synthetic: ") for line in lines)


def test_a_live_title_is_published_before_it_is_shown() -> None:
    sink, time = Sink(), Time()
    world = make_world(LIVE)
    publish_live(LIVE, world, sink, Live(rate=1_000.0, seconds=1.5, say=lambda _line: None, clocks=time.clocks))
    shown = {item.item_id for event in sink.sent if isinstance(event, Ranking) for item in event.items}
    published = {item.item_id: item.available_from_ms or 0 for item in sink.titles}
    late = {item.item_id for item in world.titles.items if (item.available_from_ms or 0) > LIVE.begin_ms}
    assert shown <= set(published)
    assert shown & late
    assert all(published[item_id] >= BEGIN_S * 1000 for item_id in set(published) & late)


def test_an_interrupted_simulation_flushes_what_it_has_sent() -> None:
    sink = Sink(most=40)
    tally = publish_live(LIVE, make_world(LIVE), sink, Live(rate=1_000.0, say=lambda _line: None, clocks=Time().clocks))
    assert (tally.is_interrupted, tally.events + tally.rankings, sink.flushes) == (True, 40, 1)


def test_a_live_simulation_can_write_its_truth(tmp_path: Path) -> None:
    sink, time, world = Sink(), Time(), make_world(LIVE)
    with SimulationFolder(tmp_path, LIVE, world) as out:
        publish_live(LIVE, world, sink, Live(50.0, 4.0, out, lambda _line: None, time.clocks))
        manifest = out.finish()
    logged = [decode_record(topic_names.RANKINGS, line) for line in (tmp_path / RANKINGS).read_bytes().splitlines()]
    assert logged == [event for event in sink.sent if isinstance(event, Ranking)]
    truth = [json.loads(line) for line in (tmp_path / TRUTH).read_bytes().splitlines()]
    assert [(line["ranking_id"], line["event_ts_ms"]) for line in truth] == [
        (ranking.ranking_id, ranking.event_ts_ms) for ranking in logged if isinstance(ranking, Ranking)
    ]
    assert manifest.synthetic
    read = TruthFolder(tmp_path)
    index = {item.item_id: at for at, item in enumerate(read.items)}
    for request in read.requests():
        at = [index[item_id] for item_id in request.items]
        assert read.is_available(request)[at].all()
        np.testing.assert_allclose(read.utilities(request)[at], request.utilities, atol=1e-4)


def test_live_events_arrive_on_their_topics_and_every_record_is_good(empty_log: Settings) -> None:
    world = make_world(LIVE)
    with Producer(empty_log) as producer:
        tally = publish_live(LIVE, world, producer, Live(rate=500.0, seconds=2.0, say=lambda _line: None))
    consumer = KafkaConsumer(bootstrap_servers=empty_log.kafka.split(","), group_id=None, enable_auto_commit=False)
    try:
        partitions = [
            TopicPartition(name, number)
            for name in topic_names.EVENT_TOPICS
            for number in consumer.partitions_for_topic(name) or ()
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends, found = consumer.end_offsets(partitions), []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                found += [decode_record(record.topic, record.value) for record in records]
    finally:
        consumer.close()
    assert len(found) == tally.events + tally.rankings > 0
    assert {type(event).__name__ for event in found} == {"Click", "Play", "Thumb", "Ranking"}
