"""The proof: every row of the store is what the log gives.

Enters: settings. Leaves: a `VerifyReport`. Called by `nowrank verify` and the tests of faults.

Workers go on meanwhile. The checkpoints are read first, then the rows, then the logs up to ends taken after the rows;
into each row only those records are folded that the stored row says it contains, so that it is compared at its own
version. A record before the checkpoint that its row does not contain is a difference too, and so is a delta that the
events before the checkpoint give and the delta log does not hold, or holds in another form. What lies behind the
checkpoints is counted, and nothing is proven about a log of which the store has no checkpoint. All rows are held in
memory, stored and expected: count some 20 KB for each user and each title.
"""

import msgspec

from features.online_store import LOG_RETENTION_MS
from features.rows import FAMILIES, USER, RowFamily
from infra.clock import now_ms
from infra.settings import Settings
from streams.audit.log_reader import LogReader, LogSpan
from streams.audit.recompute import LeftOut, Recomputation
from streams.audit.row_differences import READABLE, Difference, compare_row
from streams.audit.store_folds import StoreFolds
from streams.audit.store_snapshot import StoreSnapshot, count_keys, read_store
from streams.progress import ShowProgress, progress_bar
from streams.topics import DELTAS, FOLDED_TOPICS

EQUAL, DIFFERENT, UNVERIFIABLE = 0, 1, 2
_FAMILIES = {family.name: family for family in FAMILIES}


class VerifyReport(msgspec.Struct):
    """What was compared and what was found.

    `rows` by family; `records` that were read; `deltas` that were compared; `expired`: rows
    that Redis may have dropped by the expiry rule; `unfolded`: by topic, records behind the checkpoints, of which a row
    need hold nothing; `unverifiable`: rows by the reason why they could not be compared, 0 of them where there is none.
    """

    rows: dict[str, int] = msgspec.field(default_factory=dict)
    records: int = 0
    deltas: int = 0
    expired: int = 0
    unfolded: dict[str, int] = msgspec.field(default_factory=dict)
    differences: list[Difference] = msgspec.field(default_factory=list)
    unverifiable: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 when everything is equal, 1 when something differs, 2 when something could not be verified."""
        if self.differences:
            return DIFFERENT
        return UNVERIFIABLE if self.unverifiable else EQUAL


def verify_store(settings: Settings, progress: ShowProgress = progress_bar) -> VerifyReport:
    """Recompute the log and compare every row with it; raises `BrokerUnavailable`, `StoreUnavailable` or
    `CheckpointInvalid`.
    """
    with progress("reading rows", count_keys(settings.redis)) as advance:
        snapshot = read_store(settings.redis, settings.feast_project, advance)
    with LogReader(settings) as reader:
        spans = reader.spans(FOLDED_TOPICS)
        report = VerifyReport(records=sum(span.end - span.first for span in spans.values()))
        with progress("folding the log", report.records) as advance:
            folds = StoreFolds(settings, snapshot, reader, spans, advance)
            report.unverifiable = dict.fromkeys(folds.trouble.values(), 0)
            users = folds.users()
            _compare(report, snapshot, users, (USER,), folds.trouble)
            targets, differences = folds.targets()
            _compare(report, snapshot, targets, FAMILIES[1:], folds.trouble)
            report.differences += differences
            _compare_deltas(report, folds, without={log for _, _, log in users.left_out})
            _count_unfolded(report, folds, spans)
    return report


def _compare(
    report: VerifyReport,
    snapshot: StoreSnapshot,
    fold: Recomputation,
    families: tuple[RowFamily, ...],
    trouble: dict[str, str],
) -> None:
    """Compare the rows of `families`, and see what was left out of them."""
    names = {family.name for family in families}
    for name, stored in snapshot.rows.items():
        if name[0] not in names:
            continue
        reason = next((trouble[log] for log in stored.contained if log in trouble), None)
        if reason is not None:
            report.unverifiable[reason] += 1
            continue
        report.rows[name[0]] = report.rows.get(name[0], 0) + 1
        expected = fold.rows.get(name)
        if expected is None:
            said = f"contains {stored.contained}"
            report.differences.append(Difference(*name, "(row)", "(no record is about it)", said))
        else:
            report.differences += compare_row(stored, expected)
    for name, why in snapshot.damaged.items():
        if name[0] in names:
            report.rows[name[0]] = report.rows.get(name[0], 0) + 1
            report.differences.append(Difference(*name, "(row)", READABLE, why))
    for (family_name, value, log), missed in fold.left_out.items():
        if log in trouble:
            continue
        if may_have_expired(_FAMILIES[family_name], missed, now_ms()):
            report.expired += 1
            continue
        found = snapshot.rows.get((family_name, value))
        said = f"contains {found.contained}" if found is not None else "(missing)"
        wanted = f"contains {log} at {missed.first_offset}"
        report.differences.append(Difference(family_name, value, "(row)", wanted, said))


def may_have_expired(family: RowFamily, missed: LeftOut, at_ms: int) -> bool:
    """Whether Redis may have dropped the row that contained these records (protocol rule 8)."""
    return at_ms > missed.touched_ms + family.retention_ms + LOG_RETENTION_MS


def _compare_deltas(report: VerifyReport, folds: StoreFolds, without: set[str]) -> None:
    """Whether the delta log holds exactly what the events before the checkpoints give.

    Only of logs that are whole, and `without` those from which a row lacks records: what an event gives may depend on
    thumbs among them.
    """
    partitions, sources = folds.whole_logs(without)
    for (partition, source), given, held in folds.chains.compare(partitions, sources):
        others = " others" if given.count == held.count else ""
        wanted, said = f"{given.count} deltas of {source}", f"{held.count}{others}"
        report.differences.append(Difference("delta log", f"{DELTAS}-{partition}", "(messages)", wanted, said))
    compared = [chain for (_, source), chain in folds.chains.given.items() if source in sources]
    report.deltas = sum(chain.count for chain in compared)


def _count_unfolded(report: VerifyReport, folds: StoreFolds, spans: dict[str, LogSpan]) -> None:
    """What the store need not hold yet; without any checkpoint of a log that holds records, nothing is proven."""
    for log, records in folds.unfolded.items():
        topic = spans[log].topic
        report.unfolded[topic] = report.unfolded.get(topic, 0) + records
    report.unverifiable |= dict.fromkeys(folds.without_checkpoint(), 0)
