"""`nowrank skew`: the features that were served, against a replay of the log.

Enters: arguments. Leaves: a table by column, and an exit code. Called by `nowrank.cli`. It stands beside the scorer
because the similarities among the features come from its model.
"""

import argparse
import json

from features.item_table import ItemTable
from features.vector import Context, Similarities, Slots
from infra.connected import broker_settings, require_store
from infra.errors import ArtifactInvalid, SchemaMismatch
from infra.settings import Settings
from model.artifact import ItemVectors, load_artifact
from streams.audit.skew import SimilaritySource, compare_served
from streams.audit.skew_report import SkewReport

EXAMPLES = """takes the last rankings of the log, replays the event logs to exactly the offsets that their rows
contained, computes the features anew at the logged time and compares

examples:
  nowrank skew                 the last 100 rankings, a table by feature
  nowrank skew --last 1000
  nowrank skew --json

exit code: 0 equal, 1 different, or nothing that could be compared"""


def skew_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank skew`."""
    parser.add_argument("--last", type=int, default=100, metavar="N", help="how many rankings (default: 100)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.epilog = EXAMPLES


def skew(args: argparse.Namespace) -> int:
    """Compare served features with a replay of the log."""
    settings = require_store(broker_settings())
    report = compare_served(settings, args.last, artifact_similarities(settings))
    if args.json:
        print(json.dumps(_to_json(report)))
    else:
        _print_report(report)
    return report.exit_code


def artifact_similarities(settings: Settings) -> SimilaritySource | None:
    """The similarities of the artifact that is at hand, for rankings of its version; None when there is none."""
    try:
        artifact = load_artifact(settings.artifact_path)
    except (ArtifactInvalid, SchemaMismatch):
        return None
    encoded: list[ItemVectors] = []

    def similarities(model: str, table: ItemTable, context: Context, slots: Slots) -> Similarities | None:
        if model != artifact.version:
            return None
        if not encoded or len(encoded[0].index_V) < len(table):
            encoded[:] = [artifact.encode_items(table)]
        return artifact.similarities(encoded[0], table, context, slots)

    return similarities


def _to_json(report: SkewReport) -> dict[str, object]:
    return {
        "exit_code": report.exit_code,
        "rankings": report.rankings,
        "columns": [column._asdict() for column in report.columns],
        "examples": [example._asdict() for example in report.examples],
        "not_compared": dict(report.not_compared),
    }


def _print_report(report: SkewReport) -> None:
    print(f"{'feature':<28}{'compared':>10}{'different':>11}{'largest difference':>20}")
    for column in report.columns:
        largest = f"{column.largest:.6g}" if column.differing else ""
        print(f"{column.name:<28}{column.compared:>10}{column.differing:>11}{largest:>20}")
    print(f"{report.rankings} rankings")
    for reason, values in report.not_compared.items():
        print(f"not compared: {values} values: {reason}")
    for example in report.examples:
        place = f"{example.ranking} {example.item_id!r} {example.column}"
        print(f"{place}: served {example.served!r}, log gives {example.replayed!r}")
    if not any(column.compared for column in report.columns):
        print("nothing could be compared")
    else:
        print("different" if report.exit_code else "equal")
