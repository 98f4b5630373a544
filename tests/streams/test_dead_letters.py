"""Dead letters on a real broker: listed, shown, repaired and sent again, whatever bytes they hold."""

import base64
import io
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import TopicPartition as Place

from infra.clock import now_ms
from infra.embedded import EmbeddedServers
from infra.embedded.servers import free_port
from infra.errors import BrokerUnavailable, NowrankError
from infra.settings import Settings
from nowrank.cli import main
from streams.dead_letter_commands import hex_lines, printable
from streams.dead_letters import DeadLetter, encode_dead_letter, find_dead_letter, read_dead_letters, resend
from streams.events import Click, decode_record, encode_event
from streams.log_ends import read_log_ends
from streams.producer import Producer, new_event_id
from streams.topics import CLICKS, DEAD_LETTERS, DELTAS, THUMBS, create_topics

pytestmark = pytest.mark.slow

Run = Callable[..., int]


def click(user_id: str, **changes: object) -> bytes:
    event = Click(event_id=new_event_id(), user_id=user_id, item_id="t1", event_ts_ms=now_ms())
    return encode_event(event) if not changes else json.dumps({**json.loads(encode_event(event)), **changes}).encode()


def letter_of(raw: bytes, *, topic: str = CLICKS, reason: str = "malformed_json", message: str = "why") -> DeadLetter:
    """A letter that no other test has: its offset is its own."""
    return DeadLetter(
        topic=topic,
        partition=1,
        offset=uuid.uuid4().int >> 80,
        broker_ts_ms=1_750_000_000_123,
        reason=reason,
        message=message,
        value=base64.b64encode(raw).decode(),
    )


def post(settings: Settings, *letters: DeadLetter | bytes | None) -> None:
    with Producer(settings) as producer:
        for letter in letters:
            value = encode_dead_letter(letter) if isinstance(letter, DeadLetter) else letter
            producer.send_record(DEAD_LETTERS, value, b"key")


def records_of(settings: Settings, topic: str, user_id: str) -> list[tuple[int, bytes, bytes]]:
    """Partition, key and value of every record of the topic that names the user."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka, group_id=None, auto_offset_reset="earliest")
    places = [TopicPartition(topic, number) for number in range(settings.partitions)]
    ends: dict[Place, int] = read_log_ends(consumer, places)
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    found = []
    while any(consumer.position(place) < end for place, end in ends.items()):
        for records in consumer.poll(timeout_ms=200).values():
            found += [(r.partition, r.key, r.value) for r in records if user_id.encode() in (r.value or b"")]
    consumer.close()
    return found


@pytest.fixture
def run(topics: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command, against the tests' broker."""
    monkeypatch.setenv("NOWRANK_KAFKA", topics.kafka)
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(tmp_path))
    return lambda *words: main(["dead-letters", *words])


@pytest.fixture
def user_id() -> str:
    return f"member-{uuid.uuid4()}"


def test_each_letter_is_read_once_with_its_bytes_as_they_were(topics: Settings) -> None:
    letter = letter_of(bytes(range(256)))
    by_another_stage = msgspec.structs.replace(letter, reason="poison_label")
    post(topics, letter, letter, by_another_stage, letter)
    assert [found for found in read_dead_letters(topics) if found.name == letter.name] == [letter, by_another_stage]
    assert find_dead_letter(topics, letter.name).raw == bytes(range(256))
    with pytest.raises(NowrankError, match="no dead letter 'plays-9-9'"):
        find_dead_letter(topics, "plays-9-9")


