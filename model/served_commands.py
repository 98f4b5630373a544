"""Retraining from what was served: the rest of `nowrank train --from served`, and `nowrank promote`.

Enters: parsed arguments. Leaves: an exit code, and text or JSON on standard output. Called by `commands.py` and
`nowrank.cli`.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from infra.connected import require_broker
from infra.errors import ArtifactInvalid, NowrankError, SchemaMismatch
from infra.logs import quiet_kafka
from infra.settings import Settings, load_settings
from model.log_arguments import add_log_arguments, counted, from_zero, refuse_log_arguments, seed

if TYPE_CHECKING:
    from model.artifact import Artifact
    from model.config import TrainConfig
    from model.progress import Progress
    from model.promotion import Bounds, TaskVerdict
    from streams.served_log import ServedLog

SERVED, LOG = "served", "log"
FROM_SERVED = f"--from {SERVED}: it takes what the broker holds"

PROMOTE_EXAMPLES = """both artifacts score the same requests from after their training; the candidate is copied
into the folder of the current one, its card last, only when it is not worse on any task and calibrated; the scorer
then picks it up by itself, whole

examples:
  nowrank promote build/candidate                              judged on what it was trained from
  nowrank promote build/candidate --log plays.csv --items titles.jsonl --map customer=user_id
  nowrank promote build/candidate --current /models/today --from served
  nowrank promote build/candidate --dry-run                    only say what would happen

exit code: 0 promoted (or would be), 1 refused"""


def served_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nowrank train` that belong to `--from served`."""
    parser.add_argument(
        "--from",
        dest="source",
        choices=(LOG, SERVED),
        default=LOG,
        help="what to train on (default: the log of events)",
    )
    parser.add_argument(
        "--correction",
        choices=("none", "position", "examination", "ips"),
        default="position",
        help="with --from served: how to correct for positions (default: position)",
    )
    parser.add_argument(
        "--replay-others",
        action="store_true",
        help="with --from served: compute the features of rankings logged without them, or for another schema",
    )
    parser.add_argument(
        "--join-again",
        action="store_true",
        help="with --from served: join labels from the events, whatever `labels` says",
    )


def train_from_served(args: argparse.Namespace, config: "TrainConfig", settings: Settings) -> int:
    """Train on the rankings that the broker's log holds."""
    from model.learning_curve import write_curve
    from model.progress import shown_progress
    from model.train import report_json
    from model.train_served import DEFAULT, train_on_served

    if args.epochs is None:
        config = replace(config, epochs=DEFAULT.epochs)
    out_dir = args.out or settings.artifact_path
    served = _read(settings, args.join_again)
    propensities = {item.propensity for one in served.rankings for item in one.ranking.items}
    if args.correction == "ips" and len(propensities) == 1:
        print(
            f"all shown titles were logged with the propensity {propensities.pop()}: --correction ips weighs "
            "them alike, as none does",
            file=sys.stderr,
        )
    with shown_progress() as progress:
        report = train_on_served(
            served,
            out_dir,
            config=config,
            correction=args.correction,
            replay_others=args.replay_others,
            budget_s=args.budget_s,
            progress=progress,
        )
    if args.curve is not None:
        write_curve(report, args.curve)
    if args.json:
        print(report_json(report))
        return 0
    card = report.card
    training, loss = card.training, min(report.middle_losses)
    print(
        f"model {card.version} in {out_dir}: {training['labels']:,} served rankings, "
        f"correction {training['correction']}, {training['epochs']} epochs; labels: {training['labels_from']}"
    )
    for reason, count in {**training["rankings"], **training["left_out"]}.items():
        print(f"  {count:,} rankings: {reason}")
    print(f"data set {report.data_s:.0f} s, training {report.fit_s:.0f} s, loss of the middle part {loss:.4f}")
    return 0


