"""The commands `train history` (an encoder is trained, tested, kept) and `evaluate history` (runs are compared).

Enters: parsed arguments. Leaves: a folder, figures, an exit code. Called by `nowrank.cli`.
"""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from model.history.config import EncoderConfig, TrainingConfig

CORE = 5


def train_history_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank train history`."""
    sizes, training = EncoderConfig(), TrainingConfig()
    add = parser.add_argument
    add("data", type=Path, help="a folder with MovieLens in order: ratings_ordered.tsv.gz")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the folder of the run")
    add("--encoder", choices=["sasrec", "hstu"], default=sizes.encoder, help="(default: %(default)s)")
    add("--windows", choices=["on", "off"], default="off", help="train on sliding windows of the whole history, or on "
        "the newest engagements only (default: off)")  # fmt: skip
    add("--seed", type=int, default=training.seed, help="seed of everything random (default: 0)")
    add("--budget-s", type=float, default=1800.0, help="no epoch begins that would end after so much processor time "
        "(default: 1800)")  # fmt: skip
    add("--resume", action="store_true", help="go on with the run in FOLDER; its own configuration counts")
    add("--threads", type=int, default=training.threads, help="threads that torch may use (default: 1)")
    add("--core", type=int, default=CORE, help="leave out users and titles with fewer engagements (default: 5)")
    for name, text in (
        ("width", "of all vectors"), ("blocks", "layers"), ("heads", "of attention"), ("length", "places looked back"),
    ):  # fmt: skip
        add(f"--{name}", type=int, default=getattr(sizes, name), help=f"{text} (default: %(default)s)")
    add("--dropout", type=float, default=sizes.dropout, help="(default: %(default)s)")
    add("--temperature", type=float, help="score by cosine over this (default: by inner product)")
    add("--stochastic-length", type=float, metavar="ALPHA", help="HSTU's alpha, at most 2 (default: off)")
    for name in ("epochs", "patience", "batch"):
        add(f"--{name}", type=int, default=getattr(training, name), help="(default: %(default)s)")
    for name in ("learning-rate", "weight-decay"):
        add(f"--{name}", type=float, default=getattr(training, name.replace("-", "_")), help="(default: %(default)s)")
    parser.epilog = """each user's last engagement is the test, the one before it the validation, the rest trains;
the whole catalogue is ranked, less what the user has engaged with before; validation decides when to stop

examples:
  nowrank train history ~/ml-1m --encoder hstu --windows on --out runs/hstu
  nowrank train history ~/ml-1m --out runs/sasrec --resume --budget-s 3600"""


def train_history(args: argparse.Namespace) -> int:
    """Train a history encoder, or go on training it, and test it."""
    from model.history.histories import load_movielens_order
    from model.history.train import Order, train_and_test
    from model.progress import shown_progress

    order = Order(args.out, _config(vars(args)), args.budget_s, args.resume)
    with shown_progress() as progress:
        result = train_and_test(load_movielens_order(args.data, args.core), order, progress)
    found = result.test
    print(
        f"{args.out}: test HR@10 {found['hr10']:.4f}, NDCG@10 {found['ndcg10']:.4f} over {result.users:,} users and "
        f"{result.titles:,} titles, all ranked; epoch {result.best_epoch + 1} of {result.epochs}, "
        f"{result.cpu_s:.0f} s of processor time"
    )
    return 0


def _config(given: dict[str, Any]) -> TrainingConfig:
    sizes = {name: given[name] for name in EncoderConfig.__struct_fields__ if name != "timed"}
    rest = {name: given[name] for name in TrainingConfig.__struct_fields__ if name not in ("model", "windows")}
    return TrainingConfig(model=EncoderConfig(**sizes), windows=given["windows"] == "on", **rest)


def evaluate_history_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank evaluate history`."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs; the first is the base")
    parser.add_argument("--part", choices=["validation", "test"], default="test", help="hyper-parameters are chosen on "
        "validation, claims are made on test (default: test)")  # fmt: skip
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap over users (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON too")
    parser.epilog = """examples:
  nowrank evaluate history runs/sasrec runs/hstu --json encoders.json"""


def evaluate_history(args: argparse.Namespace) -> int:
    """Compare runs user by user."""
    from model.history.compare import compare_runs, comparison_table

    compared = compare_runs(args.runs, args.part, args.resamples, args.seed)
    if args.json is not None:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(compared), indent=1) + b"\n")
    print(comparison_table(compared), end="")
    return 0
