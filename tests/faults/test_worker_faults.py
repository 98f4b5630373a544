"""Workers that are killed, asked to end, stopped, joined by others, or that stall: every row stays right."""

import signal
import threading
from collections import defaultdict

import pytest
from kafka import KafkaProducer

from infra.clock import monotonic_s
from streams.audit.verify import verify_store
from streams.events import encode_event
from streams.runtime import CANNOT_CONTINUE
from streams.topics import CLICKS, DELTAS
from tests.faults.cases import Case
from tests.faults.processes import POLL_S, wait_until
from tests.faults.workload import Load, Workload
from tests.faults.world import World

pytestmark = pytest.mark.slow

EVENTS_PER_S = 300
GRACEFUL_END_S = 10.0
LONGEST_PAUSE_S = 15.0
STALL_TIMEOUT_S = 5.0
# The timer that watches the loop stands outside of Python and cannot choose another one. While it writes the stacks of
# threads that run on, CPython 3.11 may crash, which ends the process as well (python/cpython#131580).
EXIT_CODES_OF_A_BLOCKED_LOOP = (1, -signal.SIGSEGV)


def test_worker_killed_four_times_in_the_middle_of_a_batch(world: World, case: Case) -> None:
    case.expects("4 x SIGKILL; begins at its checkpoints; every row equal")
    workload = Workload(seed=1)
    # Deltas sent and no row written; half of the users' rows; half of the targets' rows; all of them and no checkpoint.
    faults = ["kill session rows 8", "kill session half 8", "kill target half 8", "kill target checkpoint 8"]
    worker = world.worker(faults=faults).keep()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(lambda: len(worker.exit_codes) == len(faults), "an end for each fault")
        worker.wait_until_ready()
    assert worker.exit_codes == [-signal.SIGKILL] * len(faults)
    case.observes(
        f"{world.check_exact(workload)}, {worker.metric('nowrank_worker_duplicates_total'):.0f} repeats dropped"
    )


def test_worker_asked_to_end_under_load(world: World, case: Case) -> None:
    case.expects(f"SIGTERM: exit code 0 in < {GRACEFUL_END_S:g} s; the next one goes on; every row equal")
    workload = Workload(seed=2)
    worker = world.worker("worker-0").start()
    worker.wait_until_ready()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(lambda: worker.metric("nowrank_worker_records_total") > 2 * EVENTS_PER_S, "it is under load")
        exit_code, seconds = worker.terminate()
        world.worker("worker-1").start().wait_until_ready()
    assert exit_code == 0
    assert seconds < GRACEFUL_END_S
    case.observes(f"exit code 0 in {seconds:.1f} s; {world.check_exact(workload)}")


def test_worker_stopped_in_a_batch_and_continued_after_another_took_over(world: World, case: Case) -> None:
    case.expects("past the session timeout: the zombie's rows are refused or it ends; every row equal")
    workload = Workload(seed=3)
    # It stops between its deltas' acknowledgement and its rows, and wakes up exactly there.
    zombie = world.worker("zombie", faults=["stop session rows 8"]).keep()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(lambda: zombie.is_stopped, "the first worker stops")
        began_s = monotonic_s()
        stopped_at = world.next_offsets()
        heir = world.worker("heir").keep()
        heir.wait_until_ready()
        wait_until(lambda: _all_moved(stopped_at, world.next_offsets()), "the heir folds every log of the zombie")
        stopped_s = monotonic_s() - began_s
        assert zombie.is_stopped
        assert stopped_s > world.settings.broker_session_timeout_s
        zombie.send_signal(signal.SIGCONT)
        wait_until(lambda: zombie.exit_codes or zombie.metric("nowrank_worker_row_conflicts_total"), "it is refused")
    ends = f"ended with {zombie.exit_codes[0]}" if zombie.exit_codes else "had its rows refused"
    case.observes(f"stopped {stopped_s:.0f} s; the zombie {ends}; {world.check_exact(workload)}")


def _all_moved(before: dict[str, int], now: dict[str, int]) -> bool:
    return all(now.get(log, 0) > offset for log, offset in before.items())


