"""What a rebuild folds: where each log begins, and how far its events may be folded.

Enters: the live checkpoints, what the logs hold, where the user wants to begin. Leaves: a `RebuildPlan`, or a refusal.
Called by `rebuild`. Pure, but for looking up offsets by time.

The deltas of every event in a new user row must stand in the delta log already, because nothing sends them again. So
stage 1 is folded up to the live store's own checkpoints and no further; a log whose live checkpoint says nothing about
this delta log gets none, and the workers begin at its beginning and send again, which stage 2 recognises.

What stands in a delta log that the live store knows nothing of is left out: the deltas of every event will be sent
again, and a worker that had not noticed yet that its event log was replaced may have sent some under its old offsets.

A live checkpoint that cannot be decoded is none: the delta log is taken for the one that the store knows, so that stage
2 recognises what is sent again. Where its log began is not known either, so nothing of any log may be missing.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from infra.errors import BadInput, NowrankError
from streams.audit.log_reader import LogReader, LogSpan
from streams.audit.store_snapshot import LAST_ORDINAL, StoreSnapshot
from streams.checkpoints import Checkpoint, Highest
from streams.topics import DELTAS

EARLIEST = "earliest"
LEAST_EPOCH_MS = 100_000_000_000  # a number from here on is a time (1973), below it an offset
NEW_DELTA_LOG = (
    f"the topic `{DELTAS}` holds deltas of an earlier log under the same names, which would pass for the new ones; "
    f"delete the topic `{DELTAS}`, run `nowrank topics create`, then `nowrank rebuild`"
)


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """`session` and `target`: the new store's first checkpoints by log; a log without one is left to the workers.

    `usable`: the event logs that are folded, up to the live checkpoints. `begin`: where `--from` cuts the event logs.
    """

    session: dict[str, Checkpoint]
    target: dict[str, Checkpoint]
    usable: frozenset[str]
    begin: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def plan_rebuild(
    live: StoreSnapshot, spans: dict[str, LogSpan], topic_ids: dict[str, str], begin: dict[str, int] | None
) -> RebuildPlan:
    """The plan; `begin` is where each event log begins, None for its first record. Raises `NowrankError` when the
    result would be wrong, or would silently lack what the live rows hold.
    """
    events = {log: span for log, span in spans.items() if span.topic != DELTAS}
    deltas = {log: span for log, span in spans.items() if span.topic == DELTAS}
    replaced = _replaced(live.session, events, topic_ids)
    damaged = live.damaged_checkpoints
    same_deltas = bool(live.target or damaged) and not _replaced(live.target, deltas, topic_ids)
    if replaced and same_deltas and any(live.target[log].highest.keys() & replaced for log in live.target):
        raise NowrankError(NEW_DELTA_LOG)
    usable = {log for log in live.session if log in events and log not in replaced} if same_deltas else set()
    notes = [f"the checkpoint {error.name} cannot be decoded: it is taken for none" for error in damaged]
    if replaced:
        notes.append(f"{', '.join(sorted(replaced))}: another log than before; the workers fold it from its beginning")
    elif live.session and not same_deltas:
        notes.append("the delta log is a new one: the workers fold every event from the beginning and send its deltas")
    if begin is None:
        folded = events.keys() - replaced if damaged else usable
        _refuse_loss({log: live.session.get(log, Checkpoint()) for log in folded}, events)
    starts = {log: events[log].first if begin is None else begin[log] for log in events}
    cut = {log: at for log, at in starts.items() if at > events[log].first}
    return RebuildPlan(
        session={
            log: Checkpoint(starts[log], starts[log], topic_ids.get(span.topic, ""))
            for log, span in events.items()
            if log in usable or begin is not None
        },
        target={
            log: Checkpoint(at, at, topic_ids.get(DELTAS, ""), _below(cut))
            for log, at in ((log, span.first if same_deltas else span.end) for log, span in deltas.items())
        },
        usable=frozenset(usable),
        begin=cut,
        notes=notes,
    )


def find_begin(reader: LogReader, spans: dict[str, LogSpan], text: str | None) -> dict[str, int] | None:
    """The offset of each event log at which `--from` begins; None without it. Raises `BadInput`."""
    if text is None:
        return None
    events = {log: span for log, span in spans.items() if span.topic != DELTAS}
    if text == EARLIEST:
        return {log: span.first for log, span in events.items()}
    if text.isdigit() and int(text) < LEAST_EPOCH_MS:
        return {log: min(max(int(text), span.first), span.end) for log, span in events.items()}
    at_ms = int(text) if text.isdigit() else _parse_time_ms(text)
    return {log: reader.offset_at(span, at_ms) for log, span in events.items()}


def refuse_strange_deltas(highest: dict[str, Highest], spans: dict[str, LogSpan]) -> None:
    """Raise `NowrankError` when the delta log holds deltas of events that their log does not hold."""
    for places in highest.values():
        for source, (offset, ordinal) in places.items():
            if ordinal != LAST_ORDINAL and (source not in spans or offset >= spans[source].end):
                raise NowrankError(
                    f"{source} does not hold the event at {offset} that a delta came from: {NEW_DELTA_LOG}"
                )


def _replaced(
    checkpoints: dict[str, Checkpoint], spans: dict[str, LogSpan], topic_ids: dict[str, str]
) -> frozenset[str]:
    """The logs that are not the ones that the checkpoints are of: another topic id, or shorter than was folded."""
    return frozenset(
        log
        for log, checkpoint in checkpoints.items()
        if log not in spans
        or checkpoint.next_offset > spans[log].end
        or (checkpoint.log_id and checkpoint.log_id != topic_ids.get(spans[log].topic, checkpoint.log_id))
    )


def _refuse_loss(checkpoints: dict[str, Checkpoint], spans: dict[str, LogSpan]) -> None:
    lost = {
        log: spans[log].first - checkpoint.first_offset
        for log, checkpoint in checkpoints.items()
        if spans[log].first > checkpoint.first_offset
    }
    if lost:
        raise NowrankError(
            f"the live rows hold {sum(lost.values())} records that the log no longer has ({', '.join(sorted(lost))}): "
            f"a rebuild would forget them; say so with --from {EARLIEST}"
        )


def _below(cut: dict[str, int]) -> Highest:
    """The map of rule 11 that makes the deltas of events before the cut pass for repeats."""
    return {log: (offset - 1, LAST_ORDINAL) for log, offset in cut.items()}


def _parse_time_ms(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            "invalid_field",
            f"--from {text}: give an offset, `{EARLIEST}`, milliseconds since 1970 or 2026-01-31T12:00:00",
        ) from error
    return round(1000 * (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
