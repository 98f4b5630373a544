"""The rebuild: the store filled anew from the log beside the live one, which it then replaces in one atomic call.

Enters: settings, and where to begin. Leaves: a new store in the place of the live one. Called by `nowrank rebuild`.

The stages are the workers' own; only the sender of stage 1 sends nothing, for the deltas stand in the log (see
`plan.py`). Workers go on meanwhile: rounds catch up with them until little is left. After the switch they meet
another generation, end, are started again by their supervisor and go on at the new checkpoints. An interrupted rebuild
leaves the live store as it was.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from features.online_store import FencedStore, connect
from infra.clock import monotonic_s
from infra.errors import NowrankError
from infra.metrics import Metrics
from infra.settings import Settings
from streams.audit.log_reader import LogReader, LogSpan
from streams.audit.store_snapshot import BEGIN_KEY, StoreSnapshot, read_sound_checkpoints
from streams.checkpoints import encode_checkpoint
from streams.dead_letters import DeadLetter
from streams.deltas import SourcedDelta
from streams.log_records import Record
from streams.progress import Advance, ShowProgress, progress_bar
from streams.rebuilding.plan import RebuildPlan, find_begin, plan_rebuild, refuse_strange_deltas
from streams.rebuilding.spare_store import SpareStore
from streams.session_agent import STAGE as SESSION_STAGE
from streams.session_agent import SessionStage
from streams.stage import SharedStore
from streams.target_agent import STAGE as TARGET_STAGE
from streams.target_agent import TargetStage
from streams.topics import DELTAS, EVENT_TOPICS, FOLDED_TOPICS, read_topic_ids

# A batch's rows are read in one call that keeps Redis from answering anybody else.
BATCH_RECORDS = 2_000
BATCH_BYTES = 1 << 20
SMALL_REMAINDER = 500
STORE_TIMEOUT_S = 30.0


@dataclass
class RebuildReport:
    """What was folded into the new store."""

    events: int = 0
    delta_messages: int = 0
    rounds: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class _Part(NamedTuple):
    """A part of one log that is to be folded."""

    span: LogSpan
    begin: int
    end: int


def rebuild_store(
    settings: Settings,
    begin: str | None = None,
    spare_db: int | None = None,
    keep_old: bool = False,
    progress: ShowProgress = progress_bar,
) -> RebuildReport:
    """Fill a new store and put it in place; raises `NowrankError` and leaves the live store as it was."""
    began_s = monotonic_s()
    spare = SpareStore(settings.redis, settings.feast_project, spare_db)
    live = _read_live(settings)  # before the ends of the logs, which are then not behind it
    with LogReader(settings) as reader:
        spans = reader.spans(FOLDED_TOPICS)
        if not any(span.topic == DELTAS for span in spans.values()):
            raise NowrankError("there are no topics: `nowrank topics create`")
        plan = plan_rebuild(live, spans, read_topic_ids(settings), find_begin(reader, spans, begin))
        spare.prepare()
        try:
            report = asyncio.run(_Rebuild(settings, plan, reader, spare.address, progress).fill())
            spare.switch()
        except BaseException:
            with suppress(NowrankError):
                spare.free()
            raise
    if not keep_old:
        spare.free()
    report.notes = plan.notes
    report.seconds = monotonic_s() - began_s
    return report


def _read_live(settings: Settings) -> StoreSnapshot:
    with connect(settings.redis, STORE_TIMEOUT_S) as client:
        return read_sound_checkpoints(client)


class _Unmeasured(Metrics):
    """Metrics that nobody reads: how fresh a rebuild's rows are says nothing, and costs a third of its time."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Nothing."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""


class _Rebuild:
    """Fills the spare store with both stages."""

    def __init__(
        self, settings: Settings, plan: RebuildPlan, reader: LogReader, address: str, progress: ShowProgress
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._reader = reader
        self._progress = progress
        self._report = RebuildReport()
        self._store = FencedStore(address, settings.feast_project, STORE_TIMEOUT_S)
        shared, metrics = SharedStore(self._store), _Unmeasured("worker")
        cache_bytes = settings.row_cache_bytes // 2
        future_limit_ms = settings.future_limit_ms
        self._session = SessionStage(shared, _send_no_deltas, _send_no_letters, metrics, future_limit_ms, cache_bytes)
        self._target = TargetStage(shared, _send_no_letters, metrics, cache_bytes)
        self._write_beginnings(address)

    async def fill(self) -> RebuildReport:
        """Fold until little is left, or until catching up makes it no less."""
        try:
            before, left = 0, await self._round()
            while left > SMALL_REMAINDER and (self._report.rounds == 1 or left < before / 2):
                before, left = left, await self._round()
            highest = {log: checkpoint.highest for log, checkpoint in self._target.checkpoints.items()}
            refuse_strange_deltas(highest, self._reader.spans(EVENT_TOPICS))
            return self._report
        finally:
            self._store.close()

    def _write_beginnings(self, address: str) -> None:
        """The checkpoints that the new store begins with, also those of logs from which nothing is folded."""
        self._session.begin(self._plan.session)
        self._target.begin(self._plan.target)
        for stage, checkpoints in ((SESSION_STAGE, self._plan.session), (TARGET_STAGE, self._plan.target)):
            encoded = {log: encode_checkpoint(checkpoint) for log, checkpoint in checkpoints.items()}
            self._store.write_checkpoints(stage, encoded)
        if self._plan.begin:
            with connect(address, STORE_TIMEOUT_S) as client:
                begin: Any = dict(self._plan.begin)
                client.hset(BEGIN_KEY, mapping=begin)

    async def _round(self) -> int:
        """Fold what there is now; returns how many records that was. Stage 1 goes as far as the live store's."""
        live = _read_live(self._settings).session
        spans = self._reader.spans(FOLDED_TOPICS)
        events = [
            _Part(span, self._session.checkpoints[log].next_offset, live[log].next_offset)
            for log, span in sorted(spans.items(), key=lambda pair: (pair[1].partition, pair[0]))
            if log in self._plan.usable and log in live
        ]
        deltas = [
            _Part(span, self._target.checkpoints[log].next_offset, span.end)
            for log, span in spans.items()
            if span.topic == DELTAS
        ]
        events = [part for part in events if part.begin < part.end]
        total = sum(part.end - part.begin for part in (*events, *deltas))
        label = "rebuilding" if not self._report.rounds else "catching up"
        with self._progress(label, total) as advance:
            self._report.events += await self._apply(self._session, events, advance)
            self._report.delta_messages += await self._apply(self._target, deltas, advance)
        self._report.rounds += 1
        return total

    async def _apply(self, stage: SessionStage | TargetStage, parts: list[_Part], advance: Advance) -> int:
        """Fold parts of logs in batches; returns how many records there were."""
        folded = 0
        for part in parts:
            for batch in _batches(self._reader.read(part.span.topic, part.span.partition, part.begin, part.end)):
                await stage.apply(batch)
                advance(len(batch))
                folded += len(batch)
        return folded


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size_bytes = 0
    for record in records:
        batch.append(record)
        size_bytes += len(record.value or b"")
        if len(batch) >= BATCH_RECORDS or size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


async def _send_no_deltas(_deltas: list[SourcedDelta]) -> int:
    return 0


async def _send_no_letters(_letters: list[DeadLetter]) -> None:
    """They stand in their topic since the worker refused them."""
