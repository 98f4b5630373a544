"""Records that no producer should have sent: refused with a reason, counted once, and no reason to stop."""

import random
import re
from collections import Counter
from typing import Any

import pytest

import features.user
from features.rows import FAMILIES
from infra.clock import now_ms
from streams.audit.row_differences import differing_leaves
from streams.dead_letters import DeadLetter, read_dead_letters
from streams.events import MAX_EVENT_BYTES, Click, encode_event
from streams.producer import Producer
from streams.topics import CLICKS, PLAYS, RANKINGS, THUMBS
from tests.faults import launcher
from tests.faults.cases import Case
from tests.faults.plain_counts import read_all
from tests.faults.processes import wait_until
from tests.faults.workload import Load, Workload, send
from tests.faults.world import World

pytestmark = pytest.mark.slow

EVENTS_PER_S = 300
BAD_RECORDS = 400
FAR_AWAY_S = 0.05
STALL_TIMEOUT_S = 10.0
DAY_MS = 24 * 3600 * 1000
# Thumbs on one title are given and taken back some hundred times; their residue is relative to that.
GROSS = 100.0
# Broker times, counts of writes and the order of ids in the window: of the arrival, not of the events.
TELLS_OF_ARRIVAL = re.compile(r"\.(began_ms|ingested_ts_ms|seen|touched_ms|updated_ms)\b")


def bad_values(seed: int) -> list[tuple[str, bytes | None, str]]:
    """Topic, value and the reason with which it must be refused; random bytes and a good event broken in every way."""
    rng = random.Random(seed)
    good = encode_event(Click(event_id="0123456789abcdef", user_id="u", item_id="i", event_ts_ms=now_ms()))
    kinds: list[tuple[bytes | None, str]] = [
        (None, "empty"),
        (b"", "empty"),
        (b"{not json", "malformed_json"),
        (b"\xff\xfe\x00" + rng.randbytes(20), "malformed_json"),
        (good[:-2], "malformed_json"),
        (good.replace(b'"u"', b'"\xc3\x28"'), "malformed_json"),
        (good.replace(b"{", b'{"x":' + 10_000 * b"[", 1), "malformed_json"),
        (b"[]", "invalid_field"),
        (b'{"type":"click"}', "missing_field"),
        (good.replace(b'"click"', b'"purchase"'), "unknown_type"),
        (good.replace(b'"u"', b"7"), "invalid_field"),
        (good.replace(b'"u"', b'""'), "invalid_field"),
        (good.replace(b'"u"', b'"' + MAX_EVENT_BYTES * b"x" + b'"'), "oversized"),
        (good.replace(b'"event_ts_ms":', b'"event_ts_ms":9'), "future_timestamp"),
    ]
    return [(CLICKS, *kinds[number % len(kinds)]) for number in range(BAD_RECORDS)] + [
        *((topic, b"\x00" * 100, "malformed_json") for topic in (PLAYS, THUMBS, RANKINGS)),
        # Almost as long as a broker takes, so that not all of it fits into a letter.
        (PLAYS, rng.randbytes(900_000), "oversized"),
    ]


def test_malformed_oversized_null_and_non_utf8_payloads(world: World, case: Case) -> None:
    case.expects("each is one dead letter with its reason; the worker goes on; every row equal")
    workload, bad = Workload(seed=31), bad_values(seed=31)
    worker = world.worker().keep()
    with Load(world.settings, workload, EVENTS_PER_S), Producer(world.settings) as producer:
        for topic, value, _ in bad:
            producer.send_record(topic, value, b"somebody")
        producer.flush()
        worker.wait_until_ready()
    compared = world.check_exact(workload)
    assert Counter(letter.reason for letter in dead_letters(world)) == Counter(reason for _, _, reason in bad)
    assert worker.exit_codes == []
    case.observes(f"{len(bad)} dead letters of {len({reason for _, _, reason in bad})} reasons; {compared}")


