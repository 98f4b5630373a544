"""`nowrank interleaving`: which of two interleaved variants members prefer.

Enters: arguments; the logged rankings and the engagements that name them. Leaves: wins of each variant with an interval
and a sign test, and an exit code. Called by `nowrank.cli`.
"""

import argparse
import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass

from infra.connected import broker_settings
from infra.errors import InvalidEvent, NowrankError
from infra.settings import Settings
from serving.experiments import JOINT
from serving.interleaving import Verdict, judge, winner
from streams.audit.log_reader import LogReader
from streams.events import Ranking, Thumb, decode_record
from streams.topics import CLICKS, PLAYS, RANKINGS, THUMBS

EXAMPLES = """reads every interleaved answer of the log (NOWRANK_INTERLEAVE) and the clicks, plays and thumbs up whose
`ranking_id` names it; of each answer the variant with more titles engaged with wins

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
    """Every pair of variants in the log; reads four topics, and holds the interleaved answers in memory."""
    answers: dict[str, Ranking] = {}
    engaged: dict[str, set[str]] = defaultdict(set)
    with LogReader(settings) as reader:
        for span in reader.spans([RANKINGS]).values():
            for record in reader.read_span(span):
                if record.value is not None and JOINT.encode() in record.value:
                    with suppress(InvalidEvent):
                        ranking = decode_record(record.topic, record.value)
                        if isinstance(ranking, Ranking) and JOINT in ranking.variant:
                            answers[ranking.ranking_id] = ranking
        for span in reader.spans([CLICKS, PLAYS, THUMBS] if answers else []).values():
            for record in reader.read_span(span):
                if record.value is not None:
                    _credit(record.topic, record.value, answers, engaged)
    return _tally(answers, engaged)


def _credit(topic: str, value: bytes, answers: dict[str, Ranking], engaged: dict[str, set[str]]) -> None:
    """Note which title of which answer an event is about; a thumb down or taken back speaks for nobody."""
    try:
        event = decode_record(topic, value)
    except NowrankError:
        return
    if isinstance(event, Thumb) and event.value not in ("up", "double_up"):
        return
    if isinstance(event, Ranking):
        return
    answer = answers.get(event.ranking_id or "")
    if answer is not None and event.user_id == answer.user_id:
        engaged[answer.ranking_id].add(event.item_id)


def _tally(answers: dict[str, Ranking], engaged: dict[str, set[str]]) -> list[Comparison]:
    winners: dict[str, list[str | None]] = defaultdict(list)
    for ranking_id, ranking in answers.items():
        teams = {item.item_id: item.team for item in ranking.items}
        winners[ranking.variant].append(winner(teams, engaged.get(ranking_id, ())))
    comparisons = []
    for variant, found in sorted(winners.items()):
        first, _, second = variant.partition(JOINT)
        wins, losses = found.count(first), found.count(second)
        comparisons.append(Comparison(first, second, len(found), wins, losses, judge(wins, losses)))
    return comparisons