class PauseMeter:
    """Watches the checkpoints and remembers, for each log, the longest time without a move."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.longest_s: dict[str, float] = defaultdict(float)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PauseMeter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        moved: dict[str, tuple[int, float]] = {}
        while not self._ended.wait(POLL_S):
            now_s = monotonic_s()
            for log, offset in {**self._world.next_offsets("session"), **self._world.next_offsets("target")}.items():
                before, since_s = moved.get(log, (offset, now_s))
                self.longest_s[log] = max(self.longest_s[log], now_s - since_s)
                if offset != before or log not in moved:
                    moved[log] = (offset, now_s)


def test_second_worker_joins_and_leaves_under_load(world: World, case: Case) -> None:
    case.expects(f"no partition pauses for {LONGEST_PAUSE_S:g} s; every row equal")
    workload = Workload(seed=4)
    first = world.worker("worker-0").keep()
    first.wait_until_ready()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(lambda: len(world.next_offsets()) == 4 * world.settings.partitions, "every log is folded")
        with PauseMeter(world) as meter:
            second = world.worker("worker-1").start()
            second.wait_until_ready()
            wait_until(lambda: second.metric("nowrank_worker_records_total") > EVENTS_PER_S, "the second one folds")
            exit_code, _ = second.terminate()
            left_at = world.next_offsets()
            wait_until(lambda: _all_moved(left_at, world.next_offsets()), "the first one has every log again")
    assert exit_code == 0
    assert first.exit_codes == []
    longest_s = max(meter.longest_s.values())
    assert longest_s < LONGEST_PAUSE_S, dict(meter.longest_s)
    case.observes(f"longest pause {longest_s:.1f} s; {world.check_exact(workload)}")


@pytest.mark.parametrize(
    ("fault", "exit_codes"),
    [("hang session 8", (CANNOT_CONTINUE,)), ("block target 8", EXIT_CODES_OF_A_BLOCKED_LOOP)],
    ids=["waits for ever", "blocks the event loop"],
)
def test_worker_that_stalls(world: World, case: Case, fault: str, exit_codes: tuple[int, ...]) -> None:
    case.expects(f"the watchdog ends it with exit code {exit_codes[0]}; the next one goes on; every row equal")
    workload = Workload(seed=5)
    worker = world.worker(faults=[fault], stall_timeout_s=STALL_TIMEOUT_S).keep()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(lambda: worker.exit_codes, "the watchdog ends the worker")
        worker.wait_until_ready()
    [ended] = worker.exit_codes
    assert ended in exit_codes
    case.observes(f"exit code {worker.exit_codes[0]}; {world.check_exact(workload)}")


@pytest.mark.parametrize("topic", [CLICKS, DELTAS])
def test_fetch_that_leaves_a_record_out(world: World, case: Case, topic: str) -> None:
    case.expects("as the embedded broker may while two producers append; none is passed over, every row equal")
    workload = Workload(seed=12)
    worker = world.worker(faults=[f"hole {topic} 1"]).start()
    worker.wait_until_ready()
    with Load(world.settings, workload, EVENTS_PER_S):
        wait_until(lambda: "a fetch lacks offset" in worker.log(), "a fetch has left a record out")
    case.observes(world.check_exact(workload))


def test_log_with_the_marks_of_transactions(world: World, case: Case) -> None:
    case.expects("lag 0 and no stall once all is folded; every row equal")
    producer = KafkaProducer(bootstrap_servers=world.settings.kafka, transactional_id="transactions")
    producer.init_transactions()
    producer.begin_transaction()
    events = Workload(seed=6).take(200)
    for event in events:
        producer.send(event.topic, encode_event(event), event.user_id.encode())
    producer.commit_transaction()
    producer.close()
    worker = world.worker(stall_timeout_s=STALL_TIMEOUT_S).start()
    worker.wait_until_ready()
    wait_until(lambda: worker.metric("nowrank_worker_events_total") == len(events), "every event is folded")
    folded_s = monotonic_s()
    wait_until(lambda: not worker.is_running or monotonic_s() - folded_s > 2 * STALL_TIMEOUT_S, "it could have stalled")
    assert worker.is_running, worker.log()
    assert worker.metric("nowrank_worker_lag_records") == 0
    report = verify_store(world.settings)
    assert (report.differences, report.unverifiable) == ([], {})
    case.observes(f"lag 0 and no stall in {2 * STALL_TIMEOUT_S:g} s; {report.records} records verified")


def test_worker_that_is_told_another_number_of_partitions(world: World, case: Case) -> None:
    case.expects(f"it ends with exit code {CANNOT_CONTINUE} and says both numbers")
    worker = world.worker(partitions=world.settings.partitions + 1).start()
    assert worker.wait() == CANNOT_CONTINUE
    assert "NOWRANK_PARTITIONS is 5, but the topic deltas has 4 partitions" in worker.log()
    case.observes(f"exit code {CANNOT_CONTINUE}, both numbers named")
