"""What an import tells the person who ran it.

Enters: an `ImportSummary`. Leaves: text, rejected rows on standard error. Called by `nowrank import`.
"""

import sys
from datetime import UTC, datetime

from streams.imports import ImportSummary

SHOWN_REJECTIONS = 100
DERIVED = """MovieLens holds ratings only. Event types, tasks and queries are DERIVED: each rating is a click and a play
(more stars, more of the title watched), 4-5 stars also a thumb up, 1-2 a thumb down; tasks by hash; queries from titles
and genres."""


def print_summary(summary: ImportSummary, dry_run: bool) -> None:
    """The summary on standard output, one line for each rejected row on standard error."""
    for rejection in summary.rejections[:SHOWN_REJECTIONS]:
        print(rejection, file=sys.stderr)
    if (more := len(summary.rejections) - SHOWN_REJECTIONS) > 0:
        print(f"... and {more} rejected rows more: --rejects FILE writes every one", file=sys.stderr)
    good = [f"{count} {name}s" for name, count in summary.events.items()] + (
        [f"{summary.items} titles"] if summary.items else []
    )
    print(
        f"{summary.source}: {summary.rows} rows; good: {', '.join(good) or 'none'}; rejected: {len(summary.rejections)}"
    )
    for reason, count in sorted(summary.rejected.items()):
        print(f"  rejected as {reason}: {count}")
    if summary.ignored_columns:
        print(f"  columns that are no fields, ignored: {', '.join(summary.ignored_columns)}")
    if summary.float_ids:
        print(f"  ids like 7.0, taken as they are written, so not the ids 7: {', '.join(summary.float_ids)}")
    if summary.made_event_ids:
        print(f"  {summary.made_event_ids} rows named no event_id: theirs were made from their content and row number")
    if summary.oldest_ts_ms is not None and summary.newest_ts_ms is not None:
        moved = (
            f", moved by {summary.shift_ms / 86_400_000:.2f} days (--keep-time: not moved)" if summary.shift_ms else ""
        )
        print(f"  times: {_date(summary.oldest_ts_ms)} to {_date(summary.newest_ts_ms)}{moved}")
    if summary.derived:
        print(DERIVED)
    if summary.not_acknowledged:
        print(
            f"{summary.not_acknowledged} were NOT acknowledged by the broker ({summary.cause}); the same import again "
            "sends the same ids",
            file=sys.stderr,
        )
    if dry_run:
        print("nothing was published (--dry-run)")
    else:
        print(f"published {summary.published} in {summary.took_s:.1f} s")


def _date(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