@pytest.mark.parametrize(
    "rotten",
    [
        None,
        b"",
        b"\xff\xfe not UTF-8",
        b"{half",
        b'{"topic": "plays"}',
        b'"' + b"[" * 100_000,
        encode_dead_letter(msgspec.structs.replace(letter_of(b""), value="not base64!")),
    ],
    ids=["null", "empty", "bytes", "json", "fields", "deep", "base64"],
)
def test_what_is_no_dead_letter_is_listed_as_unreadable_and_hides_no_other(
    topics: Settings, rotten: bytes | None
) -> None:
    before, after = letter_of(b"before"), letter_of(b"after")
    post(topics, before, rotten, after)
    found = list(read_dead_letters(topics))
    names = [letter.name for letter in found]
    [unreadable] = found[names.index(before.name) + 1 : names.index(after.name)]
    assert (unreadable.reason, unreadable.topic, unreadable.raw) == ("unreadable", DEAD_LETTERS, rotten or b"")
    assert "is no dead letter" in unreadable.message
    resent = resend(topics, [unreadable])
    assert resent.sent == 0
    assert "is no topic of events" in resent.refused[0][1]


def test_a_repaired_event_is_sent_with_its_users_key_and_to_its_users_partition(
    topics: Settings, run: Run, user_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = letter_of(click(user_id, event_ts_ms="yesterday"), reason="invalid_field")
    post(topics, letter)
    file = tmp_path / "event.json"
    assert run("show", letter.name, "--save", str(file)) == 0
    assert file.read_bytes() == letter.raw
    repaired = json.dumps({**json.loads(letter.raw), "event_ts_ms": 1_750_000_000_000}).encode()
    file.write_bytes(repaired)
    assert run("resend", letter.name, "--value", str(file)) == 0
    assert "sent 1 record again" in capsys.readouterr().out
    numbers = list(range(topics.partitions))
    assert records_of(topics, CLICKS, user_id) == [
        (DefaultPartitioner()(user_id.encode(), numbers, numbers), user_id.encode(), repaired)
    ]
    assert decode_record(CLICKS, repaired).user_id == user_id


def test_repaired_bytes_come_from_standard_input_too(
    topics: Settings, run: Run, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter, repaired = letter_of(b"{"), click(user_id)
    post(topics, letter)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(repaired)))
    assert run("resend", letter.name, "--value", "-") == 0
    assert [value for _, _, value in records_of(topics, CLICKS, user_id)] == [repaired]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"{", "malformed_json"),
        (b"", "empty"),
        (b'{"type":"click"}', "missing_field"),
        (b"x" * 70_000, "oversized"),
        (b"\xff", "malformed_json"),
    ],
)
def test_bytes_that_would_be_refused_again_are_not_sent(
    topics: Settings, run: Run, user_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: bytes, why: str
) -> None:
    letter = letter_of(click(user_id))
    post(topics, letter)
    file = tmp_path / "event.json"
    file.write_bytes(value)
    assert run("resend", letter.name, "--value", str(file)) == 1
    said = capsys.readouterr()
    assert "sent 0 records again" in said.out
    assert f"would be refused again: {letter.name}: {why}" in said.err
    assert records_of(topics, CLICKS, user_id) == []


