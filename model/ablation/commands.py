"""The command `ablate`: what each part of the model is worth.

Enters: parsed arguments. Leaves: an exit code, a folder, tables or JSON on standard output. Called by `nowrank.cli`.
"""

import argparse
import dataclasses
from pathlib import Path

from infra.settings import load_settings
from model.ablation.question import RESAMPLES, SEEDS, TESTED, Question
from model.ablation.variants import COMPARISONS
from model.config import TrainConfig
from model.log_arguments import add_log_arguments, counted, log_of, seed


def ablate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank ablate`."""
    add_log_arguments(parser)
    add = parser.add_argument
    add(
        "--out", type=Path, metavar="FOLDER", help="what was trained stays there, and an interrupted study goes on "
        "there; also result.json, result.md and, with matplotlib, a plot (default: ablation in the state folder)",
    )  # fmt: skip
    add(
        "--only", action="append", choices=list(COMPARISONS), metavar="GROUP",
        help=f"only these differences: {', '.join(COMPARISONS)} (may be repeated; default: all)",
    )  # fmt: skip
    add("--seeds", type=counted, default=SEEDS, help=f"networks of each variant; a claim needs 5 (default: {SEEDS})")
    add("--labels", type=counted, metavar="N", help="train on about N labels (default: as `nowrank train`)")
    add("--epochs", type=counted, metavar="N", help="look at them at most N times (default: 2)")
    add(
        "--max-labels", type=counted, default=TESTED, metavar="N",
        help=f"test at most N labels of each task, drawn at random (default: {TESTED})",
    )  # fmt: skip
    add("--resamples", type=counted, default=RESAMPLES, help=f"of the bootstrap (default: {RESAMPLES})")
    add("--seed", type=seed, default=0, help="seed of the draws of labels and negatives (default: 0)")
    add("--threads", type=counted, default=1, help="threads that torch may use (default: 1)")
    add("--json", nargs="?", const="-", metavar="FILE", help="the result as JSON, to FILE or to standard output")
    parser.epilog = """tasks     one network for all tasks, or one for each
stages    personalisation: none, clusters, also other recommenders' scores, full
sides     long-term and short-term, or only one of them; also on labels in a member's third session or later
parts     without imputation, crossing, the task feature, the streaming counts, the titles' co-vectors
order     the events of each session shuffled when they are ranked
baselines the strongest ones, tuned in the same run

examples:
  nowrank ablate --seeds 5
  nowrank ablate --only sides --only order --labels 10000 --out quick
  nowrank ablate plays.csv --items titles.jsonl --type play --seeds 1"""


def ablate(args: argparse.Namespace) -> int:
    """Train the variants on one data set, rank the same requests with each, and compare."""
    from model.ablation.report import comparisons_table, models_table, preamble, write_study
    from model.ablation.study import run_study
    from model.progress import shown_progress
    from model.report import check_outputs, put_json

    settings = load_settings()
    config = TrainConfig(seed=args.seed, threads=args.threads)
    if args.labels is not None:
        config = dataclasses.replace(config, train_labels=args.labels)
    if args.epochs is not None:
        config = dataclasses.replace(config, epochs=args.epochs)
    question = Question(
        tuple(group for group in COMPARISONS if args.only is None or group in args.only),
        args.seeds, args.max_labels, args.resamples, config,
    )  # fmt: skip
    folder = args.out or settings.state_dir / "ablation"
    check_outputs(args, folder)
    log = log_of(args, settings)
    with shown_progress() as progress:
        result = run_study(log, question, folder, progress)
    written = write_study(result, folder)
    if args.json is not None and put_json(result, args.json):
        return 0
    print(f"{comparisons_table(result)}\n{models_table(result)}\n{preamble(result)}\n{folder}: {', '.join(written)}")
    return 0
