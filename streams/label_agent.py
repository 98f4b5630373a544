"""The stage `labels`: rankings and events become labels of what was shown.

Enters: records of the event topics. Leaves: `RankingLabels` on the topic `labels`, rows `shown` in the online store,
dead letters, checkpoints. Called by `app.py` with one batch at a time, in a process and a consumer group of its own.

One batch: decode, read the users' rows, fold, dead-letter what broke, send the labels that became newer, await their
acknowledgement, write the rows, write the checkpoints. A ranking's label is sent as soon as the ranking is folded, as a
negative, and again with a higher version whenever there is more to say. So what a stored row knows was sent before it
was written; a crash, a worker that wakes up late or a refused write sends labels again, of a version that is the same
or lower than the one that holds. Rows are read anew in each batch: no cache, so that they may expire soon.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import msgspec

from features.engagement import Engagement
from features.online_store import FencedStore, Row
from features.rows import SHOWN
from features.shown import ShownState, fold_shown
from infra.clock import monotonic_s, now_ms
from infra.errors import InvalidEvent, StoreFenced
from infra.metrics import Metrics
from infra.redaction import hide_ids
from infra.settings import LABELS_STAGE
from streams.checkpoints import Checkpoint
from streams.dead_letters import DeadLetter
from streams.events import decode_record, to_engagement
from streams.log_records import Record
from streams.shown_labels import RankingLabels, labels_of_row, named_ranking
from streams.stage import WRITE_ATTEMPTS, SharedStore, measure_batch, move_checkpoints

STAGE = LABELS_STAGE
# Not stage 1's `poison`: the user's row counts such a record, only its label is missing.
POISON = "poison_label"


@dataclass(frozen=True, slots=True)
class Noted:
    """A record, the engagement in it, and the ranking that it names."""

    record: Record
    engagement: Engagement
    ranking_id: str | None


class LabelStage:
    """The stage of one worker; `send_labels` and `send_dead_letters` return once the broker has acknowledged."""

    def __init__(
        self,
        store: SharedStore,
        send_labels: Callable[[list[RankingLabels]], Awaitable[None]],
        send_dead_letters: Callable[[list[DeadLetter]], Awaitable[None]],
        metrics: Metrics,
        future_limit_ms: int,
        window_ms: int,
    ) -> None:
        self._store = store
        self._send_labels = send_labels
        self._send_dead_letters = send_dead_letters
        self._metrics = metrics
        self._future_limit_ms = future_limit_ms
        self._window_ms = window_ms
        self.checkpoints: dict[str, Checkpoint] = {}

    def begin(self, checkpoints: dict[str, Checkpoint]) -> None:
        """Go on at these checkpoints; called at every assignment."""
        self.checkpoints = checkpoints

    async def apply(self, records: list[Record]) -> None:
        """Fold one batch, in the order of `records`."""
        began_s = monotonic_s()
        pending = self._by_user(records)
        for _ in range(WRITE_ATTEMPTS):
            if not pending:
                break
            pending = await self._fold_and_write(pending)
        if pending:
            raise StoreFenced(f"{len(pending)} rows were refused {WRITE_ATTEMPTS} times: too many writers for them")
        await move_checkpoints(self._store, STAGE, self.checkpoints, records)
        measure_batch(self._metrics, STAGE, records, began_s, now_ms())

    async def _fold_and_write(self, by_user: dict[str, list[Noted]]) -> dict[str, list[Noted]]:
        """Fold each user's records into the row as it stands now; returns the users whose writes were refused.

        What breaks a fold becomes a dead letter and leaves `by_user`.
        """
        rows = await self._store.call(FencedStore.read_rows, SHOWN, list(by_user))
        changed: dict[str, Row] = {}
        newer: list[RankingLabels] = []
        dead: list[DeadLetter] = []
        for (user_id, noted), read in zip(by_user.items(), rows, strict=True):
            row = read
            try:
                found = self._fold_user(user_id, row, noted)
            except Exception:  # noqa: BLE001 - whatever breaks a fold is a property of the record: a dead letter, not a crash loop
                [row] = await self._store.call(FencedStore.read_rows, SHOWN, [user_id])  # without what is half done
                dead += self._take_poison(user_id, row, noted)
                found = self._fold_user(user_id, row, noted) if noted else None
            if found is not None:
                changed[user_id] = row
                newer += found
        if dead:
            await self._send_dead_letters(dead)
            self._metrics.count("nowrank_worker_dead_letters_total", len(dead), reason=POISON)
        if newer:
            await self._send_labels(newer)
        if not changed:
            return {}
        accepted = await self._store.call(FencedStore.write_rows, list(changed.values()))
        written = sum(accepted)
        if written:
            self._metrics.count("nowrank_worker_rows_written_total", written, entity=SHOWN.name)
        if written < len(accepted):
            self._metrics.count("nowrank_worker_row_conflicts_total", len(accepted) - written, stage=STAGE)
        return {user: by_user[user] for user, is_accepted in zip(changed, accepted, strict=True) if not is_accepted}

    def _fold_user(self, user_id: str, row: Row, noted: list[Noted]) -> list[RankingLabels] | None:
        """Fold a user's records into the row; the labels that became newer, None when the row contained them all."""
        before = labels_of_row(user_id, row.state, self._window_ms)
        if not _fold_into(row, noted):
            return None
        return _newer(before, labels_of_row(user_id, row.state, self._window_ms))

    def _take_poison(self, user_id: str, row: Row, noted: list[Noted]) -> list[DeadLetter]:
        """Take out of `noted` the records that break the fold or the labels, one after the other on copies of the row.

        Where the row as it stands can have no labels, those are all records.
        """
        dead = []
        for one in list(noted):
            tried = _copy(row)
            try:
                _fold_into(tried, [one])
                labels_of_row(user_id, tried.state, self._window_ms)
            except Exception as error:  # noqa: BLE001 - as above
                noted.remove(one)
                said = hide_ids(f"{type(error).__name__}: {error}", [user_id])
                dead.append(DeadLetter.of(one.record, POISON, said))
            else:
                row = tried
        return dead

    def _by_user(self, records: list[Record]) -> dict[str, list[Noted]]:
        """The batch's engagements by user. What is no event is skipped: stage 1 sends it to the dead letters."""
        by_user: dict[str, list[Noted]] = defaultdict(list)
        for record in records:
            try:
                event = decode_record(record.topic, record.value)
                engagement = to_engagement(event, record.broker_ts_ms, self._future_limit_ms)
            except InvalidEvent:
                continue
            by_user[engagement.user_id].append(Noted(record, engagement, named_ranking(event)))
        return by_user


def _fold_into(row: Row, noted: list[Noted]) -> bool:
    """Fold what the row does not contain; returns whether there was anything."""
    before = dict(row.contained)
    for one in noted:
        log, offset = one.record.log, one.record.offset
        if row.contained.get(log, -1) < offset:
            fold_shown(row.state, log, one.engagement, one.ranking_id)
            row.contained[log] = offset
    return row.contained != before


def _copy(row: Row) -> Row:
    """The row with a state of its own; by its bytes, which takes far less time than `copy.deepcopy`."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(row.state), type=ShownState)
    return replace(row, state=state, contained=dict(row.contained))


def _newer(before: dict[str, RankingLabels], after: dict[str, RankingLabels]) -> list[RankingLabels]:
    """The labels that are new or of a higher version."""
    return [
        labels
        for ranking_id, labels in after.items()
        if ranking_id not in before or labels.version > before[ranking_id].version
    ]