def test_many_bad_records_while_the_broker_is_far_away(proxied_world: World, case: Case) -> None:
    case.expects("their letters travel together: no stall, far fewer round trips than letters; every row equal")
    world, workload, bad_count = proxied_world, Workload(seed=36), 800
    assert world.proxy is not None
    with Producer(world.settings) as producer:
        for number in range(bad_count):
            producer.send_record(CLICKS, b'{"broken": %d' % number, b"u%d" % (number % 7))
    send(world.settings, workload.take(100))
    world.proxy.delay_s = FAR_AWAY_S
    worker = world.worker(stall_timeout_s=STALL_TIMEOUT_S).keep()
    worker.wait_until_ready()
    wait_until(lambda: worker.exit_codes or len(dead_letters(world)) >= bad_count, "every letter is written")
    assert worker.exit_codes == []
    compared = world.check_exact(workload)
    seconds = worker.metric('nowrank_worker_batch_seconds_sum{stage="session"}')
    round_trips = seconds / (2 * FAR_AWAY_S)
    assert 1 <= round_trips < bad_count / 4
    assert worker.metric("nowrank_worker_dead_letters_total") == bad_count == len(dead_letters(world))
    case.observes(f"{bad_count} letters in {round_trips:.0f} round trips' time; {compared}")


def test_event_that_breaks_a_fold(world: World, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.expects("one dead letter 'poison'; the worker goes on; every other event counts; every row equal")
    poison = "deadbeef" * 4
    # The same defect here, for the recomputation runs in this process; undone at the end of the test.
    monkeypatch.setattr(features.user, "event_id_hash", features.user.event_id_hash)
    launcher.break_fold(poison)
    workload = Workload(seed=32)
    worker = world.worker(faults=[f"poison {poison}"]).keep()
    with Load(world.settings, workload, EVENTS_PER_S), Producer(world.settings) as producer:
        worker.wait_until_ready()
        # A user who has rows, and a title that has them: what the fold did before it broke must not stay.
        producer.send(Click(event_id=poison, user_id="u1", item_id="i1", query="space", event_ts_ms=now_ms()))
        producer.flush()
        wait_until(lambda: dead_letters(world), "the dead letter")
    compared = world.check_exact(workload)
    assert [letter.reason for letter in dead_letters(world)] == ["poison"]
    assert worker.exit_codes == []
    case.observes(f"1 dead letter; {compared}")


def dead_letters(world: World) -> list[DeadLetter]:
    return list(read_dead_letters(world.settings))


def test_same_event_id_sent_again_and_after_a_restart(world: World, case: Case) -> None:
    case.expects("each id counts once; every row equal")
    # At most 64 ids for each user and topic-partition: within the promised window, however the ids fall.
    workload = Workload(seed=33, users=40)
    events = workload.take(600)
    worker = world.worker("worker-0").start()
    worker.wait_until_ready()
    send(world.settings, events)
    send(world.settings, events)
    world.settle()
    exit_code, _ = worker.terminate()
    assert exit_code == 0
    send(world.settings, events)
    again = world.worker("worker-1").start()
    again.wait_until_ready()
    send(world.settings, events[::-1])
    compared = world.check_exact(workload)
    repeats = again.metric('nowrank_worker_duplicates_total{stage="session"}')
    assert repeats >= 2 * len({id(event) for event in events})
    case.observes(f"each sent 4 times, {repeats:.0f} repeats dropped after the restart; {compared}")


def test_shuffled_and_late_events_give_the_same_rows(world: World, case: Case) -> None:
    case.expects("two orders of events up to 20 days late: the same rows")
    workload = Workload(seed=34, spread_ms=20 * DAY_MS)
    events = workload.take(3_000)
    stored: list[dict[tuple[str, str], Any]] = []
    for order in (events, random.Random(35).sample(events, len(events))):
        worker = world.worker(f"worker-{len(stored)}").start()
        send(world.settings, order)
        worker.wait_until_ready()
        compared = world.check_exact(workload)
        late = worker.metric("nowrank_worker_late_events_total")
        stored.append(all_states(world))
        worker.end()
        world.restart_broker()
        with world.client() as client:
            client.flushall()
    differences = [
        (path, one, other)
        for path, one, other in differing_leaves(stored[0], stored[1], GROSS)
        if not TELLS_OF_ARRIVAL.search(path)
    ]
    assert differences == []
    case.observes(f"{late:.0f} late events, {len(stored[0])} rows the same in both orders; {compared}")


def all_states(world: World) -> dict[tuple[str, str], Any]:
    """The state of every row."""
    with world.client() as client:
        return {
            (family.name, value): state
            for family in FAMILIES
            for value, state in read_all(client, world.settings.feast_project, family).items()
        }
