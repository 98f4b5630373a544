"""The commands of this room: `train`, `evaluate`.

Enters: parsed arguments. Leaves: an exit code, and text or JSON on standard output. Called by `nowrank.cli`.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from infra.settings import Settings, load_settings

if TYPE_CHECKING:
    from streams.labels import Log

MOVIELENS = "movielens-100k"
DERIVED = "clicks, plays, thumbs, tasks and queries of this log are derived from ratings"


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank train`."""
    _log_argument(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where the artifact goes (default: where the scorer looks for it)"
    )
    parser.add_argument(
        "--budget-s", type=float, default=150.0, help="no training round begins that would end later (default: 150)"
    )
    parser.add_argument("--labels", type=int, metavar="N", help="train on about N labels (default: 30000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch may use (default: 2)")
    parser.add_argument(
        "--json", action="store_true", help="print the artifact's card without its vocabulary, and the losses, as JSON"
    )
    parser.epilog = """the log is cut by time:
  80 % trains (the first quarter of it only warms the state up), 10 % decides when to stop, 10 % is left for `evaluate`

examples:
  nowrank data get movielens-100k && nowrank train
  nowrank train ~/ml-100k --out /models/today --labels 60000 --budget-s 600"""


def train(args: argparse.Namespace) -> int:
    """Train UniCoRn on a log and write the artifact."""
    from model.config import TrainConfig
    from model.progress import shown_progress
    from model.train import train_on_log

    settings = load_settings()
    out_dir = args.out or settings.artifact_path
    config = TrainConfig(seed=args.seed, threads=args.threads)
    if args.labels is not None:
        config = dataclasses.replace(config, train_labels=args.labels)
    with shown_progress() as progress:
        report = train_on_log(
            _load(args.log, settings), out_dir, config=config, budget_s=args.budget_s, progress=progress
        )
    card = report.card
    if args.json:
        shown = {name: getattr(card, name) for name in card.__struct_fields__ if name != "vocabulary"}
        losses = {"train_losses": report.train_losses, "middle_losses": report.middle_losses}
        print(msgspec.json.encode(shown | losses | {"data_s": report.data_s, "fit_s": report.fit_s}).decode())
    else:
        labels, epochs = card.training["labels"], card.training["epochs"]
        print(f"model {card.version} in {out_dir}: {labels:,} labels ({DERIVED}), {epochs} epochs")
        loss = min(report.middle_losses)
        print(f"data set {report.data_s:.0f} s, training {report.fit_s:.0f} s, loss of the middle part {loss:.4f}")
    return 0


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank evaluate`."""
    _log_argument(parser)
    parser.add_argument(
        "--artifact", type=Path, metavar="FOLDER", help="the artifact (default: where the scorer looks for it)"
    )
    parser.add_argument(
        "--max-labels", type=int, metavar="N", help="test at most N labels of each task, drawn at random (default: all)"
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap behind the intervals (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw and the bootstrap (default: 0)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="the result as JSON, to FILE or to standard output"
    )
    parser.epilog = """every positive label of the log's last tenth is scored from the state strictly before it;
all titles that its user has not engaged yet are ranked

examples:
  nowrank evaluate
  nowrank evaluate --max-labels 1000 --json result.json"""


def evaluate(args: argparse.Namespace) -> int:
    """Evaluate an artifact on the last days of a log."""
    from model.evaluate import evaluate_artifact, result_table
    from model.progress import shown_progress

    settings = load_settings()
    with shown_progress() as progress:
        result = evaluate_artifact(
            _load(args.log, settings),
            args.artifact or settings.artifact_path,
            max_labels=args.max_labels,
            resamples=args.resamples,
            seed=args.seed,
            progress=progress,
        )
    if args.json is not None:
        text = msgspec.json.format(msgspec.json.encode(result), indent=1)
        if args.json == "-":
            print(text.decode())
            return 0
        Path(args.json).write_bytes(text + b"\n")
    print(result_table(result), end="")
    drawn = "all" if args.max_labels is None else f"at most {args.max_labels}, drawn at random,"
    print(f"\n{drawn} labels per task of the last tenth of the log; {DERIVED}.")
    return 0


def _log_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log", nargs="?", default=MOVIELENS, help=f"{MOVIELENS} (default), or a folder that holds its files"
    )


def _load(log: str, settings: Settings) -> "Log":
    """The log at its own times: nothing that the model sees depends on the date, and the hours of the day stay true."""
    from streams.sources.movielens import load_movielens
    from streams.sources.movielens_files import movielens_folder

    return load_movielens(movielens_folder(settings.state_dir) if log == MOVIELENS else Path(log))
