"""The commands of this room: `dataset`, `train`, `evaluate`.

Enters: parsed arguments. Leaves: an exit code, and text or JSON on standard output. Called by `nowrank.cli`.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from infra.errors import BadInput
from infra.outputs import check_folder, prepare_file
from infra.settings import load_settings
from model.config import SWITCHES, Personalisation, TrainConfig, UnicornConfig
from model.log_arguments import (
    add_log_arguments,
    counted,
    from_zero,
    log_of,
    refuse_log_arguments,
    seed,
    share,
)
from model.served_commands import FROM_SERVED, SERVED, served_arguments, train_from_served


def dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank dataset`."""
    add_log_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="where the data set goes")
    parser.add_argument("--labels", type=counted, metavar="N", help="about N training examples (default: 30000)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draw of labels and negatives (default: 0)")
    parser.epilog = """examples:
  nowrank dataset --out built && nowrank train --dataset built
  nowrank dataset events.csv --type click --out built"""


def dataset(args: argparse.Namespace) -> int:
    """Replay a log into examples, as Parquet with a manifest."""
    from model.data_set import check_data_set_folder, write_data_set
    from model.progress import shown_progress
    from model.train import build_data_set

    check_data_set_folder(args.out)
    config = TrainConfig(seed=args.seed)
    if args.labels is not None:
        config = dataclasses.replace(config, train_labels=args.labels)
    log = log_of(args, load_settings())
    with shown_progress() as progress:
        manifest = write_data_set(build_data_set(log, config, progress), args.out)
    counts = ", ".join(f"{count:,} {part}" for part, count in manifest.counts.items())
    print(f"{args.out}: {counts} examples of {manifest.titles:,} titles, feature schema {manifest.schema_hash}")
    if manifest.derived:
        print(manifest.derived)
    return 0


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank train`."""
    add_log_arguments(parser)
    parser.add_argument(
        "--dataset", type=Path, metavar="FOLDER", help="train on what `nowrank dataset` wrote there; it takes no LOG"
    )
    served_arguments(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where the artifact goes (default: where the scorer looks for it)"
    )
    parser.add_argument(
        "--budget-s", type=from_zero, default=150.0, help="no training round begins that would end later (default: 150)"
    )
    parser.add_argument("--labels", type=counted, metavar="N", help="train on about N labels (default: 30000)")
    parser.add_argument(
        "--epochs", type=counted, metavar="N", help="look at them at most N times (default: 2, 3 with --from served)"
    )  # fmt: skip
    parser.add_argument(
        "--id-dropout", type=share, default=None, metavar="SHARE",
        help="so many of the titles go without their ids in each step, so that words and counts must do (default: as "
        "many as the middle part's titles are unknown to the training part, 0.1 to 0.9)",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--threads", type=counted, default=2, help="threads that torch may use (default: 2)")
    parser.add_argument(
        "--personalisation",
        choices=[stage.value for stage in Personalisation],
        default=Personalisation.FULL.value,
        help="what the model sees of the member, each with all before it: nothing, the cluster of the history, the "
        "scores of other recommenders, history and session themselves (default: full)",
    )
    parser.add_argument(
        "--without",
        action="append",
        choices=list(SWITCHES),
        default=[],
        metavar="PART",
        help=f"leave a part of the model out, to see what it is worth: {', '.join(SWITCHES)} (may be repeated)",
    )
    parser.add_argument(
        "--curve",
        type=Path,
        metavar="FOLDER",
        help="write the losses by epoch there: curve.json, curve.md and, with matplotlib, a plot",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="after each epoch write there what is needed to go on; where it stands already, go on from it",
    )
    parser.add_argument(
        "--history-encoder",
        metavar="RUN",
        help="begin the titles' vectors from those of a run of `nowrank train history LOG --part train`, of the same "
        "log (default: from co-vectors)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the artifact's card without its vocabulary, and the losses, as JSON"
    )
    parser.epilog = """the log is cut by time:
  80 % trains (the first quarter of it only warms the state up), 10 % decides when to stop, 10 % is left for `evaluate`

examples:
  nowrank data get movielens-100k && nowrank train
  nowrank train ~/ml-100k --out /models/today --labels 60000 --budget-s 900
  nowrank train events.parquet --items titles.jsonl
  nowrank dataset events.parquet --out built && nowrank train --dataset built
  nowrank train --dataset built --budget-s 3600 --checkpoint runs/today.safetensors  # stopped? the same again
  nowrank train --without crossing --without counts --out /models/plain
  nowrank train --personalisation clusters --out /models/cacheable
  nowrank train history --part train --out runs/hstu && nowrank train --history-encoder runs/hstu
  nowrank train --from served --out build/candidate && nowrank promote build/candidate"""


def train(args: argparse.Namespace) -> int:
    """Train UniCoRn on a log and write the artifact."""
    from model.data_set import read_data_set
    from model.learning_curve import write_curve
    from model.progress import shown_progress
    from model.train import report_json, train_on_data_set, train_on_log

    if args.dataset is not None:
        _check_data_set(args)
    settings = load_settings()
    out_dir = args.out or settings.artifact_path
    _check_outputs(args, out_dir)
    config = _train_config(args)
    if args.source == SERVED:
        _check_served(args)
        return train_from_served(args, config, settings)
    limits: dict[str, Any] = {"budget_s": args.budget_s, "checkpoint": args.checkpoint}
    with shown_progress() as progress:
        if args.dataset is not None:
            data = read_data_set(args.dataset)
            derived = data.derived
            report = train_on_data_set(data, out_dir, config=config, **limits, progress=progress)
        else:
            log = log_of(args, settings)
            derived = log.derived
            report = train_on_log(log, out_dir, config=config, **limits, progress=progress)
    if args.curve is not None:
        write_curve(report, args.curve)
    if args.json:
        print(report_json(report))
    else:
        card = report.card
        labels, epochs = card.training["labels"], card.training["epochs"]
        print(
            f"model {card.version} in {out_dir}: {labels:,} labels{f' ({derived})' if derived else ''}, {epochs} epochs"
        )
        loss = min(report.middle_losses)
        print(f"data set {report.data_s:.0f} s, training {report.fit_s:.0f} s, loss of the middle part {loss:.4f}")
    return 0


def _check_outputs(args: argparse.Namespace, out_dir: Path) -> None:
    """Raises `BadInput` where the artifact cannot be written, or what goes beside it: the curve, the checkpoint."""
    from model.artifact import check_artifact_folder

    check_artifact_folder(out_dir)
    for beside in (args.curve, args.checkpoint):
        if beside is not None and beside.resolve().is_relative_to(out_dir.resolve()):
            raise BadInput("not_empty", f"{out_dir} is to hold the artifact alone; name another place than {beside}")
    if args.curve is not None:
        check_folder(args.curve)
    if args.checkpoint is not None:
        prepare_file(args.checkpoint)


def _train_config(args: argparse.Namespace) -> TrainConfig:
    """What is asked for, and the defaults for the rest."""
    switched: dict[str, Any] = {SWITCHES[part]: False for part in args.without}
    sizes = UnicornConfig(personalisation=Personalisation(args.personalisation), **switched)
    optional = {"train_labels": args.labels, "epochs": args.epochs, "id_dropout": args.id_dropout}
    given = {name: value for name, value in optional.items() if value is not None}
    return TrainConfig(model=sizes, seed=args.seed, threads=args.threads, history_encoder=args.history_encoder, **given)


def _check_data_set(args: argparse.Namespace) -> None:
    """Refuse what cannot go with --dataset."""
    if args.labels is not None:
        raise BadInput(
            "invalid_field",
            f"--labels {args.labels} cannot be drawn from a data set, which has its labels already: leave it out, or "
            "build another one with `nowrank dataset --labels`",
        )
    refuse_log_arguments(args, "--dataset: it holds what was taken of its log")


def _check_served(args: argparse.Namespace) -> None:
    """Refuse what cannot go with --from served."""
    why = {
        "history_encoder": "it takes a log, and there is none to cut by time",
        "dataset": "it was built from a log of events; name the one or the other",
        "checkpoint": "the broker's log goes on meanwhile, so that no two such trainings have the same data",
        "labels": "it takes what the log of rankings holds",
    }
    for name, reason in why.items():
        if getattr(args, name) is not None:
            raise BadInput("invalid_field", f"--{name.replace('_', '-')} cannot go with --from {SERVED}: {reason}")
    refuse_log_arguments(args, FROM_SERVED)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank evaluate`."""
    add_log_arguments(parser)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--artifact", type=Path, metavar="FOLDER", help="the artifact (default: where the scorer looks for it)"
    )
    chosen.add_argument("--baselines", action="store_true", help="evaluate the baselines alone, without an artifact")
    parser.add_argument(
        "--max-labels",
        type=counted,
        metavar="N",
        help="test at most N labels of each task, drawn at random (default: all)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="200 labels of each task, or --max-labels, and of a long log only its newest part: minutes",
    )
    parser.add_argument(
        "--without-sasrec", action="store_true", help="leave out the one baseline that takes minutes to fit"
    )
    parser.add_argument(
        "--resamples", type=counted, default=2000, help="of the bootstrap behind the intervals (default: 2000)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draw and the bootstrap (default: 0)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="the result as JSON, to FILE or to standard output"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write result.json, result.md and, with matplotlib, a plot there"
    )
    parser.epilog = """every positive label of the log's last tenth, or of all that is newer than the artifact's middle