def promote_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank promote`."""
    parser.add_argument("candidate", type=Path, metavar="CANDIDATE", help="the folder of the new artifact")
    parser.add_argument(
        "--current", type=Path, metavar="FOLDER", help="the folder to replace (default: where the scorer looks)"
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=(LOG, SERVED),
        help="what to judge on (default: what the candidate learned from)",
    )
    add_log_arguments(parser.add_argument_group("with --from log, as for `nowrank train`"), named=True)
    parser.add_argument(
        "--max-labels", type=counted, metavar="N", help="with --from log: at most N labels of each task (default: all)"
    )
    parser.add_argument(
        "--margin", type=from_zero, default=0.01, help="how much worse NDCG@10 may be, as a share (default: 0.01)"
    )
    parser.add_argument(
        "--ece",
        type=from_zero,
        default=0.5,
        metavar="BOUND",
        help="greatest calibration error, as a share of the mean label (default: 0.5)",
    )
    parser.add_argument("--resamples", type=counted, default=1000, help="of the bootstrap (default: 1000)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draw and the bootstrap (default: 0)")
    parser.add_argument("--join-again", action="store_true", help="join labels from the events, whatever `labels` says")
    parser.add_argument("--dry-run", action="store_true", help="judge, and leave everything as it is")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.epilog = PROMOTE_EXAMPLES


def promote(args: argparse.Namespace) -> int:
    """Put a candidate in the current artifact's place if it passes the gate."""
    from model.artifact import CARD, check_artifact_folder, install_artifact, load_artifact
    from model.progress import shown_progress
    from model.promotion import Bounds

    settings = load_settings()
    folder = args.current or settings.artifact_path
    candidate = load_artifact(args.candidate)
    if folder.resolve() == args.candidate.resolve():
        raise NowrankError(f"{folder} is both the candidate and the current artifact; train into another folder: --out")
    check_artifact_folder(folder)
    current = _comparable(folder) if (folder / CARD).is_file() else None
    source = args.source or (SERVED if candidate.card.training.get("source") == SERVED else LOG)
    if source == SERVED:
        refuse_log_arguments(args, FROM_SERVED)
    bounds = Bounds(args.margin, args.ece, args.resamples, args.seed)
    with shown_progress() as progress:
        verdicts = _judge(args, source, (candidate, current), bounds, settings, progress)
    passes = not any(verdict.reasons for verdict in verdicts)
    if passes and not args.dry_run:
        install_artifact(args.candidate, folder)
    result = {
        "candidate": candidate.version,
        "current": None if current is None else current.version,
        "judged_on": source,
        "passes": passes,
        "promoted": passes and not args.dry_run,
        "tasks": [verdict._asdict() for verdict in verdicts],
    }
    print(
        msgspec.json.encode(result).decode() if args.json else _table(result, verdicts, folder),
        end="\n" if args.json else "",
    )
    return 0 if passes else 1


def _comparable(folder: Path) -> "Artifact | None":
    """The current artifact; None when this code cannot use it either."""
    from model.artifact import load_artifact

    try:
        return load_artifact(folder)
    except (ArtifactInvalid, SchemaMismatch) as error:
        print(f"the current artifact cannot be compared with: {error}", file=sys.stderr)
        return None


def _judge(
    args: argparse.Namespace,
    source: str,
    artifacts: "tuple[Artifact, Artifact | None]",
    bounds: "Bounds",
    settings: Settings,
    progress: "Progress",
) -> "list[TaskVerdict]":
    from model.promotion import judge_on_log, judge_on_served

    candidate, current = artifacts
    if source == SERVED:
        return judge_on_served(candidate, current, _read(settings, args.join_again), bounds, progress)
    from model.evaluate import artifact_parts, check_log
    from model.log_arguments import log_of
    from model.roles import choose_labels, choose_others

    log = log_of(args, settings)
    check_log(candidate, log)
    begin_ms = max(artifact_parts(one, log).middle_end_ms for one in artifacts if one is not None)
    tested = [label for label in log.labels if label.ts_ms >= begin_ms]
    rng = np.random.default_rng(args.seed)
    chosen = choose_labels([label for label in tested if label.positive], args.max_labels, rng)
    chosen |= choose_others(tested, chosen, rng)
    return judge_on_log(candidate, current, log, chosen, bounds, progress)


def _table(result: dict[str, object], verdicts: "list[TaskVerdict]", folder: Path) -> str:
    """The verdicts for people."""
    against = result["current"] or "nothing"
    lines = [
        f"candidate {result['candidate']} against {against}, judged on {result['judged_on']}",
        f"{'task':<16}{'requests':>9}{'current':>9}{'candidate':>11}"
        f"{'95 % of the change':>21}{'labels':>9}{'ECE':>9}  verdict",
    ]
    for one in verdicts:
        current = "-" if one.current is None else f"{one.current:.4f}"
        change = "-" if one.low is None or one.high is None else f"{one.low:+.1%} .. {one.high:+.1%}"
        figures = f"{one.requests:>9}{current:>9}{one.candidate:>11.4f}{change:>21}{one.base_rate:>9.2g}{one.ece:>9.2g}"
        lines.append(f"{one.task:<16}{figures}  {'; '.join(one.reasons) or 'passes'}")
    if result["promoted"]:
        lines.append(f"promoted: {folder} now holds {result['candidate']}")
    elif result["passes"]:
        lines.append("it passes; nothing was moved (--dry-run)")
    else:
        lines.append(f"refused: {folder} stays as it is")
    return "\n".join(lines) + "\n"


def _read(settings: Settings, join_again: bool) -> "ServedLog":
    from streams.served_log import read_served_log

    quiet_kafka()
    return read_served_log(require_broker(settings), join_again=join_again)