def test_an_event_of_the_future_is_resent_only_when_its_time_has_come(topics: Settings, user_id: str) -> None:
    limit_ms = topics.future_limit_s * 1000
    later = letter_of(click(user_id, event_ts_ms=now_ms() + limit_ms + 60_000), reason="future_timestamp")
    soon = letter_of(click(user_id, event_ts_ms=now_ms() + limit_ms // 2), reason="future_timestamp")
    resent = resend(topics, [later, soon])
    assert resent.sent == 1
    assert [letter for letter, _ in resent.refused] == [later]
    assert resent.refused[0][1].startswith("future_timestamp: ")
    assert resend(replace(topics, future_limit_s=3600), [later]).sent == 1


def test_all_of_a_reason_are_resent_but_those_that_are_still_wrong(
    topics: Settings, run: Run, user_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = f"reason-{uuid.uuid4()}"
    good, bad = letter_of(click(user_id), reason=reason), letter_of(b"{", reason=reason)
    deltas = letter_of(click(user_id), topic=DELTAS, reason=reason)
    thumbs = letter_of(click(user_id), topic=THUMBS, reason=reason)
    post(topics, good, bad, deltas, thumbs)
    assert run("resend", "--reason", reason) == 1
    said = capsys.readouterr()
    assert "sent 1 record again" in said.out
    assert f"{bad.name}: malformed_json" in said.err
    assert "nowrank rebuild" in next(line for line in said.err.splitlines() if deltas.name in line)
    assert thumbs.name in said.err, "a click on the topic of thumbs"
    assert [value for _, _, value in records_of(topics, CLICKS, user_id)] == [good.raw]


def test_list_counts_by_reason_and_shows_the_newest(
    topics: Settings, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = f"reason-{uuid.uuid4()}"
    letters = [letter_of(b"{", reason=reason, message=f"number {number}") for number in range(5)]
    post(topics, *letters)
    assert run("list", "--reason", reason, "--limit", "2") == 0
    counted, newest, *lines = capsys.readouterr().out.splitlines()
    assert counted.split() == ["5", reason]
    assert newest == "the newest 2 of 5; --limit 0 lists all"
    assert lines == [f"{letter.name}  {reason}: {letter.message}" for letter in letters[3:]]
    assert run("list", "--reason", reason, "--limit", "0") == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert run("list", "--reason", reason, "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["name"], base64.b64decode(each["value"])) for each in found] == [(x.name, b"{") for x in letters]
    assert run("list", "--reason", f"no-{uuid.uuid4()}") == 0
    assert "there are no dead letters of reason" in capsys.readouterr().out


def test_show_says_why_where_and_when_and_shows_text_as_text(
    topics: Settings, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = letter_of('{"user_id": "Amélie 映画"\n "x": 1}'.encode(), reason="malformed_json", message="no comma")
    post(topics, letter)
    assert run("show", letter.name) == 0
    assert capsys.readouterr().out.splitlines() == [
        letter.name,
        "  reason   malformed_json",
        "  message  no comma",
        f"  place    topic clicks, partition 1, offset {letter.offset}",
        "  time     2025-06-15 15:06:40.123+00:00, by the broker",
        "  bytes    37, UTF-8",
        '  {"user_id": "Amélie 映画"',
        '   "x": 1}',
    ]


HOSTILE = "\x1b[2J\x07\r\x00\x9b\u202e\u2028\t\x7f"


@pytest.mark.parametrize("raw", [f"a{HOSTILE}b".encode(), b"\xff\x1b[2J" + bytes(range(256)), b"\x9b" * 9000])
def test_no_command_prints_a_control_character_of_a_record(
    topics: Settings, run: Run, capsys: pytest.CaptureFixture[str], raw: bytes
) -> None:
    letter = letter_of(raw, reason=f"r{HOSTILE}{uuid.uuid4()}", message=HOSTILE)
    post(topics, letter)
    assert run("show", letter.name) == 0
    assert run("list", "--reason", letter.reason) == 0
    assert run("list", "--reason", letter.reason, "--json") == 0
    assert run("resend", letter.name) == 1
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))
    assert len(said.out) < 40_000


def test_hex_shows_every_byte_and_where_it_stands() -> None:
    assert list(hex_lines(b"\x00\x1bAZ~\x7f\xff" + b"0" * 10)) == [
        "  00000000  00 1b 41 5a 7e 7f ff 30 30 30 30 30 30 30 30 30  ..AZ~..000000000",
        "  00000010  30                                               0",
    ]
    assert printable("plain é 映画") == "plain é 映画"
    assert printable("\x1b\n\ud800") == "\\x1b\\n\\ud800"


def test_wrong_usage_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (("show",), "name the dead letter to show"),
        (("resend",), "name a dead letter, or a --reason"),
        (("resend", "--reason", "poison", "--value", "x"), "name its dead letter"),
        (("resend", "clicks-0-1", "--value", str(tmp_path / "missing")), "cannot be read"),
    ):
        assert run(*words) == 1
        assert said in capsys.readouterr().err


def test_no_broker_and_no_topic_are_said_or_empty(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable):
        list(read_dead_letters(Settings(kafka=f"127.0.0.1:{free_port()}")))
    with EmbeddedServers(tmp_path) as servers:
        settings = Settings(kafka=servers.kafka)
        assert list(read_dead_letters(settings)) == []
        create_topics(settings)
        assert list(read_dead_letters(settings)) == []
