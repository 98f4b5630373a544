"""`nowrank interleaving`: which of two interleaved variants members prefer.

Enters: arguments; the logged rankings and what became of their titles, by the join behind the labels of training.
Leaves: wins of each variant with an interval and a sign test, and an exit code. Called by `nowrank.cli`.
"""

import argparse
import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass

from infra.connected import broker_settings
from infra.errors import InvalidEvent
from infra.settings import Settings
from serving.experiments import JOINT
from serving.interleaving import Verdict, judge, winner
from streams.audit.log_reader import LogReader
from streams.events import Ranking, decode_record
from streams.shown_labels import LogJoin, RankingLabels
from streams.topics import EVENT_TOPICS

EXAMPLES = """reads every interleaved answer of the log (NOWRANK_INTERLEAVE) and which of its titles training counts as
positive: clicked, played or thumbed up, and not thumbed down in the end; of each answer the variant with more of them
wins

examples:
  nowrank interleaving
  nowrank interleaving --json

The interval and the test take answers for independent: where a few members ask very often they say too much."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two variants that were interleaved; `verdict` is about the first one's wins."""

    first: str
    second: str
    answers: int
    wins_first: int
    wins_second: int
    verdict: Verdict


def interleaving_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank interleaving`."""
    parser.add_argument("--json", action="store_true", help="print the comparisons as JSON")
    parser.epilog = EXAMPLES


def interleaving(args: argparse.Namespace) -> int:
    """Compare interleaved variants by what members engaged with."""
    settings = broker_settings()
    comparisons = compare(settings)
    if args.json:
        print(json.dumps([asdict(one) for one in comparisons]))
        return 0
    if not comparisons:
        print("the log holds no interleaved answer; NOWRANK_INTERLEAVE=default+challenger=0.1 makes some")
    for one in comparisons:
        verdict = one.verdict
        print(f"{one.first} against {one.second}: {one.answers} answers")
        print(f"  {one.first} won {one.wins_first}, {one.second} won {one.wins_second}, the others neither")
        print(
            f"  {one.first} wins {verdict.share:.1%} of the decided ones (95 % interval {verdict.low:.1%} to "
            f"{verdict.high:.1%}), sign test p = {verdict.p_value:.2g}"
        )
    return 0


def compare(settings: Settings) -> list[Comparison]:
    """Every pair of variants in the log, by the titles that training counts as positive; holds all lists of the log and
    what members did in memory. Raises `BrokerUnavailable`.
    """
    joined = LogJoin(settings.future_limit_ms)
    answers: dict[str, Ranking] = {}
    with LogReader(settings) as reader:
        for span in reader.spans(EVENT_TOPICS).values():
            for record in reader.read_span(span):
                with suppress(InvalidEvent):
                    event = decode_record(record.topic, record.value)
                    joined.add_event(event, record.broker_ts_ms)
                    if isinstance(event, Ranking) and JOINT in event.variant:
                        answers.setdefault(event.ranking_id, event)
    return _tally(answers, joined.labels(settings.label_window_ms))


def _tally(answers: dict[str, Ranking], labels: dict[str, RankingLabels]) -> list[Comparison]:
    winners: dict[str, list[str | None]] = defaultdict(list)
    for ranking_id, ranking in answers.items():
        teams = {item.item_id: item.team for item in ranking.items}
        outcome = labels[ranking_id]
        engaged = outcome.positives if outcome.user_id == ranking.user_id else ()
        winners[ranking.variant].append(winner(teams, engaged))
    comparisons = []
    for variant, found in sorted(winners.items()):
        first, _, second = variant.partition(JOINT)
        wins, losses = found.count(first), found.count(second)
        comparisons.append(Comparison(first, second, len(found), wins, losses, judge(wins, losses)))
    return comparisons