part, is scored from the state strictly before it; all titles that its user has not engaged yet are ranked; the
baselines are tuned on the tenth before

examples:
  nowrank evaluate
  nowrank evaluate --max-labels 1000 --json result.json
  nowrank evaluate plays.csv --items titles.jsonl --type play --map customer=user_id --quick
  nowrank evaluate clicks.parquet --baselines --hours 100 --out result"""


def evaluate(args: argparse.Namespace) -> int:
    """Evaluate an artifact, or the baselines alone, on the last part of a log."""
    from model.evaluate import Scope, evaluate_artifact
    from model.progress import shown_progress
    from model.report import check_outputs, preamble, put_json, result_table, slices_table, write_report

    settings = load_settings()
    check_outputs(args, args.out)
    log = log_of(args, settings)
    without = ("sasrec",) if args.quick or args.without_sasrec else ()
    scope = Scope(args.max_labels, args.resamples, args.seed, args.quick, without)
    with shown_progress() as progress:
        artifact_dir = None if args.baselines else args.artifact or settings.artifact_path
        result = evaluate_artifact(log, artifact_dir, scope, progress)
    if args.out is not None:
        write_report(result, args.out)
    if args.json is not None and put_json(result, args.json):
        return 0
    print(f"{result_table(result)}\n{slices_table(result)}\n{preamble(result)}", end="")
    return 0
