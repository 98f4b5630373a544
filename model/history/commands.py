"""The commands `train history` (an encoder is trained, tested, kept) and `evaluate history` (runs are compared).

Enters: parsed arguments. Leaves: a folder, figures, an exit code. Called by `nowrank.cli`.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput
from infra.outputs import check_folder, prepare_file
from infra.settings import load_settings
from model.history.config import EncoderConfig, TrainingConfig
from model.log_arguments import (
    above_zero,
    add_log_arguments,
    counted,
    from_zero,
    log_of,
    refuse_log_arguments,
    seed,
)
from model.manifests import indented

if TYPE_CHECKING:
    from model.history.histories import Histories

CORE = 5
ALL, TRAIN = "all", "train"


def train_history_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank train history`."""
    sizes, training = EncoderConfig(), TrainingConfig()
    add = parser.add_argument
    add_log_arguments(parser)
    add("--part", choices=[ALL, TRAIN], default=ALL, help="train: of the log only what `nowrank train` trains on, "
        "so that `--history-encoder` can begin from the run without a look ahead (default: all)")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FOLDER", help="the folder of the run")
    add("--join", type=Path, nargs="+", metavar="RUN", help="train nothing: put the encoders of these runs over "
        "the same data side by side, their scores added")  # fmt: skip
    add("--encoder", choices=["sasrec", "hstu"], default=sizes.encoder, help="(default: %(default)s)")
    add("--windows", choices=["on", "off"], default="off", help="train on sliding windows of the whole history, or on "
        "the newest engagements only (default: off)")  # fmt: skip
    add("--seed", type=seed, default=training.seed, help="seed of everything random (default: 0)")
    add("--budget-s", type=from_zero, default=1800.0, help="no epoch begins that would end after so much processor "
        "time (default: 1800)")  # fmt: skip
    add("--resume", action="store_true", help="go on with the run in FOLDER; its own configuration counts")
    add("--threads", type=counted, default=training.threads, help="threads that torch may use (default: 1)")
    add("--core", type=counted, default=CORE, help="leave out users and titles with fewer engagements (default: 5)")
    for name, text in (
        ("width", "of all vectors"), ("blocks", "layers"), ("heads", "of attention"), ("length", "places looked back"),
    ):  # fmt: skip
        add(f"--{name}", type=counted, default=getattr(sizes, name), help=f"{text} (default: %(default)s)")
    add("--dropout", type=float, default=sizes.dropout, help="(default: %(default)s)")
    add("--temperature", type=above_zero, help="score by cosine over this (default: by inner product)")
    add("--stochastic-length", type=above_zero, metavar="ALPHA", help="HSTU's alpha, at most 2 (default: off)")
    for name in ("epochs", "patience", "batch"):
        add(f"--{name}", type=counted, default=getattr(training, name), help="(default: %(default)s)")
    for name, number in (("learning-rate", above_zero), ("weight-decay", from_zero)):
        add(f"--{name}", type=number, default=getattr(training, name.replace("-", "_")), help="(default: %(default)s)")
    parser.epilog = """LOG may also be a folder with MovieLens in order, without times: ratings_ordered.tsv.gz;
each user's last engagement is the test, the one before it the validation, the rest trains;
the whole catalogue is ranked, less what the user has engaged with before; validation decides when to stop

examples:
  nowrank train history movielens-100k --part train --out runs/for-unicorn
  nowrank train history ~/ml-1m --encoder hstu --windows on --out runs/hstu
  nowrank train history ~/ml-1m --out runs/sasrec --resume --budget-s 3600
  nowrank train history ~/ml-1m --join runs/sasrec runs/hstu --out runs/both"""


def train_history(args: argparse.Namespace) -> int:
    """Train a history encoder, or go on training it, and test it."""
    from model.history.train import Order, join_and_test, train_and_test
    from model.progress import shown_progress

    check_folder(args.out)
    histories, before_ms = _histories(args)
    if args.join is not None:
        result = join_and_test(histories, args.join, args.out)
    else:
        order = Order(args.out, _config(vars(args)), args.budget_s, args.resume, before_ms)
        with shown_progress() as progress:
            result = train_and_test(histories, order, progress)
    found = result.test
    print(
        f"{args.out}: test HR@10 {found['hr10']:.4f}, NDCG@10 {found['ndcg10']:.4f} over {result.users:,} users and "
        f"{result.titles:,} titles, all ranked; epoch {result.best_epoch + 1} of {result.epochs}, "
        f"{result.cpu_s:.0f} s of processor time"
    )
    return 0


def _histories(args: argparse.Namespace) -> "tuple[Histories, int | None]":
    """The histories, and before when of the log's own time they end if they were cut."""
    from model.examples import split_by_time
    from model.history.histories import MOVIELENS_FILE, histories_of_log, load_movielens_order

    if os.path.isfile(Path(args.log) / MOVIELENS_FILE):  # False too where nobody may look: `log_of` says so
        if args.part == TRAIN:
            raise BadInput("no_times", f"{args.log} holds an order without times, so no part by time: --part {ALL}")
        refuse_log_arguments(args, f"{args.log}, which holds an order without times", log_is_read=True)
        return load_movielens_order(Path(args.log), args.core), None
    log = log_of(args, load_settings())
    if args.part == ALL or not log.labels:
        return histories_of_log(log, args.core), None
    end_ms = split_by_time(log).train_end_ms
    return histories_of_log(log, args.core, end_ms), end_ms - log.shift_ms


def _config(given: dict[str, Any]) -> TrainingConfig:
    sizes = {name: given[name] for name in EncoderConfig.__struct_fields__ if name not in ("timed", "parts")}
    rest = {name: given[name] for name in TrainingConfig.__struct_fields__ if name not in ("model", "windows")}
    return TrainingConfig(model=EncoderConfig(**sizes), windows=given["windows"] == "on", **rest)


def evaluate_history_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank evaluate history`."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs; the first is the base")
    parser.add_argument("--part", choices=["validation", "test"], default="test", help="hyper-parameters are chosen on "
        "validation, claims are made on test (default: test)")  # fmt: skip
    parser.add_argument("--resamples", type=counted, default=2000, help="of the bootstrap over users (default: 2000)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON too")
    parser.epilog = """examples:
  nowrank evaluate history runs/sasrec runs/hstu --json encoders.json"""


def evaluate_history(args: argparse.Namespace) -> int:
    """Compare runs user by user."""
    from model.history.compare import compare_runs, comparison_table

    if args.json is not None:
        prepare_file(args.json)
    compared = compare_runs(args.runs, args.part, args.resamples, args.seed)
    if args.json is not None:
        args.json.write_bytes(indented(compared) + b"\n")
    print(comparison_table(compared), end="")
    return 0
