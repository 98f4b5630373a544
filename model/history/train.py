"""Training from histories to the folder of a run.

Enters: `Histories` and an `Order`. Leaves: the folder (see `run_folder.py`) and a `Result`. Called by `nowrank train
history`.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from infra.errors import BadInput
from model.history.config import TrainingConfig
from model.history.fit import Run, fit, new_run
from model.history.histories import Histories, leave_one_out
from model.history.ranking import ranks_of
from model.history.run_folder import (
    CHECKPOINT,
    EncoderCard,
    Result,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_encoder,
    save_result,
)
from model.progress import Progress
from model.ranking_metrics import summarise


@dataclass(frozen=True, slots=True)
class Order:
    """What to train, where, and for how long."""

    folder: Path
    config: TrainingConfig
    budget_s: float
    resume: bool


def train_and_test(histories: Histories, order: Order, progress: Progress) -> Result:
    """Train on all but two engagements of each user, rank the last, write it all to the folder."""
    split, name = leave_one_out(histories), histories.fingerprint()
    run = _resumed(order, name) if order.resume else _begun(order, histories)
    fit(run, split, order.budget_s, lambda now: save_checkpoint(order.folder, now, name), progress)
    save_encoder(order.folder, run, EncoderCard(run.config, name, histories.titles))
    best, _ = load_encoder(order.folder)
    ranks = {
        "validation": ranks_of(best, split.train, split.validation_U),
        "test": ranks_of(best, split.before_test, split.test_U),
    }
    result = Result(
        config=run.config, histories=name, users=len(histories.users), titles=len(histories.titles),
        epochs=len(run.curve), best_epoch=run.best_epoch, cpu_s=run.spent_s,
        validation=summarise(ranks["validation"]), test=summarise(ranks["test"]),
    )  # fmt: skip
    save_result(order.folder, result, ranks)
    return result


def _resumed(order: Order, name: str) -> Run:
    run, seen = load_checkpoint(order.folder)
    if seen != name:
        raise BadInput(
            "other_histories",
            f"the run in {order.folder} saw histories {seen}, these are {name}; give the same data and --core",
        )
    return run


def _begun(order: Order, histories: Histories) -> Run:
    if (order.folder / CHECKPOINT).exists():
        raise BadInput("folder_in_use", f"{order.folder} holds a run; go on with --resume, or give another --out")
    sizes = msgspec.structs.replace(order.config.model, timed=histories.times_N is not None)
    return new_run(msgspec.structs.replace(order.config, model=sizes), len(histories.titles))
