"""Thousands of simulated runs of the real apply code: whatever workers, broker and store do, every row equals the log.

A failure names its seed; `python -m tests.faults.simulation_run SEED` repeats that run and prints what it did.
"""

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from features.delta import Delta, Entity, Signal
from features.online_store import CHECKPOINT_KEY, GENERATION_KEY, FencedStore, Row
from features.rows import FOLDS, ITEM, QUERY
from infra.errors import StoreFenced
from infra.settings import Settings
from tests.faults.simulation_logs import BEGIN_MS
from tests.faults.simulation_mutations import RULES, Rule
from tests.faults.simulation_run import FAULTS, run
from tests.faults.simulation_store import PROJECT, SimulatedRedis, SimulatedStore

CHUNK = 50
FAST_CHUNKS, SLOW_CHUNKS = range(2), range(2, 41)
MOST_SEEDS_UNTIL_NOTICED = 400


def assert_chunk_is_exact(chunk: int) -> None:
    """Every run of the chunk ends in rows that equal the log."""
    wrong = []
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        differences = run(seed).differences
        if differences:
            wrong.append(f"python -m tests.faults.simulation_run {seed}  # {differences[0][:500]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("chunk", FAST_CHUNKS)
def test_rows_equal_the_log_whatever_happens(chunk: int) -> None:
    assert_chunk_is_exact(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", SLOW_CHUNKS)
def test_rows_equal_the_log_whatever_happens_in_thousands_of_runs(chunk: int) -> None:
    assert_chunk_is_exact(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_simulation_notices_when_a_rule_is_broken(rule: Rule) -> None:
    """And the same run is exact while the rule holds."""
    with rule.break_it():
        seeds = (seed for seed in range(MOST_SEEDS_UNTIL_NOTICED) if run(seed, rule.faults).differences)
        noticed_at = next(seeds, None)
    assert noticed_at is not None
    assert run(noticed_at, rule.faults).differences == []


def test_a_seed_repeats_its_run() -> None:
    told: list[list[str]] = [[], []]
    outcomes = [run(7, tell=lines.append) for lines in told]
    assert told[0] == told[1]
    assert outcomes[0] == outcomes[1]


def test_the_simulated_faults_and_what_they_lead_to_really_happen() -> None:
    totals: Counter[tuple[str, str]] = Counter()
    for seed in range(60):
        totals += run(seed).totals
    wanted = [
        *(("tried", fault) for fault in FAULTS),
        ("ended", "StoreFenced"),
        ("ended", "CallFailed"),
        ("ended", "rolled back"),
        ("nowrank_worker_row_conflicts_total", "session"),
        ("nowrank_worker_row_conflicts_total", "target"),
        ("nowrank_worker_duplicates_total", "session"),
        ("nowrank_worker_duplicates_total", "target"),
        ("nowrank_worker_dead_letters_total", ""),
        ("nowrank_worker_clamped_events_total", ""),
        ("nowrank_worker_late_events_total", ""),
    ]
    assert {key for key in wanted if totals[key] == 0} == set()


@pytest.mark.parametrize("seed", range(5))
def test_the_simulated_store_answers_as_a_real_redis(settings: Settings, redis_client: Any, seed: int) -> None:
    """Two clients each, the same calls on both: reads, writes on old and new rows, checkpoints forward and back, and
    the store emptied under them.
    """
    rng = random.Random(seed)
    server = SimulatedRedis()
    real = [FencedStore(settings.redis, PROJECT) for _ in range(2)]
    simulated = [SimulatedStore(server) for _ in range(2)]
    held: dict[int, list[tuple[Row, Row]]] = {0: [], 1: []}
    for step in range(80):
        if step == 60:
            redis_client.flushdb()
            server.flush()
        which = rng.randrange(2)
        pair = real[which], simulated[which]
        match rng.choice(("read", "write", "write", "checkpoint", "checkpoints", "heartbeat")):
            case "read":
                family, values = rng.choice((ITEM, QUERY)), rng.sample(("a", "b", "c"), 2)
                answers = [outcome(store, "read_rows", family, values) for store in pair]
                if isinstance(answers[0], list):
                    held[which] += zip(*answers, strict=True)
            case "write" if held[which]:
                rows = rng.sample(held[which], 1)
                for row in rows[0]:
                    change(row, step)
                answers = [outcome(store, "write_rows", [row]) for store, row in zip(pair, rows[0], strict=True)]
            case "checkpoint":
                moved = {f"plays-{rng.randrange(2)}": msgspec.msgpack.encode((rng.randrange(40), step))}
                answers = [outcome(store, "write_checkpoints", "session", moved) for store in pair]
            case "checkpoints":
                answers = [outcome(store, "read_checkpoints", "session") for store in pair]
            case _:
                answers = [outcome(store, "write_checkpoints", "session", {}) for store in pair]
        assert answers[0] == answers[1]
    for store in real:
        store.close()
    assert stored(redis_client) == server.contents.hashes
    lives_ms: dict[bytes, int] = {key: at_ms - server.now_ms for key, at_ms in server.contents.expire_at_ms.items()}
    assert all(0 <= life_ms - redis_client.pttl(key) < 60_000 for key, life_ms in lives_ms.items())


def outcome(store: FencedStore, method: str, *args: object) -> object:
    """What a call returned, or that it was fenced."""
    try:
        return getattr(store, method)(*args)
    except StoreFenced:
        return StoreFenced


def change(row: Row, step: int) -> None:
    """Fold something in."""
    entity = Entity.ITEM if row.family is ITEM else Entity.QUERY
    FOLDS[entity](row.state, Delta(entity, "a", "i", Signal.CLICK, 1, BEGIN_MS + step, BEGIN_MS + step))
    row.contained["deltas-0"] = step


def stored(client: Any) -> dict[bytes, dict[bytes, bytes]]:
    """Every hash in the real store."""
    keys = [key for key in client.scan_iter() if key != GENERATION_KEY]
    assert all(key.startswith(CHECKPOINT_KEY) or b"item_id" in key or b"query" in key for key in keys)
    return {key: client.hgetall(key) for key in keys}
