"""The log folded the way that one snapshot of the store was: the same beginnings, and each row at its own version.

Enters: a `StoreSnapshot`, a `LogReader`. Leaves: the recomputed rows, the delta chains, the maps of the checkpoints.
Called by `verify` and `skew`.
"""

from collections.abc import Iterable, Iterator

from features.rows import RowFamily
from infra.settings import Settings
from streams.audit.delta_chains import DeltaChains
from streams.audit.log_reader import LogReader, LogSpan
from streams.audit.recompute import TargetFold, UserFold, recompute_target_rows, recompute_user_rows
from streams.audit.row_differences import Difference
from streams.audit.store_snapshot import LAST_ORDINAL, StoreSnapshot
from streams.checkpoints import Checkpoint, Highest
from streams.deltas import SourcedDelta
from streams.log_records import Record
from streams.progress import Advance
from streams.topics import DELTAS, EVENT_TOPICS, FOLDED_TOPICS, read_topic_ids


class StoreFolds:
    """Folds each log once, limited to what the stored rows contain."""

    def __init__(
        self,
        settings: Settings,
        snapshot: StoreSnapshot,
        reader: LogReader,
        spans: dict[str, LogSpan],
        advance: Advance,
    ) -> None:
        self.trouble = troubled_logs(snapshot, spans, read_topic_ids(settings))
        self._settings = settings
        self._snapshot = snapshot
        self._reader = reader
        self._spans = spans
        self._advance = advance
        self.unfolded: dict[str, int] = {}  # by log that was read: how many records no checkpoint covers
        self._checkpoints = {**snapshot.session, **snapshot.target}
        # A damaged row is folded as far as it must be, so that it hides no difference in the delta log.
        covered = {log: checkpoint.next_offset - 1 for log, checkpoint in self._checkpoints.items()}
        self._contained = {name: row.contained for name, row in snapshot.rows.items()}
        self._contained |= dict.fromkeys(snapshot.damaged, covered)
        partitions = sum(span.topic == DELTAS for span in spans.values())
        self.chains = DeltaChains(_next_offsets(snapshot.session), partitions)

    def users(self) -> UserFold:
        """The user rows, from the event topics."""

        def read() -> Iterator[Record]:
            self.chains.given.clear()
            return self._read(EVENT_TOPICS)

        required = _next_offsets(self._snapshot.session)
        return recompute_user_rows(read, self._contains, required, self._settings.future_limit_ms, self.chains.give)

    def targets(self) -> tuple[TargetFold, list[Difference]]:
        """The target rows, from the delta log, and where the maps of the checkpoints differ from it."""
        differences: list[Difference] = []

        def read() -> Iterator[Record]:
            self.chains.held.clear()
            differences.clear()
            return self._read((DELTAS,))

        def see(record: Record, deltas: list[SourcedDelta], fold: TargetFold) -> None:
            self.chains.hold(record.partition, deltas)
            checkpoint = self._snapshot.target.get(record.log)
            if checkpoint is not None and record.offset == checkpoint.next_offset - 1:
                differences.extend(_compare_highest(record.log, fold, checkpoint))

        fold = recompute_target_rows(
            read, self._contains, _next_offsets(self._snapshot.target), begin_highest(self._snapshot, self._spans), see
        )
        return fold, [difference for difference in differences if difference.key not in self.trouble]

    def whole_logs(self, without: Iterable[str]) -> tuple[list[int], list[str]]:
        """The delta partitions and the event logs that hold everything that was folded from them since their first
        record, those in `without` left out.
        """
        left_out = {*without, *self.trouble}
        deltas = [span.partition for span in self._spans.values() if span.topic == DELTAS and span.first == 0]
        sources = [log for log, checkpoint in self._snapshot.session.items() if checkpoint.first_offset == 0]
        return deltas, [log for log in sources if log not in left_out]

    def without_checkpoint(self) -> Iterator[str]:
        """Why the store cannot be proven to hold anything of a topic, for each with logs of which it has no checkpoint
        though they hold records.
        """
        for topic in FOLDED_TOPICS:
            logs = [
                span.log for span in self._spans.values() if span.topic == topic and span.log not in self._checkpoints
            ]
            if records := sum(self.unfolded[log] for log in logs):
                held = ", ".join(log for log in logs if self.unfolded[log])
                yield (
                    f"this store has no checkpoint of {held}, with {records} records: no worker has folded them into it"
                )

    def _read(self, topics: Iterable[str]) -> Iterator[Record]:
        """Every record that some row of this store may contain."""
        for span in self._spans.values():
            if span.topic in topics:
                checkpoint = self._checkpoints.get(span.log, Checkpoint(span.first, span.first))
                self.unfolded[span.log] = 0
                for record in self._reader.read_span(span, checkpoint.first_offset):
                    self._advance(1)
                    self.unfolded[span.log] += record.offset >= checkpoint.next_offset
                    yield record

    def _contains(self, family: RowFamily, value: str, log: str, offset: int) -> bool:
        contained = self._contained.get((family.name, value))
        return contained is not None and contained.get(log, -1) >= offset


def begin_highest(snapshot: StoreSnapshot, spans: dict[str, LogSpan]) -> dict[str, Highest]:
    """What stage 2 remembered of each delta log before its first message: deltas that `rebuild --from` left out."""
    begin = {source: (offset - 1, LAST_ORDINAL) for source, offset in snapshot.begin.items()}
    return {log: begin for log, span in spans.items() if span.topic == DELTAS}


def troubled_logs(snapshot: StoreSnapshot, spans: dict[str, LogSpan], topic_ids: dict[str, str]) -> dict[str, str]:
    """The logs whose rows cannot be verified, and why."""
    trouble = {}
    for log, checkpoint in {**snapshot.session, **snapshot.target}.items():
        span = spans.get(log)
        if span is None:
            trouble[log] = f"{log} does not exist, but the store has a checkpoint of it"
        elif checkpoint.log_id and checkpoint.log_id != topic_ids.get(span.topic):
            trouble[log] = f"{log} is another log than the one that the store was folded from: run `nowrank rebuild`"
        elif checkpoint.next_offset > span.end:
            trouble[log] = f"{log} ends at {span.end}, before the store's checkpoint at {checkpoint.next_offset}"
        elif span.first > checkpoint.first_offset:
            lost = span.first - checkpoint.first_offset
            trouble[log] = f"{log} has lost the {lost} records before {span.first} that the rows began with"
    return trouble


def _compare_highest(log: str, fold: TargetFold, checkpoint: Checkpoint) -> list[Difference]:
    """What stage 2 remembers of a delta log must be what the log says up to the checkpoint."""
    wanted, found = fold.highest[log], checkpoint.highest
    return [
        Difference("checkpoint", log, f"highest[{source}]", str(wanted.get(source)), str(found.get(source)))
        for source in sorted({*wanted, *found})
        if wanted.get(source) != found.get(source)
    ]


def _next_offsets(checkpoints: dict[str, Checkpoint]) -> dict[str, int]:
    return {log: checkpoint.next_offset for log, checkpoint in checkpoints.items()}
